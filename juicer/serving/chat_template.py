"""A chat template that any program renders to the tokens which the policy was trained on.

Juicer adds to a tokenizer's own template: the recipe's system turn, the template's arguments, a fixed day, and what the
tokenizer begins every text with. Other programs know none of that, so it is written into the template.
"""

import json
import re
from collections.abc import Iterator
from datetime import date

from juicer.data.demonstrations import Message
from juicer.data.rendering import RefusedDialogue
from juicer.data.template import ANSWER, NEXT, QUESTION, Template
from juicer.runtime.errors import InputError

_DAY = re.compile(r"strftime_now\(\s*(['\"])(?P<format>[^'\"]*)\1\s*\)")
_HH_ANSWER = "'\\n\\nAssistant: ' + message['content'] }}"


def plain_chat_template(template: Template) -> str:
    """The Jinja chat template with everything that `template` adds.

    An assistant's turn of Anthropic's format is stripped of white space: a policy's response begins with a blank, which
    a client sends back as it got it.

    Raises:
        InputError: no chat template makes the same tokens, or not one that this function can write.
    """
    settings = template.settings
    own = template.tokenizer.get_chat_template()
    own = own.replace(_HH_ANSWER, _HH_ANSWER.replace("message['content']", "(message['content'] | trim)"))
    day = date.fromisoformat(settings.date)
    own = _DAY.sub(lambda call: _literal(day.strftime(call["format"])), own)
    head = "".join(
        f"{{% if {name} is not defined %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}"
        for name, value in settings.arguments.items()
    )
    if settings.system is not None:
        turn = f"{{'role': 'system', 'content': {_literal(settings.system)}}}"
        head += (
            "{% if not messages or messages[0]['role'] != 'system' %}"
            f"{{% set messages = [{turn}] + messages %}}{{% endif %}}"
        )
    if beginning := _beginning(template):
        head += f"{{{{ {_literal(beginning)} }}}}"
    plain = head + own
    _check(template, plain)
    return plain


def _literal(value: object) -> str:
    """A value as Jinja writes it; JSON's escapes are Jinja's too."""
    return json.dumps(value)


def _beginning(template: Template) -> str:
    """The text of the tokens that a prompt begins with and that the chat template does not write."""
    question = next(_dialogues(template))
    tokens, text = template.prompt(question), template.render_prompt(question)
    rendered = template.tokenizer(text, add_special_tokens=False)["input_ids"]
    added = tokens[: len(tokens) - len(rendered)] if tokens != rendered else []
    return str(template.tokenizer.decode(added, skip_special_tokens=False)) if added else ""


def _dialogues(template: Template) -> Iterator[list[Message]]:
    """Dialogues of one and of two exchanges, with and without a system turn, so far as the template takes them."""
    question: list[Message] = [{"role": "user", "content": QUESTION}]
    longer: list[Message] = [
        *question, {"role": "assistant", "content": ANSWER}, {"role": "user", "content": NEXT}
    ]  # fmt: skip
    system: Message = {"role": "system", "content": ANSWER}
    for each in (question, longer, [system, *question], [system, *longer]):
        try:
            template.render_prompt(each)
        except RefusedDialogue:
            continue
        yield each


def _check(template: Template, plain: str) -> None:
    tokenizer = template.tokenizer
    for each in _dialogues(template):
        expected = template.prompt(each)
        try:
            made = tokenizer.apply_chat_template(
                [{"role": turn["role"], "content": turn["content"]} for turn in each],
                chat_template=plain,
                tokenize=True,
                add_generation_prompt=True,
                return_dict=False,
            )
        except Exception as error:  # a template is a program that came with the model
            made = [f"{type(error).__name__}: {error}"]
        if list(made) != expected:
            raise InputError(
                "no chat template makes the tokens that this model was trained on: other programs would ask it "
                "differently",
                where=str(tokenizer.name_or_path),
                do="use it by juicer chat, or train with template.name: hh",
            )
