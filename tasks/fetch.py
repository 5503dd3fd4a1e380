"""Stage fetch: read the demonstrations of all sources into the project's schema, and record what became of every row.

A source is the quickstart's world, a local file, folder or glob, several of them, or a Hugging Face dataset at a pinned
commit.
"""

import argparse
import hashlib
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from juicer.data.demonstrations import Demonstration, opening_hash
from juicer.runtime.errors import InputError
from juicer.runtime.files import md5_of_file, write_json
from juicer.settings.sources import WORLD, FetchSettings, Source
from juicer.settings.world import WorldSettings
from juicer.sources import mixture
from juicer.sources.files import Row, Unreadable, is_path, listing_of, rows_of_source
from juicer.sources.formats import LeftOut, Reader
from juicer.sources.hub import split_of
from juicer.sources.provenance import FileRecord, Losses, SourceRecord
from juicer.stages.stage import Stage, main

BUFFER = 1 << 20
"""Bytes that are written at a time."""
KEYS = 6
"""Keys that were not read that the result line names."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("data/raw"), help="folder to write, default data/raw")


def run(stage: Stage) -> str:
    settings = stage.read("fetch", FetchSettings)
    losses = Losses()
    if settings.is_world:
        sources: list[SourceFetch] = [WorldFetch(_world(stage), settings, losses)]
    else:
        sources = [SourceFetch(each, settings, losses) for each in settings.sources]
    with stage.publish(stage.arguments.out) as out:
        out.mkdir()
        with (out / "demonstrations.jsonl").open("wb", buffering=BUFFER) as file:
            writer = Writer(file)
            if sources[0].source.weight is None:
                write_all(writer, sources)
            else:
                _write_mixture(writer, sources, out)
        _refuse_if_unusable(sources, losses, settings)
        _refuse_if_held_out(writer, sources[0].source.path)
        write_json(out / "provenance.json", _described(settings, sources, losses, writer))
    for line in losses.lines():
        print(f"warning: {line}", file=sys.stderr)
    stage.record(rows=writer.rows)
    return _result(sources, losses, writer)


class SourceFetch:
    """Reads one source, and counts.

    Args:
        source: the source.
        settings: of the stage.
        losses: counts the rows that are left out, of all sources.
    """

    def __init__(self, source: Source, settings: FetchSettings, losses: Losses) -> None:
        self.source, self.settings, self.losses = source, settings, losses
        self.reader = Reader(source.reading)
        self.files: list[FileRecord] = []
        self.ignored: Counter[str] = Counter()
        """Files of a folder that are not read, by type."""
        self.demonstrations = 0
        self._by_dialogue = any(each.reading.exchange == "all" for each in settings.sources)
        self.used: int | None = None
        """Demonstrations in the mixture; None if all are."""

    @property
    def rows(self) -> int:
        """Rows that were read so far."""
        return self.reader.rows

    def __iter__(self) -> Iterator[Demonstration]:
        for rows in self._files():
            for each in self.reader.convert(rows):
                if isinstance(each, LeftOut):
                    self.losses.add(each)
                else:
                    self.demonstrations += 1
                    yield self._split_with_others(each)

    def _split_with_others(self, row: Demonstration) -> Demonstration:
        """The row as it is split: by its dialogue, if the rows of any source are, so that no prompt is split twice."""
        if row.dialogue or not self._by_dialogue:
            return row
        return row.model_copy(update={"dialogue": opening_hash(row.prompt)})

    def _files(self) -> Iterator[Iterable[Row | Unreadable]]:
        path = self.source.path
        if not is_path(path):
            yield _hub_rows(path, self.settings)
            return
        self.ignored = listing_of(path, among_others=self.source.among_others).ignored
        for file, rows in rows_of_source(path, among_others=self.source.among_others):
            before = self.rows
            yield rows
            md5 = md5_of_file(file.path)
            record = FileRecord(name=file.name, md5=md5, rows=self.rows - before, held_out=file.word)
            self.files.append(record)

    def record(self) -> SourceRecord:
        """What was read."""
        return SourceRecord(
            path=self.source.path,
            format=self.reader.format or "unknown",
            rows=self.rows,
            demonstrations=self.demonstrations,
            weight=self.source.weight,
            used=self.demonstrations if self.used is None else self.used,
            unread=dict(self.reader.unread.most_common()),
            files=self.files,
            ignored=dict(sorted(self.ignored.items())),
        )


class WorldFetch(SourceFetch):
    """Takes the quickstart's demonstrations, which need no conversion."""

    def __init__(self, rows: Iterable[Demonstration], settings: FetchSettings, losses: Losses) -> None:
        super().__init__(settings.sources[0], settings, losses)
        self._made = rows
        self.reader.format = WORLD

    def __iter__(self) -> Iterator[Demonstration]:
        for demonstration in self._made:
            self.reader.rows += 1
            self.demonstrations += 1
            yield demonstration


