"""The keys of each format, by which it is recognised, and where the row's parts stand in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from juicer.data import hh
from juicer.settings.sources import ColumnsSettings
from juicer.sources.formats.values import Slots, Values, truth

Keys = tuple[str, ...]
LABEL: Keys = ("label", "kto_tag")
SYSTEM: Keys = ("system", "system_prompt", "system_message")
ANSWER: Keys = ("completion", "response", "output")


@dataclass(frozen=True)
class Shape:
    """What a row of a format looks like.

    Attributes:
        required: for every part that a row needs, the keys under which it may stand, the usual one first.
        optional: the same of the parts that it may have.
        accepts: what else is true of a row's values.
    """

    required: Mapping[str, Keys]
    optional: Mapping[str, Keys]
    accepts: Callable[[Values], bool] = lambda values: True


def _is_message_of_tree(value: Any) -> bool:
    return isinstance(value, dict) and ("replies" in value or "text" in value)


def _is_text_of_hh(value: Any) -> bool:
    return isinstance(value, str) and hh.ASSISTANT in value and value.lstrip().startswith(hh.HUMAN.lstrip())


def is_answered(values: Values) -> bool:
    """Whether a row has what a label rates in KTO's files: messages, or a prompt and an answer."""
    return "messages" in values or ("prompt" in values and any(key in values for key in ANSWER))


def _is_rated(values: Values) -> bool:
    """Whether a row has a label that is true or false, and what it rates."""
    label = next((values[key] for key in LABEL if key in values), None)
    return truth(label) is not None and is_answered(values)


PAST = {"context": ("input", "context"), "history": ("history",)}
SHAPES: dict[str, Shape] = {
    "oasst-tree": Shape(
        {"tree": ("prompt",)}, {"id": ("message_tree_id",)}, lambda values: _is_message_of_tree(values["prompt"])
    ),
    "oasst-messages": Shape(
        {"id": ("message_id",), "text": ("text",), "role": ("role",)},
        {
            "parent": ("parent_id",),
            "rank": ("rank",),
            "deleted": ("deleted",),
            "tree": ("message_tree_id",),
            "replies": ("replies",),
        },
    ),
    "sharegpt": Shape(
        {"messages": ("conversations", "conversation")}, {"chosen": ("chosen",), "rejected": ("rejected",)}
    ),
    "preference": Shape(
        {"prompt": ("prompt", "question", "instruction"), "response": ("chosen",)},
        {"rejected": ("rejected",), "context": ("input", "context")},
        lambda values: not _is_text_of_hh(values["chosen"]),
    ),
    "hh": Shape({"messages": ("chosen", "chosen_messages")}, {"rejected": ("rejected", "rejected_messages")}),
    "spin": Shape({"messages": ("real",)}, {"rejected": ("generated",)}),
    "kto": Shape({"label": LABEL}, {"messages": ("messages",), "prompt": ("prompt",), "response": ANSWER}, _is_rated),
    "messages": Shape({"messages": ("messages",)}, {}),
    "alpaca": Shape({"prompt": ("instruction",), "response": ("output",)}, PAST),
    "dolly": Shape({"prompt": ("instruction",), "response": ("response",)}, PAST),
    "question-answer": Shape({"prompt": ("question", "query"), "response": ("answer", "response")}, PAST),
    "prompt-response": Shape(
        {"prompt": ("prompt",), "response": ("response", "completion", "output", "answer")}, {"history": ("history",)}
    ),
}
"""Every format; the first that fits a row is taken."""


def recognise(values: Values) -> str | None:
    """The format of a row, by its keys that have a value; None if no known format has them."""
    for name, shape in SHAPES.items():
        fits = all(any(key in values for key in keys) for keys in shape.required.values())
        if fits and shape.accepts(values):
            return name
    return None


def parts_of(format_: str) -> dict[str, Keys]:
    """For every part that a row of a format may have, its keys."""
    shape = SHAPES[format_]
    everywhere = {} if format_ == "oasst-messages" else {"label": LABEL, "system": SYSTEM}
    return {**shape.required, **shape.optional, **everywhere}


def slots_of(format_: str, keys: Keys, columns: ColumnsSettings, *, given: bool) -> Slots:
    """The key of each part that a row with certain keys has; columns that are named come first.

    Args:
        given: whether the recipe gives the format; if not, columns that are named replace all those of the format.
    """
    parts = parts_of(format_)
    if columns.named and not given:
        parts = {part: names for part, names in parts.items() if part in ("label", "system")}
    parts.update((part, (name,)) for part, name in named(columns).items())
    found = {part: next((name for name in names if name in keys), "") for part, names in parts.items()}
    return {part: key for part, key in found.items() if key}


def usable(format_: str, slots: Slots) -> frozenset[str]:
    """The parts that the reader of a format reads, of those that `fetch.columns` may name."""
    if format_ == "oasst-messages":
        return frozenset()
    if format_ == "oasst-tree":
        return frozenset({"system"})
    own = {"messages"} if "messages" in slots else {"prompt", "response", "context"}
    return frozenset({"system", "rejected", *own})


def named(columns: ColumnsSettings) -> dict[str, str]:
    """The columns that the settings name, by what they are."""
    parts = ("prompt", "response", "system", "context", "rejected", "messages")
    return {part: name for part in parts if (name := getattr(columns, part)) is not None}
