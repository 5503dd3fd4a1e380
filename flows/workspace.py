"""The folder that a flow works in: one flow at a time, the recipe that is active there, the order of its dvc.lock."""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from flows.forecast import reading
from juicer.recipe.activation import activate
from juicer.recipe.checks import validate
from juicer.runtime.errors import InputError, did_you_mean
from juicer.runtime.files import read_yaml, replace_text
from juicer.stages.git import changed_files

ACTIVE = "active"
PARAMS, LOCK = Path("params.yaml"), Path("dvc.lock")
IN_USE, USER, ORDER = Path(".juicer/align.lock"), Path(".juicer/align.user"), Path(".juicer/align.order.json")


def recipes() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in (Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))


@contextmanager
def sole_user(wait: bool = False) -> Iterator[None]:
    """Allow one flow at a time in this folder: refuse or wait. The system frees the lock however this process ends."""
    IN_USE.parent.mkdir(exist_ok=True)
    try:
        held = FileLock(IN_USE).acquire(blocking=wait)
    except Timeout as error:
        what = f"another align is running in this folder (process {last_user().partition(' ')[0]})"
        raise InputError(what, where=str(Path.cwd()), do="wait for it or cancel it") from error
    with held:
        replace_text(USER, f"{os.getpid()} {uuid.uuid4().hex}")
        yield


def last_user() -> str:
    """An id of the flow that holds this folder, or held it last: unique to that run and folder."""
    return USER.read_text(encoding="utf-8") if USER.is_file() else ""


def check_clean(except_for: Sequence[str] = ()) -> None:
    """Raise InputError if git reports uncommitted changes."""
    try:
        changed = [path for path in changed_files() if path not in except_for]
    except InputError as error:
        raise InputError("not a git checkout", where=str(Path.cwd()), do="leave out require_clean") from error
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
def params_restored() -> Iterator[None]:
    """Restore params.yaml after the block, so that it can try another recipe."""
    before = PARAMS.read_bytes() if PARAMS.is_file() else None
    try:
        yield
    finally:
        if before is None:
            PARAMS.unlink(missing_ok=True)
        elif PARAMS.read_bytes() != before:
            PARAMS.write_bytes(before)


@contextmanager
def recipe_on_trial(recipe: str, overrides: Sequence[str]) -> Iterator[None]:
    """Make a recipe active inside the block only, to see what it would run."""
    with params_restored():
        activate_recipe(recipe, overrides)
        yield


@contextmanager
def order_of_lock(order: Sequence[str]) -> Iterator[None]:
    """Leave dvc.lock's entries in the order in which `dvc repro` would have made them.

    DVC adds the entry of a new stage when the stage ends, so of two concurrent stages the faster one would come first.
    The entries at the start are recorded in a file, so that the next run repairs the order after a killed one.

    Args:
        order: names of the stages as `dvc repro` would run them.
    """
    before = set(_recorded())
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


def _recorded() -> list[str]:
    """The entries of dvc.lock at the start, as recorded by a run that was killed, or else recorded now."""
    with suppress(FileNotFoundError, ValueError):  # no record, or one cut short by a crash of the machine
        return [str(name) for name in json.loads(ORDER.read_text(encoding="utf-8"))]
    entries = _entries()
    ORDER.parent.mkdir(exist_ok=True)
    replace_text(ORDER, json.dumps(entries))
    return entries


def _entries() -> list[str]:
    return list(read_yaml(LOCK).get("stages", {})) if LOCK.is_file() else []


def _reorder(wanted: Sequence[str]) -> None:
    from dvc.utils.serialize import modify_yaml

    # By DVC's own reader and writer, so that the bytes are those that DVC writes.
    with modify_yaml(str(LOCK)) as content:
        content["stages"] = {name: content["stages"][name] for name in wanted}
