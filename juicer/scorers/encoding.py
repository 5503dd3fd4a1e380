"""Scored dialogues as tokens: the special tokens of the markup are special, and those that stand in the data are text.

A tokenizer reads `</s>` in a user's text as the end of that text. Where data holds such a string, the row goes through
a copy of the tokenizer that spells its special tokens in characters that occur in no data; all ids stay the same.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from juicer.data.demonstrations import Message
from juicer.runtime.errors import InputError

Row = tuple[list[Message], str]
"""A prompt and a response to it."""
Texts = tuple[str] | tuple[str, str]
"""What a tokenizer gets of a row: one text, or a pair of question and answer."""
Render = Callable[[list[Message], str], Texts]
PRIVATE = range(0xF0000, 0x10FFFE)
"""Characters that Unicode assigns to nobody."""
PLAIN: Row = ([{"role": "user", "content": "How are you?"}], "Very well.")


class RefusedRow(InputError):
    """A chat template refuses a row, for example because of a system turn."""


class Encoder:
    """Rows as token ids.

    Args:
        tokenizer: the scorer's.
        render: the texts of a row.
        add_special_tokens: whether the tokenizer puts its special tokens around the texts.
        paired: whether the texts of a row are a pair.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, render: Render, *, add_special_tokens: bool, paired: bool = False
    ) -> None:
        self.tokenizer = tokenizer
        self.add_special_tokens = add_special_tokens
        self.paired = paired
        self._render = render
        self._marks = self._special()
        self._pattern = _any_of(self._marks)
        self._copies: dict[int, Any] = {}

    def render(self, row: Row, number: int | None = None) -> Texts:
        """The texts of a row.

        Args:
            number: the row's, from 1, for the error.

        Raises:
            RefusedRow: the chat template refuses it.
        """
        try:
            return self._render(*row)
        except Exception as error:  # a template is a program that came with the model
            reason = " ".join(str(error.__cause__ or error).split())[:200] or type(error).__name__
            which = "a row" if number is None else f"row {number}"
            what = f"the scorer's chat template refuses {which}: {reason}"
            do = "remove the row, or use a scorer whose template takes it"
            raise RefusedRow(what, where=str(self.tokenizer.name_or_path), do=do) from error

    def refusals(self, rows: Sequence[Row]) -> list[str | None]:
        """Why the chat template refuses a row; None for the rows that it takes."""
        reasons: list[str | None] = []
        for row in rows:
            try:
                self.render(row)
            except RefusedRow as error:
                reasons.append(error.what)
            else:
                reasons.append(None)
        return reasons

    def encode(self, rows: Sequence[Row]) -> list[list[int]]:
        """Token ids of each row.

        Raises:
            RefusedRow: the chat template refuses a row; gives its number.
        """
        odd = [any(self._pattern.search(text) for text in _data(row)) for row in rows]
        plain = [self.render(row, number) for number, row in enumerate(rows, 1) if not odd[number - 1]]
        ordinary = iter(self._tokens(plain))
        return [
            self._once(self._encode_odd(row, number) if odd[number - 1] else next(ordinary))
            for number, row in enumerate(rows, 1)
        ]

    def _once(self, ids: list[int]) -> list[int]:
        """Without a second begin-of-text or end-of-text, which both the tokenizer and the markup wrote."""
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if self.paired or not self.add_special_tokens or len(ids) < 2:
            return ids
        first = 1 if begin is not None and ids[:2] == [begin] * 2 else 0
        last = len(ids) - 1 if end is not None and ids[-2:] == [end] * 2 else len(ids)
        return ids[first:last]

    def _tokens(self, texts: Sequence[Texts]) -> list[list[int]]:
        if not texts:
            return []
        columns = [list(column) for column in zip(*texts, strict=True)]
        ids: list[list[int]] = self.tokenizer(*columns, add_special_tokens=self.add_special_tokens, verbose=False)[
            "input_ids"
        ]
        return ids

    def _encode_odd(self, row: Row, number: int) -> list[int]:
        """Token ids of a row whose data holds special tokens as text."""
        first = self._unused(row)
        masks = {mark: chr(first + place) for place, mark in enumerate(self._marks)}
        spelled = {mark: chr(first + len(self._marks) + place) for place, mark in enumerate(self._marks)}
        back = {mask: mark for mark, mask in masks.items()}

        def masked(text: str) -> str:
            return self._pattern.sub(lambda found: masks[found[0]], text)

        prompt = [Message(role=turn["role"], content=masked(turn["content"])) for turn in row[0]]
        texts = self.render((prompt, masked(row[1])), number)
        # What still stands there in a special token's own spelling is markup.
        texts_again = [self._pattern.sub(lambda found: spelled[found[0]], text) for text in texts]
        unmasked = ["".join(back.get(character, character) for character in text) for text in texts_again]
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            what = f"row {number} holds a special token of the scorer's tokenizer, which cannot read it as text"
            raise InputError(what, where=str(self.tokenizer.name_or_path), do="save the tokenizer as tokenizer.json")
        if first not in self._copies:
            self._copies[first] = _respelled(backend, spelled)
        ids: list[int] = self._copies[first].encode(*unmasked, add_special_tokens=self.add_special_tokens).ids
        return ids

    def _special(self) -> list[str]:
        """The special tokens, and other added tokens that the markup of a dialogue consists of."""
        added = {str(token.content): token.special for token in self.tokenizer.added_tokens_decoder.values()}
        try:
            markup = "".join(self._render(*PLAIN))
        except Exception:  # a template that refuses this dialogue too
            markup = str(self.tokenizer.chat_template or "")
        return sorted(
            content for content, special in added.items() if content.strip() and (special or content in markup)
        )

    def _unused(self, row: Row) -> int:
        """The first of so many characters, one after the other, that the row does not hold."""
        present = {ord(character) for text in _data(row) for character in text if ord(character) >= PRIVATE.start}
        size = 2 * len(self._marks)
        for first in range(PRIVATE.start, PRIVATE.stop - size, size):
            if present.isdisjoint(range(first, first + size)):
                return first
        raise InputError("a row holds every private character of Unicode", where="scorer", do="remove the row")


def _data(row: Row) -> list[str]:
    return [*(turn["content"] for turn in row[0]), row[1]]


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of some texts, the longest first; nothing if there are none."""
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _respelled(backend: Any, spelled: dict[str, str]) -> Any:
    """A copy of a tokenizer with other spellings for some tokens, under the same ids."""
    pipeline: dict[str, Any] = json.loads(backend.to_str())
    pipeline |= {"truncation": None, "padding": None}
    for token in pipeline["added_tokens"]:
        if token["content"] in spelled:
            token |= {"content": spelled[token["content"]], "normalized": False}
    model = pipeline["model"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {spelled.get(token, token): number for token, number in vocabulary.items()}
    elif vocabulary is not None:
        model["vocab"] = [[spelled.get(token, token), score] for token, score in vocabulary]
    if "merges" in model:
        # Text must not be merged into a special token.
        merges = [each.split(" ") if isinstance(each, str) else each for each in model["merges"]]
        model["merges"] = [each for each in merges if not {*each, "".join(each)} & set(spelled)]
    if model.get("unk_token") in spelled:
        model["unk_token"] = spelled[model["unk_token"]]
    return type(backend).from_str(json.dumps(pipeline))
