"""Tokens are the data's under the templates and tokenizers of model families: nothing is cut, invented or doubled."""

from collections.abc import Callable

import pytest
from tokenizers import AddedToken, normalizers
from transformers import PreTrainedTokenizerFast

from juicer.data.demonstrations import Message
from juicer.data.rendering import RefusedDialogue
from juicer.data.template import Template
from juicer.runtime.errors import InputError
from juicer.settings.data import TemplateSettings
from juicer.sources.curation import Lengths
from juicer.sources.suitability import Rendered, Unsuitable, rendered, survives
from tests.chat_tokenizers import BEGUN, CHATML, DATED, GEMMA, THINKING, byte_level, chatml, gemma, llama, phi

ASKED: list[Message] = [{"role": "user", "content": "hello, how are you?"}]
SYSTEM: Message = {"role": "system", "content": "be kind"}
ANSWERS = ("very well", "  two\n\nlines,  and   spaces \n", "- a\n- b", "3.50 €, 你好, é, 🎉", "don't . , ! it 's", "x")
FAMILIES: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "gemma": gemma,
    "chatml": chatml,
    "thinking": lambda: chatml(THINKING),
    "phi": phi,
    "llama": llama,
    "dated": lambda: chatml(DATED),
}


def template_of(tokenizer: PreTrainedTokenizerFast, **settings: object) -> Template:
    return Template(tokenizer, TemplateSettings.parse({"name": "model", **settings}, "recipe"))


@pytest.mark.parametrize("name", ["model", "hh"])
@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_gives_every_response_back_and_it_ends_once(family: str, name: str) -> None:
    template = template_of(FAMILIES[family](), name=name)
    for answer in ANSWERS:
        found = rendered(template, ASKED, answer)
        assert isinstance(found, Rendered), found
        tokens = template.response(ASKED, answer)
        assert template.decode(tokens) == answer.strip()
        assert survives(template, tokens, answer)
        assert [token in template.ends for token in tokens] == [False] * (len(tokens) - 1) + [True]
        assert tokens[-1] == template.end_of_text


@pytest.mark.parametrize(
    ("family", "ends"), [("gemma", (4, 1)), ("chatml", (2, 0)), ("thinking", (2, 0)), ("phi", (1, 0)), ("llama", (2,))]
)
def test_a_response_ends_where_the_template_ends_a_turn_or_at_end_of_text(family: str, ends: tuple[int, ...]) -> None:
    assert template_of(FAMILIES[family]()).ends == ends


def test_the_ends_of_the_generation_configuration_are_ends_too() -> None:
    settings = TemplateSettings(name="hh")
    assert Template(gemma(), settings, ends=[1, 4]).ends == (1, 4)
    assert Template(gemma(), settings, ends=[1, 4, -1, 9999]).ends == (1, 4), "there are no such tokens"


def test_a_turn_whose_end_is_plain_text_ends_in_end_of_text() -> None:
    template = template_of(byte_level(["<eos>"], "<eos>", CHATML))
    assert template.ends == (0,)
    assert template.decode(template.response(ASKED, "very well")) == "very well"


def test_what_a_template_writes_before_an_answer_is_no_part_of_it() -> None:
    template = template_of(chatml(THINKING))
    response = template.response(ASKED, "very well")
    assert template.tokenizer.decode(response) == "<think>\n\n</think>\n\nvery well<|im_end|>"
    begun, closed = template.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    words = template.tokenizer("well", add_special_tokens=False)["input_ids"]
    assert template.decode([begun, *words, closed, *words, 2]) == "well", "thoughts are not the answer"
    assert template.decode([begun, *words]) == "", "cut within its thoughts"
    assert template.decode([*words, 2]) == "well"


def test_a_block_of_thoughts_is_recognised_where_its_marks_are_no_tokens() -> None:
    template = template_of(byte_level(["<eos>", "<|im_end|>"], "<eos>", THINKING))
    assert template.decode(template.response(ASKED, "very well")) == "very well"
    for text, answer in (("<think>hm</think>\n\nwell", "well"), ("<think>hm", ""), ("well", "well")):
        assert template.decode(template.tokenizer(text, add_special_tokens=False)["input_ids"]) == answer


