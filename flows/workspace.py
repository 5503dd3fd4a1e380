"""The folder that a flow works in: one flow at a time, the recipe that is active there, the order of its dvc.lock."""

import fcntl
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from flows.forecast import reading
from juicer.recipe.activation import activate
from juicer.recipe.checks import validate
from juicer.runtime.errors import InputError, did_you_mean
from juicer.runtime.files import read_yaml
from juicer.stages.git import changed_files

ACTIVE = "active"
PARAMS, LOCK = Path("params.yaml"), Path("dvc.lock")
IN_USE, ORDER = Path(".juicer/align.lock"), Path(".juicer/align.order.json")


def recipes() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in (Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))


@contextmanager
def sole_user(wait: bool = False) -> Iterator[None]:
    """Keep a second flow out of this folder, or wait for the first; freed by the system, however this process ends."""
    IN_USE.parent.mkdir(exist_ok=True)
    with IN_USE.open("a+", encoding="utf-8") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            held.seek(0)
            raise InputError(
                f"another align is at work in this folder (process {held.read().partition(' ')[0]})",
                where=str(Path.cwd()),
                do="wait for it or cancel it",
            ) from error
        held.truncate(0)
        held.write(f"{os.getpid()} {uuid.uuid4().hex}")
        held.flush()
        yield


def last_user() -> str:
    """Who has, or last had, this folder to itself: different for every time and every folder."""
    return IN_USE.read_text(encoding="utf-8") if IN_USE.is_file() else ""


def check_clean(except_for: Sequence[str] = ()) -> None:
    """InputError where git sees changes that are not committed."""
    try:
        changed = [path for path in changed_files() if path not in except_for]
    except InputError as error:
        raise InputError("not a git checkout", where=str(Path.cwd()), do="do not require it to be clean") from error
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise InputError(
            f"uncommitted changes: {', '.join(changed[:3])}{more}",
            where=str(Path.cwd()),
            do="commit or stash them; this run requires a clean workspace",
        )


def activate_recipe(recipe: str, overrides: Sequence[str]) -> str:
    """Write params.yaml for a recipe, a name in recipes/ or `active`; returns the recipe's own name."""
    if recipe != ACTIVE and not Path("recipes", f"{recipe}.yaml").is_file():
        raise InputError(f"no recipe {recipe!r} in recipes/", do=did_you_mean(recipe, recipes(), cutoff=0.3))
    if recipe != ACTIVE or overrides:
        activate(PARAMS if recipe == ACTIVE else Path("recipes", f"{recipe}.yaml"), list(overrides), PARAMS)
    return validate(read_yaml(PARAMS), str(PARAMS)).name


@contextmanager
def recipe_on_trial(recipe: str, overrides: Sequence[str]) -> Iterator[None]:
    """A recipe is active only inside: for a look at what it would run."""
    before = PARAMS.read_bytes() if PARAMS.is_file() else None
    try:
        activate_recipe(recipe, overrides)
        yield
    finally:
        if before is None:
            PARAMS.unlink(missing_ok=True)
        elif PARAMS.read_bytes() != before:
            PARAMS.write_bytes(before)


@contextmanager
def order_of_lock(order: Sequence[str]) -> Iterator[None]:
    """Leave dvc.lock's entries in the order in which `dvc repro` would have made them.

    DVC adds the entry of a new stage when the stage ends; of stages that run at the same time the quicker one would
    come first. What stood in the file before is noted in a file, so that a run that was killed is mended by the next.

    Args:
        order: names of the stages as `dvc repro` would run them.
    """
    before = set(_noted())
    try:
        yield
    finally:
        with reading():
            found = _entries()
            new = sorted((name for name in found if name not in before), key=[*order, *found].index)
            wanted = [name for name in found if name in before] + new
            if wanted != found:
                _reorder(wanted)
        ORDER.unlink()


def _noted() -> list[str]:
    """What stood in dvc.lock before, as a run that was killed has noted it, or else noted now."""
    with suppress(FileNotFoundError, ValueError):  # half a file: the machine went down while it was written
        return [str(name) for name in json.loads(ORDER.read_text(encoding="utf-8"))]
    entries, half = _entries(), ORDER.with_suffix(".part")
    ORDER.parent.mkdir(exist_ok=True)
    half.write_text(json.dumps(entries), encoding="utf-8")
    half.replace(ORDER)
    return entries


def _entries() -> list[str]:
    return list(read_yaml(LOCK).get("stages", {})) if LOCK.is_file() else []


def _reorder(wanted: Sequence[str]) -> None:
    from dvc.utils.serialize import modify_yaml

    # DVC's own reader and writer, so that the bytes are those that it would write.
    with modify_yaml(str(LOCK)) as content:
        content["stages"] = {name: content["stages"][name] for name in wanted}
