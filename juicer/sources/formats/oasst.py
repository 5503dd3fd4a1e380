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
from juicer.sources.formats.turns import Dialogue, TurnReader
from juicer.sources.formats.values import Slots, Values, has_value, required, wrong_type

READ = {"message_id", "parent_id", "message_tree_id", "text", "role", "rank", "deleted", "replies"}
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
    ranked = isinstance(rank, int | float) and not isinstance(rank, bool) and not math.isnan(rank)
    return Node({"role": role, "content": text}, float(rank) if ranked else math.inf, replies)  # type: ignore[arg-type]


def _kept(values: Any) -> bool:
    return not (isinstance(values, dict) and values.get("deleted") is True)


def _dialogue(root: Node, reader: TurnReader) -> Dialogue:
    """The path of the best-ranked replies, up to its last assistant turn, and the worst one beside that."""
    turns, node, rejected, end = [root.message], root, None, 0
    while replies := sorted(_replies(node, reader), key=lambda reply: reply.rank):
        node = replies[0]
        turns.append(node.message)
        if node.message["role"] == "assistant":
            end = len(turns)
            ranked = [reply for reply in replies if node.rank < reply.rank < math.inf]
            rejected = ranked[-1].message["content"] if ranked else None
    return Dialogue(turns[: end or None], 0, rejected)


def _replies(node: Node, reader: TurnReader) -> list[Node]:
    return [each if isinstance(each, Node) else _node(each, reader) for each in node.replies if _kept(each)]


@dataclass
class Forest:
    """The messages of a file that has one row per message, whose trees are known at its end."""

    reader: TurnReader
    nodes: dict[str | int, Node] = field(default_factory=dict)
    parents: dict[str | int, str | int | None] = field(default_factory=dict)

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
        self.parents[name] = parent or None
        if not _kept(values):
            if not parent:
                raise LeftOutError("deleted")
            return
        said = {"role": required(values, slots, "role"), "text": required(values, slots, "text")}
        node = _node({**said, "rank": values.get("rank"), "replies": values.get("replies")}, self.reader)
        node.where, node.held_out = row.where, held_out
        self.nodes[name] = node

    def trees(self) -> Iterator[tuple[Node, Dialogue | LeftOut]]:
        """The root and the best path of every tree; a message whose parent the file does not have is left out."""
        for name, node in self.nodes.items():
            parent = self.parents[name]
            if parent is not None and parent in self.nodes:
                self.nodes[parent].replies.append(node)
        for name, node in self.nodes.items():
            parent = self.parents[name]
            if parent is None:
                try:
                    yield node, _dialogue(node, self.reader)
                except LeftOutError as error:
                    yield node, LeftOut(error.reason, node.where, error.detail)
            elif parent not in self.parents:
                yield node, LeftOut("broken_tree", node.where, f"the file has no message {parent!r}, its parent")
