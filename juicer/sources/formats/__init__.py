"""Formats of rows: what other projects' rows look like, and how each becomes a `Demonstration`. One file per family.

A `Reader` converts the rows of a source. A row that is no demonstration becomes a `LeftOut` with its reason: the source
means it (`MEANT`: a label, a weight, images, tools), or the row is faulty (`UNUSABLE`). The caller counts and shows
them. A source that is not what the recipe says stops with an error.

A new format is a `Shape` in shapes.py (its keys), a name in `Format` (juicer/settings/sources.py) and, if its parts do
not stand under keys of their own, a module here with `read(values, slots, reader) -> Dialogue`, named in `READERS`.
"""

from juicer.sources.formats.reader import Outcome, Reader
from juicer.sources.formats.reasons import EXPLANATIONS, MEANT, UNUSABLE, LeftOut, Reason

__all__ = ["EXPLANATIONS", "MEANT", "UNUSABLE", "LeftOut", "Outcome", "Reader", "Reason"]
