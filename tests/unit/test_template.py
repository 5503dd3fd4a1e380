"""One template for every stage: prompts continue into responses, and end-of-text is exactly one token."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from juicer.data.template import Template
from juicer.quickstart.random_models import CHAT
from juicer.runtime.errors import InputError
from juicer.settings.data import TemplateSettings

DIALOGUE = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hello!"},
    {"role": "user", "content": "how are you?"},
]


def test_hh_prompts_are_anthropics(template):
    expected = "\n\nHuman: hello\n\nAssistant: hello!\n\nHuman: how are you?\n\nAssistant:"
    assert template.render_prompt(DIALOGUE) == expected


def test_prompt_and_response_tokens_spell_the_whole_dialogue(template):
    tokens = template.prompt(DIALOGUE) + template.response(DIALOGUE, "very well")
    text = template.tokenizer.decode(tokens)
    assert text == template.render_prompt(DIALOGUE) + " very well<|endoftext|>"


def test_a_response_ends_in_one_end_of_text(template):
    response = template.response(DIALOGUE, "very well")
    assert response.count(template.end_of_text) == 1
    assert response[-1] == template.end_of_text


def test_decoding_gives_the_response_back(template):
    assert template.decode(template.response(DIALOGUE, "very well, thank you")) == "very well, thank you"


def test_blanks_that_a_template_writes_after_end_of_text_are_dropped(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    template = Template(tokenizer, TemplateSettings(name="model"))
    assert template.response(DIALOGUE[:1], "well")[-1] == template.end_of_text
    assert template.response(DIALOGUE[:1], "well").count(template.end_of_text) == 1


def test_a_response_has_the_tokens_that_follow_the_prompt():
    # Llama's tokenizers put a blank before every text, and so before a response that is tokenised alone.
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)])
    made.train_from_iterator(
        ["well done, very well\n", "<|user|>\nhello\n<|assistant|>\nwell\n"] * 10,
        trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "</s>"], show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = CHAT
    template = Template(tokenizer, TemplateSettings(name="model"))
    prompt, response = template.prompt(DIALOGUE[:1]), template.response(DIALOGUE[:1], "well done")
    whole = template.render_prompt(DIALOGUE[:1]) + "well done</s>"
    assert prompt + response == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(response)[0].startswith("w")


def test_a_response_whose_first_token_would_swallow_the_prompt_s_end_is_tokenised_alone(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + eos_token }}{% else %}hel{% endif %}"
        "{% endfor %}"
    )
    template = Template(tokenizer, TemplateSettings(name="model"))
    joint = tokenizer("hello", add_special_tokens=False)["input_ids"]
    assert joint[: len(template.prompt(DIALOGUE[:1]))] != template.prompt(DIALOGUE[:1])
    alone = tokenizer("lo", add_special_tokens=False)["input_ids"]
    assert template.response(DIALOGUE[:1], "lo") == [*alone, template.end_of_text]


def test_a_tokenizer_without_a_template_is_refused(tokenizer):
    with pytest.raises(InputError, match="no chat template"):
        Template(tokenizer, TemplateSettings(name="model"))


def test_a_tokenizer_without_an_end_of_text_is_refused_with_what_to_set(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(InputError, match=r"no end-of-text token \(set eos_token in tokenizer_config.json\)"):
        Template(tokenizer, TemplateSettings())


def test_a_template_whose_prompt_is_no_prefix_is_refused(tokenizer):
    tokenizer.chat_template = "{% if add_generation_prompt %}ask:{% else %}done:{% endif %}{{ messages[0].content }}"
    with pytest.raises(InputError, match="renders an answered dialogue differently"):
        Template(tokenizer, TemplateSettings(name="model")).response(DIALOGUE[:1], "x")


def test_a_system_turn_is_added_where_there_is_none(tokenizer):
    tokenizer.chat_template = CHAT
    template = Template(tokenizer, TemplateSettings(name="model", system=""))
    question = [{"role": "user", "content": "hello"}]
    expected = "<|system|>\n<|endoftext|>\n<|user|>\nhello<|endoftext|>\n<|assistant|>\n"
    assert template.render_prompt(question) == expected
    assert template.render_response(question, "hi") == "hi<|endoftext|>\n"
    own = [{"role": "system", "content": "be kind"}, *question]
    assert template.render_prompt(own) == expected.replace("<|system|>\n", "<|system|>\nbe kind")
