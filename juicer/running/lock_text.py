"""dvc.lock as text, one block per stage, so that the entry of one stage can be written without reading the others.

DVC parses and writes the whole file after each stage, by a parser that keeps comments, which takes a second or more
from forty stages on. Whatever is not in the shape that DVC gives the file is left to DVC.
"""

import errno
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from juicer.runtime.files import read_yaml, replace_text

ORDER = Path(".juicer/align.order.json")
"""The entries of dvc.lock at the start of a run whose stages end in any order."""
HEAD = "schema: '2.0'\nstages:\n"
BLOCK = re.compile(r"^  ([A-Za-z_][\w.@-]*):\n((?:    .*\n|\n)+)", re.MULTILINE)
RESERVED = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
"""Names that YAML takes for values in some of its versions, so that they may be written in quotes."""
SPECIAL = re.compile(r"\s#|(?:^|[\s\[{,])[&*!][\w<]|\x85", re.MULTILINE)
"""Comments, anchors, aliases and tags, which belong to more than one entry or are kept only by DVC's own parser, and a
character that it does not read back."""


class NotPlain(ValueError):
    """The text is not what DVC writes for stages alone, so it has to be changed by DVC."""


def blocks_of(text: str) -> dict[str, str]:
    """The text of each stage's entry in dvc.lock, with its name, by that name and in the order of the file.

    Raises:
        NotPlain: the text is of another shape.
    """
    if not text:
        return {}
    if not text.startswith(HEAD) or SPECIAL.search(text):
        raise NotPlain
    blocks, end = dict[str, str](), len(HEAD)
    for found in BLOCK.finditer(text, end):
        if found.start() != end or found[1] in blocks or found[1].lower() in RESERVED:
            raise NotPlain
        blocks[found[1]], end = found[0], found.end()
    if end != len(text) or not blocks:
        raise NotPlain
    return blocks


class Known:
    """The blocks of the text that was written last, so that a long text is not cut anew after each stage."""

    def __init__(self) -> None:
        self._text, self._blocks = "", dict[str, str]()

    def blocks_of(self, text: str) -> dict[str, str]:
        """As the function `blocks_of`, which is asked unless the text is the remembered one."""
        return dict(self._blocks) if text == self._text else blocks_of(text)

    def remember(self, text: str, blocks: Mapping[str, str]) -> None:
        """Remember that `text` consists of `blocks`, each of which is known to be plain."""
        self._text, self._blocks = text, dict(blocks)


def joined(blocks: Iterable[str]) -> str:
    """The text of a dvc.lock of these blocks."""
    return HEAD + "".join(blocks)


def block_of(name: str, entry: Mapping[str, Any], yaml: YAML) -> str:
    """The block that DVC writes for an entry, now and whenever it writes the file again.

    Args:
        yaml: DVC's own writer.

    Raises:
        NotPlain: DVC would write the entry in another way, in this file or the next time.
    """
    text = _dumped({"schema": "2.0", "stages": {name: entry}}, yaml)
    blocks = blocks_of(text)
    if list(blocks) != [name] or _dumped(YAML().load(text), yaml) != text:
        raise NotPlain
    return blocks[name]


def entry_of(block: str) -> Any:
    """The entry of a block, as DVC reads it before it changes it."""
    (entry,) = YAML().load(block).values()
    return entry


def _dumped(values: Any, yaml: YAML) -> str:
    text = StringIO()
    yaml.dump(values, text)
    return text.getvalue()


def replace_lock(lock: Path, text: str) -> None:
    """Write dvc.lock by an atomic rename, under DVC's lock of the repository.

    What a kill leaves of it lies among DVC's temporary files, which git ignores, and is overwritten by the next write.
    """
    folder = lock.parent / ".dvc/tmp"
    if not folder.is_dir():
        replace_text(lock, text)
        return
    new = folder / f"{lock.name}.new"
    new.write_text(text, encoding="utf-8")
    try:
        new.replace(lock)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        replace_text(lock, text)  # .dvc/tmp is on another disk


@contextmanager
def order_of_lock(order: Sequence[str], lock: Path, record: Path) -> Iterator[None]:
    """Leave the entries of dvc.lock in the order in which `dvc repro` would have made them.

    DVC adds the entry of a new stage when the stage ends, so of two concurrent stages the faster one would come first.
    The entries at the start are recorded in a file, so that the next run repairs the order after a killed one.

    Args:
        order: names of the stages as `dvc repro` would run them.
        lock: path of dvc.lock; nobody else may write it when the block ends.
        record: path of the file with the names at the start.
    """
    before = set(_recorded(lock, record))
    try:
        yield
    finally:
        found = _names(lock)
        new = sorted((name for name in found if name not in before), key=[*order, *found].index)
        wanted = [name for name in found if name in before] + new
        if wanted != found:
            _reorder(lock, wanted)
        record.unlink(missing_ok=True)


def _recorded(lock: Path, record: Path) -> list[str]:
    """The entries of dvc.lock at the start, as recorded by a run that was killed, or else recorded now."""
    with suppress(FileNotFoundError, ValueError):  # no record, or one cut short by a crash of the machine
        return [str(name) for name in json.loads(record.read_text(encoding="utf-8"))]
    names = _names(lock)
    replace_text(record, json.dumps(names))
    return names


def _names(lock: Path) -> list[str]:
    if not lock.is_file():
        return []
    try:
        return list(blocks_of(lock.read_text(encoding="utf-8")))
    except NotPlain:
        return list(read_yaml(lock).get("stages", {}))


def _reorder(lock: Path, wanted: Sequence[str]) -> None:
    try:
        blocks = blocks_of(lock.read_text(encoding="utf-8"))
        replace_lock(lock, joined(blocks[name] for name in wanted))
    except NotPlain:
        from dvc.utils.serialize import modify_yaml

        # By DVC's own reader and writer, so that the bytes are those that DVC writes.
        with modify_yaml(str(lock)) as content:
            content["stages"] = {name: content["stages"][name] for name in wanted}
