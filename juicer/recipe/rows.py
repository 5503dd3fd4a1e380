"""The first rows of a recipe's demonstrations, converted when it is read: before any download, score or step."""

from collections import Counter
from dataclasses import dataclass
from itertools import islice

from juicer.runtime.errors import InputError
from juicer.settings.sources import FetchSettings, Source
from juicer.sources.files import is_path, rows_of_source
from juicer.sources.formats import EXPLANATIONS, LeftOut, Reader

FIRST = 100
"""Rows that are converted."""


@dataclass(frozen=True)
class FirstRows:
    """What the first rows of a source are."""

    path: str
    format: str
    rows: int
    demonstrations: int
    left_out: list[LeftOut]
    pairs: int = 0
    """Demonstrations that come with a rejected response."""

    def __str__(self) -> str:
        """One sentence."""
        count, lost = self.rows, len(self.left_out)
        which = f"the first {FIRST} rows" if count == FIRST else f"its {count} row{'s' * (count > 1)}"
        usable = f"{count - lost} of {which}" if lost else f"all {which}" if count > 1 else which
        reasons = Counter(each.reason for each in self.left_out)
        why = ", ".join(f"{rows} where {EXPLANATIONS[reason]}" for reason, rows in reasons.most_common())
        return f"{self.path} is {self.format}: {usable} can be used" + (f" ({why})" if why else "")


def check_rows(fetch: FetchSettings) -> list[FirstRows]:
    """Convert the first rows of every local source.

    Returns:
        What was found, in the order of the sources; nothing of a source that is not on this machine.

    Raises:
        InputError: a file cannot be read, the format or a column is not known, or none of the first rows can be used.
    """
    if fetch.is_world:
        return []
    return [first_rows(source) for source in fetch.sources if is_path(source.path)]


def first_rows(source: Source) -> FirstRows:
    """Convert the first rows of one local source; errors as `check_rows`."""
    reader, left_out, demonstrations, pairs = Reader(source.reading), list[LeftOut](), 0, 0
    for _, rows in rows_of_source(source.path, among_others=source.among_others):
        for each in reader.convert(islice(rows, FIRST - reader.rows)):
            if isinstance(each, LeftOut):
                left_out.append(each)
            else:
                demonstrations += 1
                pairs += each.rejected is not None
        if reader.rows >= FIRST:
            break
    if not reader.rows:
        raise InputError("the source has no rows", where=source.path, do="check fetch.source")
    found = FirstRows(source.path, str(reader.format), reader.rows, demonstrations, left_out, pairs)
    if not demonstrations and left_out and all(each.unusable for each in left_out):
        raise _nothing_usable(found)
    return found


def _nothing_usable(found: FirstRows) -> InputError:
    (reason, count), *_ = Counter(each.reason for each in found.left_out).most_common(1)
    first = next(each for each in found.left_out if each.reason == reason)
    detail = f": {first.detail}" if first.detail else ""
    what = f"{first.explanation}{detail}; this is so in {count} of the first {found.rows} rows, and none can be used"
    do = "look at the rows: juicer look FILE; or set fetch.format or fetch.columns"
    return InputError(what, where=first.where, do=do)
