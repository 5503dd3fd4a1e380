"""OpenAssistant's trees of messages, as one row per tree or one row per message: the best-ranked path is a dialogue.

A row of a message may have its replies inside it, as a tree has.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from juicer.data.demonstrations import Message
from juicer.settings.bounds import shortened
from juicer.sources.files import Row
from juicer.sources.formats.reasons import LeftOut, LeftOutError
from juicer.sources.formats.turns import MARKS, Dialogue, TurnReader, untrained
from juicer.sources.formats.values import Slots, Values, has_value, required, wrong_type

READ = {"message_id", "parent_id", "message_tree_id", "text", "role", "rank", "deleted", "replies", *MARKS}
"""Keys of a message that are read."""


@dataclass(slots=True)
class Node:
    """One message of a tree."""

    message: Message
    rank: float
    """Its place among the replies to the same message, 0 for the best; infinite if it was not ranked."""
    replies: list[Any]
    """Rows of the messages that answer it, or nodes."""
    where: str = ""
    held_out: bool = False
    why: str = ""
    """Why it is not to be trained on, "" if it is."""


def read(values: Values, slots: Slots, reader: TurnReader) -> Dialogue:
    """The best path of a tree that is one row.

    Raises:
        LeftOutError: a message of the path has no text, or a role that is not known.
    """
    root = required(values, slots, "tree")
    if not isinstance(root, dict):
        raise wrong_type(slots["tree"], "a message with its replies", root)
    if not _kept(root):
        raise LeftOutError("deleted")
    reader.unread.update(f"{slots['tree']}.{key}" for key in root.keys() - READ if has_value(root[key]))
    return _dialogue(_node(root, reader), reader)


def _node(values: Any, reader: TurnReader) -> Node:
    if not isinstance(values, dict):
        raise wrong_type("replies", "a list of messages", values)
    rank, replies, text = values.get("rank"), values.get("replies") or [], values.get("text")
    if not isinstance(replies, list):
        raise wrong_type("replies", "a list of messages", replies)
    if not isinstance(text, str):
        raise wrong_type("text", "text", text)
    role = reader.role(values.get("role"), "a message")
    if role == "tool":
        raise LeftOutError("tools", f"a message has the role {shortened(values['role'])}")
    ranked = not isinstance(rank, bool) and isinstance(rank, int | float) and not math.isnan(rank)
    place = math.inf if rank is None or not ranked else float(rank)
    message: Message = {"role": role, "content": text}
    return Node(message, place, replies, why=untrained(values))


def _kept(values: Any) -> bool:
    return not (isinstance(values, dict) and values.get("deleted") is True)


def _dialogue(root: Node, reader: TurnReader) -> Dialogue:
    """The path of the best-ranked replies, up to its last assistant turn, and the worst one beside that."""
    turns, node, rejected, end = [root.message], root, None, 0
    skipped: dict[int, str] = {}
    while replies := sorted(_replies(node, reader), key=lambda reply: reply.rank):
        node = replies[0]
        turns.append(node.message)
        if node.message["role"] == "assistant":
            end = len(turns)
            if node.why:
                skipped[end - 1] = node.why
            ranked = [reply for reply in replies if node.rank < reply.rank < math.inf]
            rejected = ranked[-1].message["content"] if ranked else None
    return Dialogue(turns[: end or None], 0, rejected, tuple(skipped), next(reversed(skipped.values()), ""))


def _replies(node: Node, reader: TurnReader) -> list[Node]:
    return [each if isinstance(each, Node) else _node(each, reader) for each in node.replies if _kept(each)]


@dataclass
class Forest:
    """The messages of a file that has one row per message, whose trees are known at its end."""

    reader: TurnReader
    nodes: dict[str | int, Node] = field(default_factory=dict)
    parents: dict[str | int, str | int | None] = field(default_factory=dict)
    deleted: dict[str | int, str] = field(default_factory=dict)
    """Places of deleted messages that answer others."""

    def add(self, row: Row, values: Values, slots: Slots, *, held_out: bool) -> None:
        """Keep a message.

        Raises:
            LeftOutError: it has no id, no text or a role that is not known, or its id is another's too.
        """
        name, parent = required(values, slots, "id"), values.get(slots.get("parent", ""))
        for each in (name, parent):
            if each is not None and not isinstance(each, str | int):
                raise wrong_type("message_id or parent_id", "text", each)
        if name in self.parents:
            raise LeftOutError("broken_tree", f"the id {name!r} occurs twice")
        self.parents[name] = parent = None if parent == "" else parent
        if not _kept(values):
            if parent is None:
                raise LeftOutError("deleted")
            self.deleted[name] = row.where
            return
        said = {"role": required(values, slots, "role"), "text": required(values, slots, "text")}
        more = {key: values[key] for key in ("rank", "replies", *MARKS) if key in values}
        node = _node({**said, **more}, self.reader)
        node.where, node.held_out = row.where, held_out
        self.nodes[name] = node

    def trees(self) -> Iterator[tuple[Node, Dialogue | LeftOut]]:
        """The root and the best path of every tree.

        A message whose parent the file does not have, or that follows upon itself, is left out; the messages below it
        are not told one by one.
        """
        for name, node in self.nodes.items():
            parent = self.parents[name]
            if parent is not None and parent in self.nodes:
                self.nodes[parent].replies.append(node)
        circular = self._circular()
        for name, where in self.deleted.items():
            if detail := self._fault(name, circular):
                yield Node({"role": "user", "content": ""}, 0, []), LeftOut("broken_tree", where, detail)
        for name, node in self.nodes.items():
            parent = self.parents[name]
            if parent is None:
                try:
                    yield node, _dialogue(node, self.reader)
                except LeftOutError as error:
                    yield node, LeftOut(error.reason, node.where, error.detail)
            elif detail := self._fault(name, circular):
                yield node, LeftOut("broken_tree", node.where, detail)

    def _fault(self, name: str | int, circular: set[str | int]) -> str:
        """Why a message is in no tree, "" if it is in one or only below such a message."""
        parent = self.parents[name]
        if parent is not None and parent not in self.parents:
            return f"the file has no message {parent!r}, its parent"
        return f"the message {name!r} answers itself, or a message that follows upon it" if name in circular else ""

    def _circular(self) -> set[str | int]:
        """The messages that are reached again by going from parent to parent."""
        circular: set[str | int] = set()
        seen: set[str | int] = set()
        for start in self.parents:
            path: list[str | int] = []
            name: str | int | None = start
            while name is not None and name in self.parents and name not in seen:
                seen.add(name)
                path.append(name)
                name = self.parents[name]
            if name is not None and name in path:
                circular.update(path[path.index(name) :])
        return circular
