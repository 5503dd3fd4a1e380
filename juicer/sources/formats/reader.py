"""The reader of a source: recognises the format of its first row, and converts all rows."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from juicer.data.demonstrations import Demonstration
from juicer.runtime.errors import InputError, did_you_mean
from juicer.settings.bounds import shortened
from juicer.settings.sources import ReadingSettings
from juicer.sources.files import Row, Unreadable
from juicer.sources.formats import comparison, dialogue, oasst, prompt_response
from juicer.sources.formats.exchanges import exchanges
from juicer.sources.formats.guesses import unrecognised
from juicer.sources.formats.reasons import LeftOut, LeftOutError
from juicer.sources.formats.shapes import SHAPES, Keys, is_answered, named, parts_of, recognise, slots_of, usable
from juicer.sources.formats.turns import MARKS, MEDIA, PLACEHOLDERS, TOOLS, Dialogue, TurnReader, untrained
from juicer.sources.formats.values import (
    Slots,
    Values,
    has_value,
    is_blank,
    is_column,
    names_of,
    number,
    required,
    text_of,
    trained,
    truth,
    wrong_type,
)
from juicer.sources.held_out import is_held_out

Read = Callable[[Values, Slots, TurnReader], Dialogue]
Outcome = Demonstration | LeftOut


def _read_rated(values: Values, slots: Slots, reader: TurnReader) -> Dialogue:
    """A row with a label, which is a dialogue or has a prompt and a response."""
    return (dialogue if "messages" in slots else prompt_response).read(values, slots, reader)


READERS: dict[str, Read] = {
    **dict.fromkeys(SHAPES.keys() - {"oasst-messages"}, prompt_response.read),
    **dict.fromkeys(("messages", "sharegpt"), dialogue.read),
    **dict.fromkeys(("hh", "spin"), comparison.read),
    "kto": _read_rated,
    "oasst-tree": oasst.read,
}
SPLIT = "split"


class _Layout(NamedTuple):
    """What rows with certain keys have."""

    slots: Slots
    unread: Keys
    """Keys that nothing reads."""
    media: Keys
    tools: Keys
    marks: Keys
    """Keys that may say that the row is not to be trained on."""
    says_more: bool
    """Whether other values than those of the demonstration decide whether there is one."""


class Reader:
    """Converts the rows of one source, and counts what it did not read.

    Args:
        settings: how they are read.
    """

    def __init__(self, settings: ReadingSettings) -> None:
        self.settings = settings
        self.format: str | None = None
        """Format of the rows; None before the first."""
        self.rows = 0
        """Rows that were consumed."""
        self.unread: Counter[str] = Counter()
        """Keys with a value that no row's demonstration was made from, with the number of rows. Of keys of messages,
        `messages.name`."""
        self.empty_rejected = 0
        """Rows whose worse response is empty, and that are used without it."""
        self._first = ""
        self._slots_of_first: Slots = {}
        self._read: Read | None = None
        self._exchange = settings.exchange
        self._rated: bool | None = None
        """Whether the labels say which responses are desirable, and every row has one; None before the first."""
        self._may_be_rated = False
        """Whether rows have what KTO's have, so that a label is expected to be true or false."""
        self._has_media = False
        """Whether a row of the file, up to this one, had a key of images, audio or video."""
        self._turns = TurnReader(settings)
        self._layouts: dict[Keys, _Layout] = {}

    def convert(self, rows: Iterable[Row | Unreadable]) -> Iterator[Outcome]:
        """Demonstrations of one file's rows, in their order; several of a row with `exchange: all`.

        The rows of `oasst-messages` become demonstrations at the end of the file.

        Raises:
            InputError: the format of the first row is not known, a column that is named does not exist, or a row has
                another format than the first; names the places.
        """
        forest = oasst.Forest(self._turns)
        self._has_media = False
        for row in rows:
            self.rows += 1
            if isinstance(row, Unreadable):
                yield LeftOut("unreadable", row.where, row.what)
                continue
            try:
                outcomes = self._converted(row, forest)
            except LeftOutError as error:
                if error.reason == "missing":
                    self._refuse_other(row)
                    error.detail = self._missing(row, error.part)
                yield LeftOut(error.reason, row.where, error.detail)
                continue
            yield from outcomes
        for root, found in forest.trees():
            if isinstance(found, LeftOut):
                yield found
                continue
            try:
                yield from self._outcomes(found, root.where, held_out=root.held_out)
            except LeftOutError as error:
                yield LeftOut(error.reason, root.where, error.detail)

    def _converted(self, row: Row, forest: oasst.Forest) -> list[Outcome]:
        if self.format is None:
            self._begin(row)
        values = row.values
        if None in values.values():
            values = {key: value for key, value in values.items() if value is not None}
        layout = self._layouts.get(tuple(values)) or self._layout(tuple(values))
        for key in layout.unread:
            value = values[key]
            if value != "" and value != [] and value != {}:
                self.unread[key] += 1
        held_out = self._held_out(values[SPLIT], row.held_out) if SPLIT in values else row.held_out
        if layout.media or (values is not row.values and not MEDIA.isdisjoint(row.values)):
            self._has_media = True
        if layout.says_more:
            self._check_meant(values, layout)
        if self._read is None:
            forest.add(row, values, layout.slots, held_out=held_out)
            return []
        try:
            found = self._read(values, layout.slots, self._turns)
        finally:
            if self._turns.unread:
                self.unread.update(self._turns.unread)
                self._turns.unread.clear()
        if "system" in layout.slots:
            found = self._with_system(found, values, layout.slots)
        return self._outcomes(found, row.where, held_out=held_out)

    def _outcomes(self, found: Dialogue, where: str, *, held_out: bool) -> list[Outcome]:
        if self._has_media:
            _check_placeholders(found)
        made = exchanges(found, self._exchange, held_out=held_out)
        outcomes: list[Outcome] = [
            LeftOut(each.reason, where, each.detail) if isinstance(each, LeftOutError) else each for each in made
        ]
        if found.rejected is not None and is_blank(found.rejected) and isinstance(outcomes[-1], Demonstration):
            self.empty_rejected += 1
        return outcomes

    def _held_out(self, split: Any, held_out: bool) -> bool:
        said = is_held_out(split)
        if said is None:
            self._count_unread(SPLIT, split)
            return held_out
        return said

    def _count_unread(self, key: str, value: Any) -> None:
        if has_value(value):
            self.unread[key] += 1

    def _check_meant(self, values: Values, layout: _Layout) -> None:
        """Leave a row out that says that it is no demonstration, or has what a text does not show."""
        for key in layout.media:
            if has_value(values[key]):
                raise LeftOutError("media", f"{key!r} has a value")
        for key in layout.tools:
            if has_value(values[key]):
                raise LeftOutError("tools", f"{key!r} has a value")
        for key in layout.marks:
            if trained(values[key]) is None:
                self._count_unread(key, values[key])
        # Of a row that is a message of a tree, its turn is not trained on.
        if layout.marks and self._read is not None and (why := untrained({key: values[key] for key in layout.marks})):
            raise LeftOutError("not_trained", f"the row has {why}")
        if self._rated or "label" in layout.slots:
            self._check_label(layout.slots.get("label", ""), required(values, layout.slots, "label"))

    def _check_label(self, key: str, label: Any) -> None:
        said, is_word = truth(label), isinstance(label, str) and number(label) is None
        if self._rated is None and has_value(label):
            self._rated = said is not None
        if said is None and (self._rated or (self._may_be_rated and is_word and has_value(label))):
            raise wrong_type(key, "true or false", label)
        if said is None or not (self._rated or is_word or isinstance(label, bool)):
            # Numbers where the first label is another than 0 and 1 are those of classes.
            self._count_unread(key, label)
        elif not said:
            raise LeftOutError("undesirable", f"{key!r} is {str(label).lower()}")

    def _check_word(self, key: str, label: str, where: str) -> None:
        if number(label) is None:
            what = f"the label {shortened(label)} is neither true nor false, so that {key!r} may mean anything"
            do = f"write true or false (yes, no, 1, 0), or set fetch.format: {self.format}, which leaves others unread"
            raise InputError(what, where=where, do=do)

    def _with_system(self, found: Dialogue, values: Values, slots: Slots) -> Dialogue:
        text = text_of(values, slots, "system")
        if is_blank(text):
            return found
        system = [turn["content"] for turn in found.turns if turn["role"] == "system"]
        if system:
            if text not in system:
                self.unread[slots["system"]] += 1
            return found
        return found._replace(
            turns=[{"role": "system", "content": text}, *found.turns],
            context=found.context + 1,
            untrained=tuple(place + 1 for place in found.untrained),
        )

    def _layout(self, keys: Keys) -> _Layout:
        assert self.format is not None
        slots = self._slots(self.format, keys)
        read = {*slots.values(), SPLIT}
        media = tuple(key for key in keys if key in MEDIA and key not in read)
        tools = tuple(key for key in keys if key in TOOLS and key not in read)
        marks = tuple(key for key in keys if key in MARKS and key not in read)
        unread = tuple(key for key in keys if key not in {*read, *media, *tools, *marks})
        says_more = bool(media or tools or marks or "label" in slots or self._rated)
        layout = _Layout(slots, unread, media, tools, marks, says_more)
        if len(self._layouts) < 1000:
            self._layouts[keys] = layout
        return layout

    def _slots(self, format_: str, keys: Keys) -> Slots:
        return slots_of(format_, keys, self.settings.columns, given=self.settings.format != "auto")

    def _begin(self, row: Row) -> None:
        """Find the format of the first row, and whether it has what the settings name."""
        _refuse_columns(row)
        columns, known = self.settings.columns, [str(key) for key in row.values]
        for part, name in named(columns).items():
            if name not in row.values:
                raise _no_column(part, name, row, known)
        format_: str | None = self.settings.format
        if format_ == "auto":
            if columns.named:
                format_ = "messages" if columns.messages else "prompt-response"
            else:
                given = {key: value for key, value in row.values.items() if value is not None}
                format_ = recognise(given) or recognise(row.values)
        if format_ is None:
            raise unrecognised(row.values, row.where)
        slots = self._slots(format_, tuple(row.values))
        for part in named(columns).keys() - usable(format_, slots):
            what = f"fetch.columns.{part} is of no use: rows of the format {format_} have no such part"
            raise InputError(what, where=row.where, do="leave it out, or correct fetch.format")
        lacking = [] if columns.named else [part for part in SHAPES[format_].required if part not in slots]
        if lacking:
            names = " or ".join(repr(name) for name in parts_of(format_)[lacking[0]])
            what = f"a row of the format {format_} has {names}, and this one has the keys {names_of(row.values)}"
            raise InputError(what, where=row.where, do="correct fetch.format, or name the keys in fetch.columns")
        messages = row.values.get(slots.get("messages", ""))
        if isinstance(messages, list) and (absent := self._turns.check_keys(messages)):
            part = "role" if absent == columns.role else "content"
            raise _no_column(part, absent, row, list(messages[0]), "message")
        self.format, self._first, self._slots_of_first = format_, row.where, slots
        self._read = READERS.get(format_)
        self._may_be_rated = self.settings.format == "auto" and is_answered(row.values)
        label = row.values.get(slots.get("label", ""))
        if self._may_be_rated and isinstance(label, str) and truth(label) is None and has_value(label):
            self._check_word(slots["label"], label, row.where)
        if format_ == "kto" or self.settings.format != "auto":
            self._rated = format_ == "kto"
        elif has_value(label):
            self._rated = truth(label) is not None

    def _missing(self, row: Row, part: str) -> str:
        """What a row lacks, by the names that it or the first row has for it."""
        assert self.format is not None
        own = self._slots_of_first.get(part)
        names = (own,) if self.settings.columns.named and own else (own, *parts_of(self.format).get(part, ()))
        for name in names:
            if name in row.values:
                return f"{name!r} is null"
        return f"the row has no {next(filter(None, names), part)!r}, only {names_of(row.values)}"

    def _refuse_other(self, row: Row) -> None:
        """Refuse a row that lacks a key because it is of another format than the first row.

        Raises:
            InputError: it is; names both places.
        """
        if self.format is None or self.settings.columns.named:
            return
        given = {key: value for key, value in row.values.items() if value is not None}
        other = recognise(given)
        if other is None or other == self.format:
            return
        own = {name for names in parts_of(self.format).values() for name in names}
        if all(any(name in own and name in given for name in names) for names in SHAPES[other].required.values()):
            return
        what = f"the row is of the format {other}, but the first one, at {self._first}, is of the format {self.format}"
        raise InputError(what, where=row.where, do="put rows of one format into a file, and name both in fetch.source")


def _refuse_columns(row: Row) -> None:
    """Refuse a file that is one table, column by column.

    Raises:
        InputError: every value of its first row is a column.
    """
    values = [value for value in row.values.values() if value is not None]
    if all(map(is_column, values)) and (len(values) > 1 or any(isinstance(value, dict) for value in values)):
        what = f"the row is a table, with a column under each of the keys {names_of(row.values)}"
        do = "write a row for each demonstration, as to_json(orient='records', lines=True) of pandas does"
        raise InputError(what, where=row.where, do=do)


def _check_placeholders(found: Dialogue) -> None:
    for turn in found.turns:
        for placeholder in PLACEHOLDERS:
            if placeholder in turn["content"]:
                raise LeftOutError("media", f"a text has {placeholder}")


def _no_column(part: str, name: str, row: Row, known: list[str], of: str = "row") -> InputError:
    what = f"fetch.columns.{part} is {name!r}, and the {of} has the keys {names_of(known)}"
    return InputError(what, where=row.where, do=did_you_mean(name, known[:50]))
