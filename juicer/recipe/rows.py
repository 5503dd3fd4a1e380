"""The first rows of a recipe's demonstrations, converted when it is read: before any download, score or step."""

from collections import Counter
from itertools import islice

from juicer.runtime.errors import InputError
from juicer.settings.sources import FetchSettings, Source
from juicer.sources.files import is_path, rows_of_source
from juicer.sources.formats import EXPLANATIONS, LeftOut, Reader

FIRST = 100
"""Rows that are converted."""


def check_rows(fetch: FetchSettings) -> list[str]:
    """Convert the first rows of every local source.

    Returns:
        What was found, a sentence per source; nothing of a source that is not on this machine.

    Raises:
        InputError: a file cannot be read, the format or a column is not known, or none of the first rows can be used.
    """
    if fetch.is_world:
        return []
    return [_found(source) for source in fetch.sources if is_path(source.path)]


def _found(source: Source) -> str:
    reader, left_out, usable = Reader(source.reading), list[LeftOut](), 0
    for _, rows in rows_of_source(source.path, among_others=source.among_others):
        for each in reader.convert(islice(rows, FIRST - reader.rows)):
            if isinstance(each, LeftOut):
                left_out.append(each)
            else:
                usable += 1
        if reader.rows >= FIRST:
            break
    if not reader.rows:
        raise InputError("there is no row", where=source.path, do="check fetch.source")
    reasons = Counter(each.reason for each in left_out)
    if not usable and left_out and all(each.unusable for each in left_out):
        reason, count = reasons.most_common(1)[0]
        first = next(each for each in left_out if each.reason == reason)
        what = f"{first.explanation}; this is so in {count} of the first {reader.rows} rows, and none can be used"
        raise InputError(
            what, where=first.where, do="look at the rows: juicer look FILE; or set fetch.format or fetch.columns"
        )
    lost = ", ".join(f"{count} where {EXPLANATIONS[reason]}" for reason, count in reasons.most_common())
    number = "all" if not left_out else f"{reader.rows - len(left_out)} of"
    said = f"{source.path} is {reader.format}: {number} the first {reader.rows} rows can be used"
    return f"{said} ({lost})" if lost else said
