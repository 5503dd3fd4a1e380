"""How a dialogue becomes tokens. Sampling, training and evaluation of policies all go through `Template`.

The paper's public code renders prompts in three different ways, so that a policy is trained on prompts that it never
sees when it is sampled.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from juicer.data import hh
from juicer.data.demonstrations import Message
from juicer.runtime.errors import InputError
from juicer.settings.data import TemplateSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def chat_template_of(name: str) -> str | None:
    """The Jinja chat template called `name`; None for `model`, i.e. the tokenizer's own."""
    return hh.CHAT_TEMPLATE if name == "hh" else None


class Template:
    """Dialogues to tokens and back, for one tokenizer.

    Args:
        tokenizer: the policy's; its chat template is set to the recipe's.
        settings: name of the template, system turn and length limits.

    Raises:
        InputError: the tokenizer has no chat template of its own, or no end-of-text token.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", settings: TemplateSettings) -> None:
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
        self.tokenizer = tokenizer
        self.settings = settings
        self.end_of_text: int = tokenizer.eos_token_id
        self.padding: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def turns(self, prompt: Sequence[Message]) -> list[Message]:
        """The turns of a prompt as they are rendered: with the recipe's system turn, unless the prompt has one."""
        if self.settings.system is None or prompt[0]["role"] == "system":
            return list(prompt)
        return [{"role": "system", "content": self.settings.system}, *prompt]

    def render_prompt(self, prompt: Sequence[Message]) -> str:
        """The text that a policy continues."""
        messages: list[dict[str, str]] = _plain(self.turns(prompt))
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def render_response(self, prompt: Sequence[Message], response: str) -> str:
        """The text of a response as the template renders it after the prompt, including end-of-text.

        Raises:
            InputError: the template renders the prompt differently with and without a response.
        """
        answered: list[dict[str, str]] = _plain(self.turns(prompt))
        answered.append({"role": "assistant", "content": response})
        whole = str(self.tokenizer.apply_chat_template(answered, tokenize=False))
        start = self.render_prompt(prompt)
        if not whole.startswith(start):
            raise InputError(
                "the chat template renders an answered dialogue differently from its prompt",
                where=str(self.tokenizer.name_or_path),
                do="use a template whose generation prompt is a prefix of the answered dialogue",
            )
        return whole[len(start) :]

    def prompt(self, prompt: Sequence[Message]) -> list[int]:
        """Tokens of the prompt, including the template's generation prompt."""
        return self._tokens(self.render_prompt(prompt))

    def response(self, prompt: Sequence[Message], response: str) -> list[int]:
        """Tokens of a complete response as they follow those of the prompt; the last one is end-of-text."""
        start, rest = self.render_prompt(prompt), self.render_response(prompt, response)
        before, whole = self._tokens(start), self._tokens(start + rest)
        # Llama's tokenizers start every text with an additional blank: tokenised alone, a response would get tokens
        # that a policy never writes after a prompt. It is tokenised alone only if a token spans the boundary.
        tokens = whole[len(before) :] if whole[: len(before)] == before else self._tokens(rest)
        if self.end_of_text in tokens:
            return tokens[: tokens.index(self.end_of_text) + 1]
        return [*tokens, self.end_of_text]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of response tokens, without special tokens and surrounding white space."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message["role"], "content": message["content"]} for message in messages]
