"""Lists of messages: the names that files give to roles and texts, and what a message may say beside them."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from juicer.data.demonstrations import Message
from juicer.settings.bounds import shortened
from juicer.settings.sources import ReadingSettings
from juicer.sources.formats.reasons import LeftOutError
from juicer.sources.formats.values import Values, has_value, is_blank, names_of, parsed, trained

Role = Literal["system", "user", "assistant"]
ROLES: dict[str, Role | Literal["tool"]] = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bard", "bing", "bot", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "function_call", "ipython"), "tool"),
    **dict.fromkeys(("tool_call", "tool_response", "function_response"), "tool"),
}
ROLE_KEYS, CONTENT_KEYS = ("role", "from", "user"), ("content", "value", "text")
MARKS = ("weight", "train", "training", "loss_weight", "loss")
"""Keys of a message, or a row, that say by true or false, 1 or 0, whether it is to be trained on."""
DETAILS = ("train_detail", "training_detail")
"""Keys of a message that say it of parts of its text, as Axolotl reads them."""
TOOLS = frozenset({"tools", "functions", "tool_calls", "function_call", "tool_call_id"})
MEDIA = frozenset({"images", "image", "audios", "audio", "videos", "video"})
PLACEHOLDERS = ("<image>", "<audio>", "<video>")
TEXT_PARTS, TOOL_PARTS = ("text", "input_text", "output_text"), ("tool_use", "tool_result", "tool_call")


class Dialogue(NamedTuple):
    """What the reader of a format makes of a row."""

    turns: list[Message]
    context: int = 0
    """Number of turns at the beginning that are the prompt, and no demonstrations."""
    rejected: str | None = None
    """A worse response than the last turn to the same prompt; None if the row has none, "" if it is empty."""
    untrained: tuple[int, ...] = ()
    """Places of assistant turns that are not to be trained on."""
    why: str = ""
    """Why they are not, for a message."""


class Turns(NamedTuple):
    """A list of messages that was read."""

    turns: list[Message]
    untrained: tuple[int, ...] = ()
    why: str = ""


def same(turns: Sequence[Message], others: Sequence[Message]) -> bool:
    """Whether two dialogues say the same, white space around each turn aside."""
    return len(turns) == len(others) and all(
        turn["role"] == other["role"] and turn["content"].strip() == other["content"].strip()
        for turn, other in zip(turns, others, strict=True)
    )


def untrained(values: Values) -> str:
    """Why a row or a message is not to be trained on, by its own marks; "" if it is."""
    marks = [name for name in MARKS if name in values and trained(values[name]) is False]
    return f"{marks[0]}: {str(values[marks[0]]).lower()}" if marks else ""


def worse_of(better: Sequence[Message], worse: Sequence[Message] | None) -> str | None:
    """The last turn of a worse answer, or of a worse dialogue, to the prompt of a better dialogue; "" if it is empty.

    Raises:
        LeftOutError: it is no assistant turn, or answers another prompt.
    """
    if worse is None:
        return None
    if not worse:
        return ""
    if worse[-1]["role"] != "assistant":
        raise LeftOutError("no_assistant_turn", "the worse one does not")
    answer = worse[-1]["content"]
    if len(worse) > 1 and not is_blank(answer) and not same(better[:-1], worse[:-1]):
        raise LeftOutError("different_prompts")
    return answer


class _Layout(NamedTuple):
    """Where messages with certain keys have their role and their text, and their other keys."""

    role: str
    content: str
    others: list[str]


class TurnReader:
    """Reads lists of messages as the settings say.

    Args:
        settings: the names of keys and roles, and the roles that are trained on.
    """

    def __init__(self, settings: ReadingSettings) -> None:
        columns = settings.columns
        self._role_keys = (columns.role,) if columns.role else ROLE_KEYS
        self._content_keys = (columns.content,) if columns.content else CONTENT_KEYS
        self._roles = dict(ROLES)
        for role in ("system", "user", "assistant"):
            self._roles.update(dict.fromkeys(getattr(columns.roles, role), role))
        self._trained = frozenset(settings.roles_to_train) if settings.roles_to_train is not None else None
        self._layouts: dict[tuple[str, ...], _Layout] = {}
        self.unread: set[str] = set()
        """Keys of messages that have a value and were not read, as `messages.name`; the caller clears them."""

    def read(self, key: str, value: Any) -> Turns:
        """The messages under a key: a list, perhaps written as JSON, or one message.

        Raises:
            LeftOutError: it is not a list of messages, a role is not known, or there are tools or media.
        """
        messages = value if type(value) is list else parsed(key, value)
        turns: list[Message] = []
        untrained: list[int] = []
        why = ""
        for place, message in enumerate(messages):
            try:
                layout = self._layouts.get(tuple(message)) or self._layout(key, place, message)
                name, content = message[layout.role], message[layout.content]
                role = self._roles[name]
            except (KeyError, TypeError):
                role, content, layout = self._odd(key, place, message)
                name = message[layout.role]
            skipped = ""
            if layout.others:
                skipped = self._others(key, message, layout.others)
            if role == "tool":
                raise LeftOutError("tools", f"message {place + 1} of {shortened(key)} has the role {shortened(name)}")
            if type(content) is not str:
                content = _text(key, place, content)
            if role == "assistant" and (skipped or (self._trained is not None and name not in self._trained)):
                untrained.append(place)
                why = skipped or f"fetch.roles_to_train does not have {shortened(name)}"
            turns.append({"role": role, "content": content})
        return Turns(turns, tuple(untrained), why)

    def role(self, name: Any, at: str) -> Role | Literal["tool"]:
        """What the name of a role means, in any letter case.

        Raises:
            LeftOutError: it is not known; names the message, `at`.
        """
        role = (self._roles.get(name) or self._roles.get(name.strip().lower())) if isinstance(name, str) else None
        if role is None:
            what = f"{at} has the role {shortened(name)} (fetch.columns.roles says what roles mean)"
            raise LeftOutError("unknown_role", what)
        return role

    def check_keys(self, values: list[Any]) -> str | None:
        """A key of messages that the settings name and the first message does not have; None if there is none."""
        if not values or not isinstance(values[0], dict):
            return None
        for keys in (self._role_keys, self._content_keys):
            if len(keys) == 1 and keys[0] not in values[0]:
                return keys[0]
        return None

    def _layout(self, key: str, place: int, message: Any) -> _Layout:
        if not isinstance(message, dict):
            what = f"message {place + 1} of {shortened(key)} must be a mapping with a role and a text"
            raise LeftOutError("wrong_type", f"{what}, not {shortened(message)}")
        role = _first(self._role_keys, message)
        content = _first([name for name in self._content_keys if name != role], message)
        if role is None or (content is None and TOOLS.isdisjoint(message)):
            what = f"message {place + 1} of {shortened(key)} must have a role and a text, and has {names_of(message)}"
            raise LeftOutError("wrong_type", f"{what} (fetch.columns.role and content name their keys)")
        layout = _Layout(role, content or "content", [name for name in message if name not in (role, content)])
        if len(self._layouts) < 1000:
            self._layouts[tuple(message)] = layout
        return layout

    def _odd(self, key: str, place: int, message: Any) -> tuple[Role | Literal["tool"], Any, _Layout]:
        """Role and content of a message that has calls of tools and no content, or a role in another letter case."""
        layout = self._layout(key, place, message)
        return (
            self.role(message[layout.role], f"message {place + 1} of {shortened(key)}"),
            message.get(layout.content),
            layout,
        )

    def _others(self, key: str, message: dict[str, Any], names: list[str]) -> str:
        """Look at the other keys of a message; returns why it is not to be trained on, "" if it is."""
        why = ""
        for name in names:
            value = message[name]
            if value is None or value == "" or value == [] or value == {}:
                continue
            if name in TOOLS and has_value(value):
                raise LeftOutError("tools", f"a message of {shortened(key)} has {name}")
            if name in MEDIA and has_value(value):
                raise LeftOutError("media", f"a message of {shortened(key)} has {name}")
            if name in MARKS and (said := trained(value)) is not None:
                why = why if said else f"{name}: {str(value).lower()}"
            elif name in DETAILS and isinstance(value, list):
                # A response is trained on as a whole or not at all.
                marks = [trained(part.get("train")) for part in value if isinstance(part, dict)]
                why = f"{name} has a part with train: false" if False in marks else why
            else:
                self.unread.add(f"{key}.{name}")
        return why


def _text(key: str, place: int, content: Any) -> str:
    """The text of a content that is a list of parts."""
    at = f"message {place + 1} of {shortened(key)}"
    if not isinstance(content, list):
        given = "null" if content is None else type(content).__name__
        raise LeftOutError("wrong_type", f"the content of {at} must be text, not {given}")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        text = part.get("text", part.get("value")) if isinstance(part, dict) else part
        if kind in TEXT_PARTS and isinstance(text, str):
            texts.append(text)
        elif kind in TOOL_PARTS:
            raise LeftOutError("tools", f"{at} has a part of the type {kind}")
        elif isinstance(kind, str) and any(word in kind for word in ("image", "audio", "video", "file")):
            raise LeftOutError("media", f"{at} has a part of the type {shortened(kind)}")
        else:
            raise LeftOutError("wrong_type", f"{at} has a part that is no text: {shortened(part)}")
    return "".join(texts)


def _first(names: Iterable[str], message: dict[str, Any]) -> str | None:
    return next((name for name in names if name in message), None)
