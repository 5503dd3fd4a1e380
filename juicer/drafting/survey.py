"""What the data is: files, format, rows that can be used and that cannot, turns, duplicates, what is held out.

`juicer init`, `juicer look` and the lines that they print read this summary, and nothing else of the data.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from juicer.data.demonstrations import Demonstration
from juicer.drafting.counted import counted
from juicer.runtime.errors import InputError
from juicer.settings.sources import ReadingSettings
from juicer.sources.files import Row, SourceFile, Unreadable, rows_of_source
from juicer.sources.files.listing import listing_of
from juicer.sources.formats import LeftOut, Reader

T = TypeVar("T")
WHOLE = 64 * 2**20
"""Bytes of data of which every row is read; of more, the first rows of every file."""
FIRST = 20_000
"""Rows that are read of larger data, over all files."""
PACKED = 4
"""How many times smaller compressed files are than their text, about."""
SAMPLE = 4_000
"""Demonstrations that are kept to measure their lengths, evenly spread; up to twice as many."""
WHOLE_FILES = ("oasst-messages",)
"""Formats whose demonstrations are made of several rows, at the end of a file."""
PLACES = 3
"""Places that are kept of each reason why rows are left out."""


@dataclass(frozen=True)
class Placed:
    """A demonstration, and the place of the row that it was read from."""

    row: Demonstration
    where: str


@dataclass
class SourceSurvey:
    """What one file, folder or glob is."""

    path: str
    among_others: bool = False
    """Whether there are other sources, so that the name of a single file may hold it out."""
    format: str = ""
    """Name of the format, as `fetch.format` has it; "" before the first row."""
    files: list[str] = field(default_factory=list)
    held_out_files: list[str] = field(default_factory=list)
    ignored: str = ""
    """Files of a folder that are not read, in words; "" if there are none."""
    rows: int = 0
    """Rows that were read."""
    whole: bool = True
    """Whether all rows were read."""
    demonstrations: int = 0
    held_out: int = 0
    """Demonstrations that the source itself holds out from training."""
    rejected: int = 0
    """Demonstrations that have a worse response."""
    unread: Counter[str] = field(default_factory=Counter)
    """Keys that were not read, with the number of rows."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that are no demonstrations, by reason."""
    unusable: int = 0
    """Those of them that are faulty; the others say themselves that they are no demonstrations."""
    first: dict[str, list[LeftOut]] = field(default_factory=dict)
    """The first of each reason."""


class Thinned(Generic[T]):
    """An evenly spread part of a stream of unknown length: between `size` and twice as many, all of a short one."""

    def __init__(self, size: int) -> None:
        self.kept: list[T] = []
        self._size, self._step, self._seen = size, 1, 0

    def add(self, item: T) -> None:
        """Take the next item of the stream."""
        if self._seen % self._step == 0:
            self.kept.append(item)
            if len(self.kept) > 2 * self._size:
                self.kept, self._step = self.kept[::2], 2 * self._step
        self._seen += 1


@dataclass
class Survey:
    """What all sources together are."""

    sources: list[SourceSurvey]
    sample: list[Placed] = field(default_factory=list)
    """Different demonstrations, evenly spread over all that were read; all of them if they are few."""
    duplicates: int = 0
    """Demonstrations whose prompt and response stand there already."""
    prompts: int = 0
    """Different prompts."""
    turns: Counter[int] = field(default_factory=Counter)
    """Answers of the assistant in a dialogue, the demonstration included, with the number of demonstrations."""

    @property
    def rows(self) -> int:
        """Rows that were read."""
        return sum(source.rows for source in self.sources)

    @property
    def demonstrations(self) -> int:
        """Rows that can be used."""
        return sum(source.demonstrations for source in self.sources)

    @property
    def held_out(self) -> int:
        """Demonstrations that the sources hold out themselves."""
        return sum(source.held_out for source in self.sources)

    @property
    def rejected(self) -> int:
        """Demonstrations that have a worse response."""
        return sum(source.rejected for source in self.sources)

    @property
    def whole(self) -> bool:
        """Whether all rows were read."""
        return all(source.whole for source in self.sources)

    @property
    def further_turns(self) -> int:
        """Rows that `fetch.exchange: all` gives beside those of `last`: the assistant's earlier turns."""
        return sum((turns - 1) * rows for turns, rows in self.turns.items())


