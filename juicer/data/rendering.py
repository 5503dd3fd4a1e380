"""A dialogue as text: chat templates, with their arguments and a date that is part of the recipe."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from juicer.data.demonstrations import Message
from juicer.runtime.errors import InputError, did_you_mean
from juicer.settings.data import GIVEN, TemplateSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GLOBALS = ("raise_exception", "namespace", "dict", "range")
"""Functions that transformers gives to a chat template."""


class RefusedDialogue(InputError):
    """The chat template refuses a dialogue, for example because of a system turn."""


def render(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], settings: TemplateSettings, *, asks: bool
) -> str:
    """The text of a dialogue by the tokenizer's chat template.

    Args:
        asks: whether the text ends where the assistant begins to answer.

    Raises:
        RefusedDialogue: the template raises an error on these turns; gives its message.
    """
    plain = [{"role": message["role"], "content": message["content"]} for message in messages]
    try:
        return _rendered(tokenizer, plain, settings, asks)
    except Exception as error:  # a template is a program that came with the model
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RefusedDialogue(
            f"the chat template refuses the dialogue: {reason}",
            where=str(tokenizer.name_or_path),
            do="change its turns or template.system, or set template.name to hh",
        ) from error


def _rendered(
    tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]], settings: TemplateSettings, asks: bool
) -> str:
    template = tokenizer.get_chat_template()
    arguments: dict[str, Any] = dict(settings.arguments)
    if "strftime_now" not in template:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks, **arguments))
    # What transformers does in `apply_chat_template`, which accepts no function that tells the date. A variable of the
    # call takes precedence over the global of the same name.
    from transformers.utils.chat_template_utils import _compile_jinja_template

    variables: dict[str, Any] = {
        **tokenizer.special_tokens_map,
        "messages": messages,
        "tools": None,
        "documents": None,
        "add_generation_prompt": asks,
        "strftime_now": date.fromisoformat(settings.date).strftime,
        **arguments,
    }
    return str(_compile_jinja_template(template).render(**variables))


def check_arguments(tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, object]) -> None:
    """Raise InputError for an argument that the tokenizer's chat template has no variable for."""
    if not arguments:
        return
    from jinja2 import meta
    from transformers.utils.chat_template_utils import _compile_jinja_template

    template = tokenizer.get_chat_template()
    known = meta.find_undeclared_variables(_compile_jinja_template(template).environment.parse(template))
    for name in arguments:
        if name not in known:
            what = f"the chat template has no variable {name!r}"
            do = did_you_mean(name, sorted(known - {*GIVEN, *GLOBALS, *tokenizer.special_tokens_map}))
            raise InputError(what, where="template.arguments", do=do or "remove it")