def test_thoughts_that_the_prompt_begins_are_no_answer() -> None:
    template = template_of(chatml(BEGUN))
    assert template.render_prompt(ASKED).endswith("assistant\n<think>\n")
    assert template.decode(template.response(ASKED, "very well")) == "very well"
    for text, answer in (("hm</think>\n\nwell", "well"), ("hm", "")):
        assert template.decode(template.tokenizer(text, add_special_tokens=False)["input_ids"]) == answer


def test_white_space_around_a_response_may_be_the_template_s() -> None:
    template = template_of(chatml(CHATML.replace("m.content", "m.content.lstrip()")))
    assert isinstance(rendered(template, ASKED, "  very well \n"), Rendered)


def test_arguments_reach_the_template() -> None:
    template = template_of(chatml(THINKING), arguments={"enable_thinking": False})
    assert template.render_prompt(ASKED).endswith("assistant\n<think>\n\n</think>\n\n")
    assert template.tokenizer.decode(template.response(ASKED, "very well")) == "very well<|im_end|>"


def test_an_argument_that_the_template_does_not_have_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(InputError, match=r"no variable 'enable_thinkin' \(did you mean 'enable_thinking'\?\)"):
        template_of(chatml(THINKING), arguments={"enable_thinkin": False})
    with pytest.raises(InputError, match=r"template.arguments: the chat template has no variable 'enable_thinking'"):
        template_of(chatml(), arguments={"enable_thinking": False})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"date": "yesterday"}, "'yesterday' is not a date; write it as 2025-01-01"),
        ({"name": "model", "arguments": {"messages": 1}}, "messages is given by Juicer"),
        ({"name": "hh", "arguments": {"a": 1}}, "for a model's own chat template; set template.name to model"),
        ({"arguments": {"a b": 1}}, "'a b' is not the name of a variable"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TemplateSettings.parse(values, "recipe")


def test_today_is_a_day_of_the_recipe() -> None:
    assert template_of(chatml(DATED)).render_prompt(ASKED).startswith("Today: 01 Jan 2025\n<|im_start|>user\n")
    assert template_of(chatml(DATED), date="2026-02-03").render_prompt(ASKED).startswith("Today: 03 Feb 2026\n")


def test_a_dated_template_renders_all_else_as_transformers_does() -> None:
    dated = template_of(chatml(DATED)).render_prompt([SYSTEM, *ASKED])
    assert dated.partition("\n")[2] == template_of(chatml()).render_prompt([SYSTEM, *ASKED])


@pytest.mark.parametrize("name", ["model", "hh"])
def test_a_prompt_begins_as_the_tokenizer_begins_every_text_and_only_once(name: str) -> None:
    assert template_of(gemma(), name=name).prompt(ASKED).count(2) == 1
    assert template_of(gemma(), name=name).prompt(ASKED)[0] == 2
    assert template_of(llama(), name=name).prompt(ASKED)[:2].count(1) == 1
    assert 0 not in template_of(chatml(), name=name).prompt(ASKED), "this one begins a text with nothing"


@pytest.mark.parametrize(
    ("family", "prompt", "response", "holds"),
    [
        ("llama", "hello", "Write <s>old</s> new price", "the response holds '<s>'"),
        ("chatml", "a<|im_end|>\n<|im_start|>system\nb", "yes", "the user's text holds '<|im_end|>'"),
        ("gemma", "hello", "well<end_of_turn>", "the response holds '<end_of_turn>'"),
    ],
)
def test_special_tokens_in_texts_make_a_row_unsuitable(family: str, prompt: str, response: str, holds: str) -> None:
    template = template_of(FAMILIES[family]())
    asked: list[Message] = [{"role": "user", "content": prompt}]
    assert rendered(template, asked, response) == Unsuitable("markup_in_text", f"{holds}, which is read as markup")


def test_marks_of_anthropic_s_format_in_texts_make_a_row_unsuitable_under_its_template_only() -> None:
    text = "yes\n\nHuman: and you?"
    found = rendered(template_of(chatml(), name="hh"), ASKED, text)
    assert found == Unsuitable("markup_in_text", r"the response holds '\n\nHuman:', which is read as markup")
    assert isinstance(rendered(template_of(chatml()), ASKED, text), Rendered)


def test_marks_of_turns_are_no_text_even_where_they_are_not_special() -> None:
    tokenizer = byte_level(["<eos>"], "<eos>", CHATML, added=["<|im_start|>", "<|im_end|>", "<tool>"])
    template = template_of(tokenizer)
    assert template.ends[0] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert template.decode(template.response(ASKED, "very well")) == "very well"
    assert template.reserved_in("a <|im_start|> b") == "<|im_start|>"
    assert template.reserved_in("a <tool> b") is None
    assert template.decode(template.response(ASKED, "a <tool> b")) == "a <tool> b"


def test_a_response_is_never_cut_in_silence_and_never_ends_twice() -> None:
    template = template_of(gemma())
    with pytest.raises(InputError, match="the response holds '<bos>', which is read as markup"):
        template.response(ASKED, "well <bos> done")
    assert template.response(ASKED, "well<end_of_turn>\n") == template.response(ASKED, "well")


def test_a_dialogue_that_the_template_refuses_is_unsuitable_with_the_template_s_reason() -> None:
    template = template_of(gemma())
    reason = "the chat template refuses the dialogue: System role not supported"
    assert rendered(template, [SYSTEM, *ASKED], "yes") == Unsuitable("refused_by_template", reason)
    with pytest.raises(RefusedDialogue, match=reason):
        template.prompt([SYSTEM, *ASKED])
    twice = rendered(template, [*ASKED, *ASKED], "yes")
    assert isinstance(twice, Unsuitable) and "roles must alternate" in twice.what


def test_a_template_that_changes_a_text_makes_the_row_unsuitable() -> None:
    template = template_of(chatml(CHATML.replace("m.content", "m.content | replace('old', 'new')")))
    old: list[Message] = [{"role": "user", "content": "old"}]
    for found in (rendered(template, old, "yes"), rendered(template, ASKED, "old")):
        assert isinstance(found, Unsuitable) and found.reason == "changed_by_template"


def test_a_response_that_its_tokens_do_not_spell_is_found() -> None:
    lacking = byte_level(["<eos>"], "<eos>", CHATML)
    lacking.backend_tokenizer.decoder = None  # each token stands alone, with a blank between
    template = template_of(lacking)
    row = rendered(template, ASKED, "hello, how are you")
    assert isinstance(row, Rendered)
    assert Lengths(template).responses([row]) == [None]
    whole = template_of(byte_level(["<eos>"], "<eos>", CHATML))
    assert Lengths(whole).responses([row]) != [None]


def test_an_accent_that_the_tokenizer_composes_is_kept() -> None:
    tokenizer = chatml()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    template = template_of(tokenizer)
    assert survives(template, template.response(ASKED, "cafe\u0301"), "cafe\u0301")


def test_tokens_without_an_embedding_are_refused_where_the_template_writes_them_and_reserved_elsewhere() -> None:
    tokenizer = byte_level(["<eos>"], "<eos>", GEMMA, start="<eos>")
    size = len(tokenizer)
    tokenizer.add_tokens([AddedToken("<start_of_turn>", normalized=False), AddedToken("<image>", normalized=False)])
    settings = TemplateSettings(name="model")
    with pytest.raises(InputError, match=rf"token {size} \(<start_of_turn>\), but the model has only {size} "):
        Template(tokenizer, settings, vocabulary=size)
    template = Template(tokenizer, settings, vocabulary=size + 1)
    assert template.reserved_in("see <image>") == "<image>"


def test_a_template_that_never_shows_the_answer_is_refused() -> None:
    with pytest.raises(InputError, match="does not render an answer as it is written"):
        template_of(chatml("{{ messages[0].content }}"))
