"""What to do about a row of no known format: the columns that seem to be meant."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

from juicer.runtime.errors import InputError
from juicer.sources.formats.values import Values, names_of

KNOWN = "messages, conversations, prompt with response, instruction with output, or chosen with rejected"
MOST = 50
"""Keys of a row that are looked at."""
LIKE = 0.75
"""How like a usual name a key must be, from 0 to 1 (difflib's ratio)."""
WORDS = {
    "prompt": ("prompt", "question", "query", "instruction", "request", "user", "human", "problem", "input", "ask"),
    "response": ("response", "reply", "answer", "completion", "output", "assistant", "solution", "target", "bot"),
    "context": ("context", "passage", "document", "background"),
    "system": ("system", "persona"),
    "rejected": ("rejected", "worse", "losing", "bad"),
    "messages": ("messages", "conversation", "dialogue", "dialog", "chat", "turns", "thread", "history"),
    "role": ("role", "from", "speaker", "author", "sender", "name", "type", "who"),
    "content": ("content", "value", "text", "message", "body", "utterance", "said"),
}


def unrecognised(values: Values, where: str) -> InputError:
    """The error for a first row of no known format, with the mapping that fits its keys best."""
    what = f"unrecognised format: the row has the keys {names_of(values)}"
    names = {part: name for part, name in _guessed(values).items() if _plain(name)}
    if not {"messages", "role"} <= names.keys() and not {"prompt", "response"} <= names.keys():
        do = f"known are {KNOWN}; for other keys set fetch.columns: {{prompt: KEY, response: KEY}}"
        return InputError(what, where=where, do=do)
    mapping = ", ".join(f"{part}: {name}" for part, name in names.items())
    nearest = "messages" if "messages" in names else "prompt-response"
    return InputError(what, where=where, do=f"nearest is {nearest}: set fetch.columns: {{{mapping}}}")


def _guessed(values: Values) -> dict[str, str]:
    pairs = [(key, value) for key, value in list(values.items())[:MOST] if isinstance(key, str)]
    lists = {key: value for key, value in pairs if isinstance(value, list) and value and isinstance(value[0], dict)}
    for of in filter(None, (_best("messages", lists), next(iter(lists), None))):
        keys = _of_message(lists[of][0])
        # A list under the name of a prompt is a prompt of messages.
        if keys and (_likeness("messages", of) > LIKE or _best("prompt", [of]) is None):
            return {"messages": of, **keys}
    texts = {key: value for key, value in pairs if isinstance(value, str)}
    found = {}
    for part in ("prompt", "response", "context", "system", "rejected"):
        if key := _best(part, texts):
            found[part] = key
            del texts[key]
    # Of two texts beside each other, the first is usually the prompt.
    if len(texts) == 1 and ("prompt" in found) != ("response" in found):
        found["prompt" if "response" in found else "response"] = next(iter(texts))
    return {part: found[part] for part in WORDS if part in found}


def _of_message(message: dict[str, Any]) -> dict[str, str]:
    """The keys of a message's role and text, one of which has a usual name."""
    texts = [key for key, value in message.items() if isinstance(key, str) and isinstance(value, str | list)]
    role, content = _best("role", texts), _best("content", texts)
    if len(texts) == 2 and (role is None) != (content is None):
        role, content = role or texts[texts[0] == content], content or texts[texts[0] == role]
    return {"role": role, "content": content} if role and content and role != content else {}


def _best(part: str, keys: Iterable[str]) -> str | None:
    """The key that is most like a part's usual names, by its words; None if none is."""
    rated = [(_likeness(part, key), -place, key) for place, key in enumerate(keys)]
    likeness, _, key = max(rated, default=(0.0, 0, ""))
    return key if likeness > LIKE else None


def _likeness(part: str, key: str) -> float:
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key[:100]).lower())
    if {"id", "uuid", "date", "len", "length", "tokens", "score"} & {*words}:
        return 0.0
    usual = WORDS[part]
    likest = max((difflib.SequenceMatcher(None, word, name).ratio() for word in words for name in usual), default=0.0)
    return likest - 0.01 * len(words)


def _plain(name: str) -> bool:
    """Whether a key can stand in a recipe as it is."""
    return bool(re.fullmatch(r"[A-Za-z_][\w .-]*", name))
