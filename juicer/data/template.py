"""How a dialogue becomes tokens. Sampling, training and evaluation of policies all go through `Template`.

The paper's public code renders prompts in three different ways, so that a policy is trained on prompts that it never
sees when it is sampled.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from juicer.data import hh
from juicer.data.demonstrations import Message
from juicer.data.rendering import RefusedDialogue, check_arguments, render
from juicer.runtime.errors import InputError
from juicer.settings.data import TemplateSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION, ANSWER, NEXT = "How are you?", "Very well.", "Why?"
"""A dialogue that any template renders: what stands around the answer is the template's."""
_EMPTY_BLOCK = re.compile(r"\s*<(\w+)>\s*</\1>\s*")


def chat_template_of(name: str) -> str | None:
    """The Jinja chat template called `name`; None for `model`, i.e. the tokenizer's own."""
    return hh.CHAT_TEMPLATE if name == "hh" else None


class Template:
    """Dialogues to tokens and back, for one tokenizer.

    Args:
        tokenizer: the policy's; its chat template is set to the recipe's.
        settings: name of the template, its arguments, system turn and length limits.
        ends: tokens at which the model's generation configuration ends a response.
        vocabulary: number of tokens that the model has an embedding for; None if it is not known.

    Attributes:
        end_of_text: the token that ends a response in training: the one that the template writes after an answer, and
            the tokenizer's end-of-text where it writes none.
        ends: all tokens that end a response, without duplicates; the first is `end_of_text`.

    Raises:
        InputError: the tokenizer has no chat template of its own, or no end-of-text token; the template changes a plain
            answer, or has no variable of the name of an argument; the model has no embedding for one of its tokens.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        settings: TemplateSettings,
        ends: Iterable[int] = (),
        vocabulary: int | None = None,
    ) -> None:
        template = chat_template_of(settings.name)
        self.replaced = template is not None and tokenizer.chat_template not in (None, template)
        """Whether the tokenizer had another chat template, which the recipe's has replaced."""
        if template is not None:
            tokenizer.chat_template = template
        elif not tokenizer.chat_template:
            raise InputError(
                "the tokenizer has no chat template of its own",
                where=str(tokenizer.name_or_path),
                do="set template.name to hh, or save a chat template with the model",
            )
        if tokenizer.eos_token_id is None:
            raise InputError(
                "the tokenizer has no end-of-text token",
                where=str(tokenizer.name_or_path),
                do="set eos_token in tokenizer_config.json",
            )
        check_arguments(tokenizer, settings.arguments)
        self.tokenizer = tokenizer
        self.settings = settings
        self.padding: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        size = len(tokenizer) if vocabulary is None else vocabulary
        known = [end for end in ends if 0 <= end < size]
        self._added = {token: str(each.content) for token, each in tokenizer.added_tokens_decoder.items()}
        self._special = {token for token, each in tokenizer.added_tokens_decoder.items() if each.special}
        self._special |= set(tokenizer.all_special_ids)
        self._first = self._beginning()
        question = self._question()
        self.lead, self._tail = self._around_an_answer(question)
        """What the template writes before an answer that it does not write at the end of a prompt, for example an empty
        block of thoughts."""
        own = self._end_in(self._tail, {tokenizer.eos_token_id, *known})
        self.ends: tuple[int, ...] = tuple(
            dict.fromkeys([*([] if own is None else [own]), tokenizer.eos_token_id, *known])
        )
        self.end_of_text: int = self.ends[0]
        self._closing = self._until_end(own)
        markup = self._markup(question)
        if vocabulary is not None:
            self._check_embedded({*markup, *self.ends, *self._first, self.padding}, vocabulary)
        self._marks = self._special | {token for token in self._added if token >= size}
        self._marks |= {token for token in markup if token in self._added and self._is_mark(token)}
        self._reserved = _any_of(
            [
                *(self._added.get(token, "") for token in self._marks),
                *map(str, tokenizer.all_special_tokens),
                *(hh.TURNS if settings.name == "hh" else ()),
            ]
        )
        self._any_added = _any_of(self._added.values())
        self._begins_within = self.lead.strip().startswith("</")
        self._blocks = [token for token in self._tokens(self.lead) if self._is_mark(token)] if self.lead.strip() else []

    def turns(self, prompt: Sequence[Message]) -> list[Message]:
        """The turns of a prompt as they are rendered: with the recipe's system turn, unless the prompt has one."""
        if self.settings.system is None or prompt[0]["role"] == "system":
            return list(prompt)
        return [{"role": "system", "content": self.settings.system}, *prompt]

    def render_prompt(self, prompt: Sequence[Message]) -> str:
        """The text that a policy continues.

        Raises:
            RefusedDialogue: the template raises an error on these turns.
        """
        return render(self.tokenizer, self.turns(prompt), self.settings, asks=True)

    def render_response(self, prompt: Sequence[Message], response: str, start: str | None = None) -> str:
        """The text of a response as the template renders it after the prompt, including what it writes at the end.

        Args:
            start: the rendered prompt, if it is known.

        Raises:
            RefusedDialogue: the template raises an error on these turns.
            InputError: the template renders the prompt differently with and without a response.
        """
        answered: list[Message] = [*self.turns(prompt), {"role": "assistant", "content": response}]
        whole = render(self.tokenizer, answered, self.settings, asks=False)
        start = self.render_prompt(prompt) if start is None else start
        if not whole.startswith(start):
            raise InputError(
                "the chat template renders an answered dialogue differently from its prompt",
                where=str(self.tokenizer.name_or_path),
                do="use a template whose generation prompt is a prefix of the answered dialogue; for one that begins "
                "with thoughts, template.arguments may switch them off",
            )
        return whole[len(start) :]

    def prompt(self, prompt: Sequence[Message]) -> list[int]:
        """Tokens of the prompt, with the template's generation prompt, after what the tokenizer begins a text with."""
        return self.tokens_of_prompts([self.render_prompt(prompt)])[0]

    def response(self, prompt: Sequence[Message], response: str) -> list[int]:
        """Tokens of a complete response as they follow those of the prompt; the last one is `end_of_text`.

        Raises:
            InputError: the response holds the text of a special token, other than an end of its own.
        """
        response = self._without_end(response)
        if (found := self.reserved_in(response)) is not None:
            raise InputError(
                f"the response holds {found!r}, which is read as markup",
                where=str(self.tokenizer.name_or_path),
                do="remove it from the response, or curate the data again",
            )
        start = self.render_prompt(prompt)
        return self.tokens_of_responses([(start, self.render_response(prompt, response, start))])[0]

    def tokens_of_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of prompts that `render_prompt` has rendered."""
        first = self._first
        return [tokens if tokens[: len(first)] == first else [*first, *tokens] for tokens in self._tokens_of(texts)]

    def tokens_of_responses(self, rendered: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Tokens of responses, given as the rendered prompt and what `render_response` has rendered after it."""
        pairs = [(start, rest.removesuffix(self._tail) + self._closing) for start, rest in rendered]
        starts = self._tokens_of([start for start, _ in pairs])
        wholes = self._tokens_of([start + rest for start, rest in pairs])
        return [
            # Llama's tokenizers start every text with an additional blank: tokenised alone, a response would get tokens
            # that a policy never writes after a prompt. It is tokenised alone only if a token spans the boundary.
            self._ended(whole[len(before) :] if whole[: len(before)] == before else self._tokens(rest))
            for (_, rest), before, whole in zip(pairs, starts, wholes, strict=True)
        ]

    def without_closing(self, tokens: list[int]) -> list[int]:
        """Tokens of `response` without what the template writes after an answer: as if it had been cut there."""
        closing = self._tokens(self._closing) if self._closing else []
        rest = tokens[: -len(closing)] if closing and tokens[-len(closing) :] == closing else tokens
        return rest[:-1] if rest[-1:] == [self.end_of_text] else rest

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of response tokens: of the answer alone, without special tokens and surrounding white space."""
        answer = [token for token in self._answer_of(list(tokens)) if token not in self._marks]
        text = str(self.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()
        return self._without_lead(text)

    def reserved_in(self, text: str) -> str | None:
        """The first text of a special token, or of another mark of a turn, in `text`; None if it has none.

        It would be read as that: a user's text could end a turn, and a response would be cut there.
        """
        found = self._reserved.search(text)
        return found.group() if found else None

    def holds_added(self, text: str) -> bool:
        """Whether `text` holds any token that was added to the tokenizer, which may take blanks around it with it."""
        return self._any_added.search(text) is not None

    def answer_in(self, rest: str) -> str | None:
        """What `rest`, from `render_response`, holds between what the template writes around every answer.

        None if that does not stand there. Some templates strip the white space around an answer.
        """
        if not rest.startswith(self.lead) or not rest.endswith(self._tail):
            return None
        return rest[len(self.lead) : len(rest) - len(self._tail)]

    def _tokens(self, text: str) -> list[int]:
        return self._tokens_of([text])[0]

    def _tokens_of(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        tokens: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return tokens

    def _ended(self, tokens: list[int]) -> list[int]:
        if self.end_of_text in tokens:
            return tokens[: tokens.index(self.end_of_text) + 1]
        return [*tokens, self.end_of_text]

    def _beginning(self) -> list[int]:
        """The tokens that the tokenizer itself puts before a text, for example <s>."""
        plain, whole = self._tokens("a"), list(self.tokenizer("a")["input_ids"])
        places = range(len(whole) - len(plain) + 1)
        return next((whole[:place] for place in places if whole[place : place + len(plain)] == plain), [])

    def _question(self) -> list[Message]:
        """A prompt that the template renders."""
        question: list[Message] = [{"role": "user", "content": QUESTION}]
        try:
            self.render_prompt(question)
        except RefusedDialogue:
            question.insert(0, {"role": "system", "content": NEXT})
            self.render_prompt(question)
        return question

    def _around_an_answer(self, question: list[Message]) -> tuple[str, str]:
        lead, found, tail = self.render_response(question, ANSWER).partition(ANSWER)
        if not found:
            raise InputError(
                "the chat template does not render an answer as it is written",
                where=str(self.tokenizer.name_or_path),
                do="use a template that renders the content of the assistant's turns",
            )
        return lead, tail

    def _end_in(self, tail: str, others: set[int]) -> int | None:
        """The first special or added token in what the template writes after an answer; None if there is none."""
        return next((token for token in self._tokens(tail) if token in others or self._is_mark(token)), None)

    def _until_end(self, end: int | None) -> str:
        """What follows an answer in training, up to its end. Blanks are learnt even where no end follows them."""
        if end is None:
            return self._tail if self._tail.isspace() else ""
        content = self._added.get(end) or str(self.tokenizer.convert_ids_to_tokens(end))
        before, found, _ = self._tail.partition(content)
        return before + found if found else ""

    def _is_mark(self, token: int) -> bool:
        """Whether a token is special or was added, and is not a blank; Gemma adds some for blanks."""
        return token in self._special or not self._added.get(token, " ").isspace()

    def _markup(self, question: list[Message]) -> set[int]:
        """Every token that stands in a dialogue of two exchanges, so far as the template accepts it."""
        tokens = set(self.prompt(question)) | set(self._tokens(self.lead + ANSWER + self._tail))
        answered: list[Message] = [*question, {"role": "assistant", "content": ANSWER}]
        try:
            return tokens | set(self.prompt([*answered, {"role": "user", "content": NEXT}]))
        except RefusedDialogue:
            return tokens

    def _check_embedded(self, tokens: set[int], vocabulary: int) -> None:
        largest = max(tokens)
        if largest >= vocabulary:
            name = self.tokenizer.convert_ids_to_tokens(largest)
            what = f"the template uses the token {largest} ({name}), but the model has only {vocabulary} (vocab_size)"
            do = "save the model's own tokenizer beside its weights, or resize the embedding"
            raise InputError(what, where=str(self.tokenizer.name_or_path), do=do)

    def _without_end(self, response: str) -> str:
        """A response of data that has the end of a turn already, without it."""
        text = self._added.get(self.end_of_text)
        return response.rstrip().removesuffix(text).rstrip() if text and response.rstrip().endswith(text) else response

    def _without_lead(self, text: str) -> str:
        """Decoded text without what is plain text of that which the template writes before an answer."""
        lead = self.lead
        if self._blocks and (mark := self._added.get(self._blocks[-1])):
            lead = lead.rpartition(mark)[2]
        if not lead.strip():
            return text
        if (block := _EMPTY_BLOCK.fullmatch(lead)) and text.startswith(f"<{block[1]}>"):
            # With thoughts in it, or cut within them.
            return text.rpartition(f"</{block[1]}>")[2].strip() if f"</{block[1]}>" in text else ""
        return text.removeprefix(lead.strip()).strip()

    def _answer_of(self, tokens: list[int]) -> list[int]:
        """Response tokens without their end, and without what a template writes before an answer."""
        end = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        tokens = tokens[:end]
        if not (blocks := self._blocks):
            return tokens
        if blocks[-1] in tokens:
            last = len(tokens) - 1 - tokens[::-1].index(blocks[-1])
            return tokens[last + 1 :]
        # A block that the prompt or the response has begun and that is not closed where the response was cut: there is
        # no answer.
        return [] if blocks[0] in tokens or self._begins_within else tokens


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of some texts, the longest first; nothing if there are none."""
    longest_first = sorted(set(texts) - {""}, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