def survey(paths: Sequence[str], reading: ReadingSettings, *, whole: int = WHOLE, first: int = FIRST) -> Survey:
    """Read the data.

    Args:
        paths: files, folders or globs, each a source of its own.
        reading: how they are read.
        whole: bytes of data of which every row is read.
        first: rows that are read of larger data.

    Raises:
        InputError: a file does not exist or is damaged, the format is not known, or no row can be used.
    """
    found = Survey([])
    sample, seen, prompts = Thinned[Placed](SAMPLE), set[str](), set[int]()
    for path in paths:
        source = SourceSurvey(path, among_others=len(paths) > 1)
        found.sources.append(source)
        for placed in read_source(source, reading, whole=whole, first=first):
            row = placed.row
            if row.id in seen:
                found.duplicates += 1
            else:
                seen.add(row.id)
                sample.add(placed)
            prompts.add(int(row.prompt_hash()[:16], 16))
            found.turns[1 + sum(turn["role"] == "assistant" for turn in row.prompt)] += 1
        if not source.demonstrations:
            raise no_demonstrations(source)
    found.sample, found.prompts = sample.kept, len(prompts)
    return found


def read_source(
    source: SourceSurvey, reading: ReadingSettings, *, whole: int = WHOLE, first: int = FIRST
) -> Iterator[Placed]:
    """The demonstrations of one source, which is described by the way."""
    reader = Reader(reading)
    source.ignored = listing_of(source.path, among_others=source.among_others).ignored_line()
    files = list(rows_of_source(source.path, among_others=source.among_others))
    source.whole = sum(_size(file) for file, _ in files) <= whole
    limit = None if source.whole else max(100, first // len(files))
    for file, rows in files:
        source.files.append(file.name)
        place = [""]
        for item in reader.convert(_watched(islice(rows, limit), place)):
            source.rows, source.format = reader.rows, reader.format or ""
            if isinstance(item, LeftOut):
                _leave_out(source, item)
                continue
            source.demonstrations += 1
            source.held_out += item.held_out
            source.rejected += item.rejected is not None
            yield Placed(item, file.name if source.format in WHOLE_FILES else place[0])
        if file.held_out:
            source.held_out_files.append(file.name)
    source.rows, source.format, source.unread = reader.rows, reader.format or "", Counter(reader.unread)


def _watched(rows: Iterable[Row | Unreadable], place: list[str]) -> Iterator[Row | Unreadable]:
    for row in rows:
        place[0] = row.where
        yield row


def _size(file: SourceFile) -> int:
    packed = file.path.name.lower().endswith((".gz", ".zst", ".parquet"))
    return file.path.stat().st_size * (PACKED if packed else 1)


def _leave_out(source: SourceSurvey, item: LeftOut) -> None:
    source.left_out[item.reason] += 1
    source.unusable += item.unusable
    first = source.first.setdefault(item.reason, [])
    if len(first) < PLACES:
        first.append(item)


def check_usable(found: Survey, share: float) -> None:
    """Refuse data of which a run would stop, because too many rows are faulty.

    Args:
        share: largest share of the rows that may be unusable, `fetch.unusable_share`.

    Raises:
        InputError: names the most frequent reason, its count and its first place.
    """
    unusable = sum(source.unusable for source in found.sources)
    if unusable <= max(1, share * found.rows):
        return
    source = max(found.sources, key=lambda each: each.unusable)
    faulty = {reason: rows for reason, rows in source.left_out.items() if source.first[reason][0].unusable}
    reason = max(faulty, key=lambda each: faulty[each])
    first = source.first[reason][0]
    what = f"{unusable:,} of {counted(found.rows, 'row')} are unusable, {faulty[reason]:,} because {first.explanation}"
    do = f"correct or remove them, up to {share:.0%} may be; juicer look shows how rows are read"
    raise InputError(what, where=first.where, do=do)


def no_demonstrations(source: SourceSurvey) -> InputError:
    """The error for a source without a demonstration, with the most frequent reason."""
    if not source.rows:
        return InputError("there are no rows", where=source.path, do="name a file of demonstrations")
    if not source.left_out:
        return InputError("there are no demonstrations", where=source.path, do="juicer look shows how rows are read")
    reason, rows = source.left_out.most_common(1)[0]
    first = source.first[reason][0]
    what = f"none of the {counted(source.rows, 'row')} can be used; of {rows:,}, {first.explanation}"
    return InputError(what, where=first.where, do="juicer look shows how rows are read")
