"""The folder that a flow works in: one flow at a time, the recipe that is active there, the order of its dvc.lock."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pydantic import BaseModel, ValidationError

from flows.forecast import mend_in_use
from juicer.recipe.activation import activate, dump, load
from juicer.recipe.checks import validate
from juicer.recipe.origin import PLACE
from juicer.running import lock_text
from juicer.runtime.errors import InputError, did_you_mean
from juicer.runtime.files import read_yaml, replace_text
from juicer.stages.damage import remove_damage
from juicer.stages.dvc_files import keep_lock, mend_lock
from juicer.stages.git import changed_files
from juicer.stages.workspace import holder

ACTIVE = "active"
PARAMS, LOCK = Path("params.yaml"), Path("dvc.lock")
ORDER = lock_text.ORDER
BEFORE = Path(".juicer/before_run.json")
"""What a run has replaced, for as long as it runs: a killed run leaves it for the next one."""


class Before(BaseModel):
    """The active recipe before a run replaced it."""

    params: str
    """Text of params.yaml."""
    origin: str | None
    """Text of .juicer/origin.json; None where there was none."""
    run: str
    """Text of params.yaml as the run wrote it."""


def recipes() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in (Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))


def prepare(say: Callable[[str], object]) -> None:
    """Mend DVC's files that a kill or a full disk left cut short, before anything reads them.

    The folder has to be held, as for `discard_damage`.

    Args:
        say: told what was mended.
    """
    mend_in_use()
    if line := mend_lock():
        say(line)
    keep_lock()


def discard_damage(say: Callable[[str], object]) -> None:
    """Remove damaged outputs of the active recipe, and untrue entries of dvc.lock, so that they are made again.

    Args:
        say: told what was removed.
    """
    for line in remove_damage(read_yaml(PARAMS)):
        say(line)


def last_user() -> str:
    """An id of the command that holds this folder, unique to that run and folder; empty if nobody does."""
    who = holder()
    return who.token if who else ""


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


def recipe_path(recipe: str) -> Path:
    """The file of a recipe, a name in recipes/ or `active`."""
    if recipe == ACTIVE:
        return PARAMS
    # The name comes from a form: it must not lead anywhere else.
    if recipe not in {path.stem for path in Path("recipes").glob("*.yaml")}:
        raise InputError(f"no recipe {recipe!r} in recipes/", do=did_you_mean(recipe, recipes(), cutoff=0.3))
    return Path("recipes", f"{recipe}.yaml")


def activate_recipe(recipe: str, overrides: Sequence[str]) -> str:
    """Write params.yaml for a recipe, a name in recipes/ or `active`; returns the recipe's own name."""
    path = recipe_path(recipe)
    if recipe != ACTIVE or overrides:
        activate(path, list(overrides), PARAMS)
    return validate(read_yaml(PARAMS), str(PARAMS)).name


@contextmanager
def activated(recipe: str, overrides: Sequence[str], say: Callable[[str], object]) -> Iterator[str]:
    """Make a recipe active for a run; gives its own name. If the run is cancelled, what was active before is again.

    A run that ends by itself, also by failing, leaves its recipe active, for a look at what it did. The folder has to
    be held, as for `discard_damage`.

    Args:
        recipe: a name in recipes/, or `active`.
        overrides: changes to it.
        say: told when params.yaml is put back.
    """
    before = _read_active() if recipe != ACTIVE or overrides else None
    name = activate_recipe(recipe, overrides)
    if before is not None:
        params, origin = before
        noted = Before(params=params, origin=origin, run=PARAMS.read_text(encoding="utf-8"))
        replace_text(BEFORE, noted.model_dump_json())
    try:
        yield name
    except Exception:
        BEFORE.unlink(missing_ok=True)
        raise
    except BaseException:  # Ctrl-C, or Prefect's signal to end
        put_back(say)
        raise
    BEFORE.unlink(missing_ok=True)


def put_back(say: Callable[[str], object]) -> None:
    """Put back what a run has replaced that did not end, unless params.yaml was changed since.

    Rounds that the run found (`rounds: auto`) are no such change.
    """
    try:
        before = Before.model_validate_json(BEFORE.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        BEFORE.unlink(missing_ok=True)
        return
    if _without_graph(PARAMS.read_text(encoding="utf-8")) == _without_graph(before.run):
        if before.params != PARAMS.read_text(encoding="utf-8"):
            say(f"{PARAMS} is again as it was before the run that did not end")
        replace_text(PARAMS, before.params)
        if before.origin is None:
            PLACE.unlink(missing_ok=True)
        else:
            replace_text(PLACE, before.origin)
    BEFORE.unlink(missing_ok=True)


def _read_active() -> tuple[str, str | None] | None:
    """The texts of params.yaml and of its origin; None if there is no params.yaml."""
    if not PARAMS.is_file():
        return None
    return PARAMS.read_text(encoding="utf-8"), PLACE.read_text(encoding="utf-8") if PLACE.is_file() else None


def _without_graph(params: str) -> str:
    """params.yaml up to the graph, which comes last."""
    return params.partition("\ngraph:\n")[0]


def params_on_trial(recipe: str, overrides: Sequence[str]) -> str:
    """The text of params.yaml with which `activate_recipe` would go on."""
    path = recipe_path(recipe)
    if recipe == ACTIVE and not overrides:
        validate(read_yaml(PARAMS), str(PARAMS))
        return PARAMS.read_text(encoding="utf-8")
    return dump(*load(path, list(overrides), active=PARAMS))


def order_of_lock(order: Sequence[str]) -> AbstractContextManager[None]:
    """Leave dvc.lock's entries in the order in which `dvc repro` would have made them.

    Args:
        order: names of the stages as `dvc repro` would run them.
    """
    return lock_text.order_of_lock(order, LOCK, ORDER)