def _world(stage: Stage) -> Iterable[Demonstration]:
    from juicer.quickstart import world

    return world.rows(stage.read("world", WorldSettings), stage.value("seed"))


def _hub_rows(source: str, settings: FetchSettings) -> Iterator[Row]:
    if settings.revision is None:
        what = f"{source!r} does not exist as a file or folder, and a Hugging Face id needs a pinned revision"
        raise InputError(what, where="fetch.source", do="correct the path, or set fetch.revision to a commit")
    # Held-out rows come first, as the `test` files of a folder come before its `train` files.
    splits = [(settings.held_out_split, True)] if settings.held_out_split else []
    for split, held_out in [*splits, (settings.train_split, False)]:
        rows = split_of(source, settings.revision, settings.subset, split)
        for number, values in enumerate(rows, 1):
            yield Row(values, f"{source} {split}: row {number}", held_out=held_out)


class Writer:
    """Writes lines of demonstrations to a file, and counts them."""

    def __init__(self, file: BinaryIO) -> None:
        self.rows = self.held_out = 0
        self._file, self._digest = file, hashlib.md5(usedforsecurity=False)

    def write(self, line: bytes, *, held_out: bool) -> None:
        """Write the line of a row."""
        self._digest.update(line)
        self._file.write(line)
        self.rows += 1
        self.held_out += held_out

    @property
    def md5(self) -> str:
        """Of all lines so far."""
        return self._digest.hexdigest()


def write_all(writer: Writer, sources: list[SourceFetch]) -> None:
    """Stream all rows of all sources."""
    for source in sources:
        for row in source:
            writer.write(row.line(), held_out=row.held_out)


def _write_mixture(writer: Writer, sources: list[SourceFetch], folder: Path) -> None:
    """Stream every source to a file of its own, then as many of its rows as the weights allow to one."""
    spooled = [Spool(folder / f"source-{number}", source) for number, source in enumerate(sources)]
    keep = mixture.shares([len(each.places) for each in spooled], [source.source.weight or 0 for source in sources])
    for spool, rows in zip(spooled, keep, strict=True):
        spool.source.used = spool.copy(writer, rows)


class Spool:
    """The rows of one source on disk, with the place of each training row."""

    def __init__(self, path: Path, source: SourceFetch) -> None:
        self.path, self.source, self.places = path, source, array("Q")
        self._held_out: list[bool] = []
        with path.open("wb") as file:
            for row in source:
                self._held_out.append(row.held_out)
                if not row.held_out:
                    self.places.append(mixture.place_of(row.split_hash()))
                file.write(row.line())

    def copy(self, writer: Writer, keep: int) -> int:
        """Write the rows that are held out and `keep` others, and remove the file. Returns the number of rows."""
        last, places, before = mixture.threshold(self.places, keep), iter(self.places), writer.rows
        with self.path.open("rb") as lines:
            for held_out, line in zip(self._held_out, lines, strict=True):
                if held_out or next(places) <= last:
                    writer.write(line, held_out=held_out)
        self.path.unlink()
        return writer.rows - before


