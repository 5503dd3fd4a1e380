"""Why rows are left out: what each reason means, and whether the source means it."""

from dataclasses import dataclass
from typing import Literal

Reason = Literal[
    "undesirable",
    "not_trained",
    "deleted",
    "media",
    "tools",
    "unreadable",
    "missing",
    "wrong_type",
    "unknown_role",
    "no_assistant_turn",
    "different_prompts",
    "empty_prompt",
    "empty_response",
    "prompt_not_from_user",
    "text_before_first_turn",
    "broken_tree",
    "invalid_text",
]
MEANT: frozenset[Reason] = frozenset({"undesirable", "not_trained", "deleted", "media", "tools"})
"""The row says that it is no demonstration of text. Any number of such rows is fine."""
EXPLANATIONS: dict[Reason, str] = {
    "undesirable": "the label says that the response is undesirable",
    "not_trained": "no assistant turn is to be trained on",
    "deleted": "the first message of the tree is deleted",
    "media": "the row has images, audio or video, which are not read",
    "tools": "the row has tools or calls of them, which are not read",
    "unreadable": "the row cannot be read",
    "missing": "a key is missing or null",
    "wrong_type": "a value has the wrong type",
    "unknown_role": "a role is not known",
    "no_assistant_turn": "the dialogue does not end in an assistant turn",
    "different_prompts": "the better and the worse response have different prompts",
    "empty_prompt": "the prompt is empty",
    "empty_response": "the response is empty",
    "prompt_not_from_user": "the prompt does not end in a user turn",
    "text_before_first_turn": "there is text before the first turn",
    "broken_tree": "a message does not fit into its tree",
    "invalid_text": "the text contains an unpaired surrogate, which UTF-8 cannot encode",
}
UNUSABLE: frozenset[Reason] = frozenset(EXPLANATIONS) - MEANT
"""The row is faulty; counted against `fetch.unusable_share`."""


@dataclass(frozen=True)
class LeftOut:
    """A row, or a part of one, that is no demonstration."""

    reason: Reason
    where: str
    """Place of the row."""
    detail: str = ""
    """What was found in this row, as a clause; "" if the reason says it all."""

    @property
    def unusable(self) -> bool:
        """Whether the row is faulty; otherwise the source means it."""
        return self.reason in UNUSABLE

    @property
    def explanation(self) -> str:
        """What the reason means, as a clause."""
        return EXPLANATIONS[self.reason]

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return " ".join(f"{self.where}: {self.explanation}{detail}".split())


class LeftOutError(Exception):
    """Raised by the reader of a format for a row that is to be left out.

    Attributes:
        part: of `missing`, the part of the format that the row lacks.
    """

    def __init__(self, reason: Reason, detail: str = "", part: str = "") -> None:
        self.reason: Reason = reason
        self.detail = detail
        self.part = part
        super().__init__(reason)
