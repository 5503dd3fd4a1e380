"""Which recipe params.yaml was written from: its text, those that it extends, and the overrides.

Beside params.yaml in .juicer/origin.json, for `register` to keep with a version. No stage reads it. It counts only as
long as params.yaml is as it was written. A copy of params.yaml as it was written lies there too, to undo edits.
"""

from collections.abc import Sequence
from pathlib import Path

from juicer.runtime.errors import InputError
from juicer.runtime.files import md5_of_file, read_json, read_yaml, replace_text
from juicer.settings.base import Settings

PLACE, WRITTEN = Path(".juicer/origin.json"), Path(".juicer/params.yaml")


class Origin(Settings):
    """What a params.yaml was written from."""

    params_md5: str
    """md5 of params.yaml as it was written."""
    recipes: dict[str, str]
    """Path to text: the recipe first, then those that it extends."""
    overrides: list[str]
    """In the order in which they were given, by one or more `juicer use`."""
    tiny: bool


def origin_of(params: Path) -> Origin | None:
    """What `params` was written from; None if that is not known, or it was edited since."""
    try:
        place = params.parent / PLACE
        origin = Origin.parse(read_json(place), str(place))
        return origin if origin.params_md5 == md5_of_file(params) else None
    except (OSError, InputError):
        return None


def written_from(path: Path, overrides: Sequence[str], tiny: bool, params: Path, before: Origin | None) -> None:
    """Note that `params` has just been written.

    Args:
        path: the recipe; `params` itself for a change of the active one.
        before: what `params` was written from until now.
    """
    place = params.parent / PLACE
    replace_text(params.parent / WRITTEN, params.read_text(encoding="utf-8"))
    recipes, earlier = (texts_of(path), list[str]()) if path.resolve() != params.resolve() else ({}, [])
    if not recipes:
        if before is None:
            place.unlink(missing_ok=True)
            return
        recipes, earlier, tiny = before.recipes, before.overrides, tiny or before.tiny
    origin = Origin(params_md5=md5_of_file(params), recipes=recipes, overrides=[*earlier, *overrides], tiny=tiny)
    replace_text(place, origin.model_dump_json(indent=1) + "\n")


def texts_of(path: Path) -> dict[str, str]:
    """The text of a valid recipe and of those that it extends, by path."""
    found: dict[str, str] = {}
    name: str | None = path.name
    while name is not None and str(path.parent / name) not in found:
        place = path.parent / name
        found[str(place)] = place.read_text(encoding="utf-8")
        path, name = place, read_yaml(place).get("extends")
    return found