def _refuse_if_unusable(sources: list[SourceFetch], losses: Losses, settings: FetchSettings) -> None:
    for source in sources:
        if not source.rows:
            raise InputError("the dataset is empty", where=source.source.path, do="check fetch.source")
    read, found = sum(source.rows for source in sources), losses.main()
    kept = sum(source.demonstrations for source in sources)
    if found is None or (kept and losses.unusable <= max(1, settings.unusable_share * read)):
        return
    first, count = found
    detail = f": {first.detail}" if first.detail else ""
    what = f"{first.explanation}{detail}; {count} of {read} rows"
    if (others := sum(losses.rows.values()) - count) > 0:
        what += f", and {others} others are left out for other reasons"
    do = f"correct or remove them; fetch.unusable_share = {settings.unusable_share:g} of the rows may be unusable"
    raise InputError(what, where=first.where, do=do if kept else "look at the rows: juicer look FILE")


def _refuse_if_held_out(writer: Writer, path: str) -> None:
    if writer.held_out == writer.rows:
        why = "all are held out, by their file's name or their split"
        what = f"none of {writer.rows} demonstrations is left to train on: {why}"
        raise InputError(what, where=path, do="add rows to train on, or name that file alone")


def _described(settings: FetchSettings, sources: list[SourceFetch], losses: Losses, writer: Writer) -> dict[str, Any]:
    records = [source.record() for source in sources]
    empty = sum(source.reader.empty_rejected for source in sources)
    return {
        "source": settings.model_dump(mode="json")["source"],
        "revision": settings.revision,
        "subset": settings.subset,
        "licence": settings.licence,
        "format": records[0].format if len(records) == 1 else ", ".join(record.format for record in records),
        "exchange": settings.exchange,
        "rows": {
            "read": sum(record.rows for record in records),
            "kept": writer.rows,
            "held_out": writer.held_out,
            "left_out": sum(losses.rows.values()),
            **({"empty_rejected_response": empty} if empty else {}),
        },
        "left_out": {reason: record.model_dump() for reason, record in losses.records().items()},
        "sources": [record.model_dump() for record in records],
        "output": {"name": "demonstrations.jsonl", "md5": writer.md5},
    }


def _result(sources: list[SourceFetch], losses: Losses, writer: Writer) -> str:
    """The line that says what became of the rows."""
    records = [source.record() for source in sources]
    said = [record.path if record.path == WORLD else f"{record.path} ({_how(record)})" for record in records]
    parts = [f"{writer.rows:,} demonstrations from {', '.join(said)}"]
    if losses.rows:
        parts.append(f"left out {_rows(sum(losses.rows.values()))}")
    if unread := sum((Counter(record.unread) for record in records), Counter[str]()):
        named = ", ".join(f"{key} ({rows:,})" for key, rows in unread.most_common(KEYS))
        parts.append(f"not read: {named}{f' and {len(unread) - KEYS} more keys' if len(unread) > KEYS else ''}")
    if writer.held_out:
        words = {file.name: file.held_out for record in records for file in record.files if file.held_out}
        by = [f"{name}, whose name says {word!r}" for name, word in list(words.items())[:3]]
        by += [f"{len(words) - len(by)} more files"] if len(words) > len(by) else []
        parts.append(f"held out {_rows(writer.held_out)} ({'; '.join(by) or 'their split says so'})")
    if ignored := sum((source.ignored for source in sources), Counter[str]()):
        parts.append(f"ignored {ignored.total()} other files ({', '.join(sorted(ignored))})")
    return "; ".join(parts)


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _how(record: SourceRecord) -> str:
    return record.format + ("" if record.weight is None else f", {record.used:,} of {record.demonstrations:,}")


if __name__ == "__main__":
    main(run, arguments, __doc__)
