"""The learnt reward reads the policy's tokens only if they are its own; otherwise it reads the text."""

import json

import pytest
from transformers import PreTrainedTokenizerFast

from juicer.data import hh
from juicer.data.demonstrations import Demonstration
from juicer.data.dialogues import Sample
from juicer.data.template import Template
from juicer.methods.reading import RewardReader, reader_of, same_tokens
from juicer.models.loading import load_template, save_policy
from juicer.runtime.errors import InputError
from juicer.settings.data import TemplateSettings

SETTINGS = TemplateSettings(max_prompt_tokens=48, max_response_tokens=16)
ASKED = [{"role": "user", "content": "hello, how are you?"}]
ROW = Demonstration.make(ASKED, "very well, thank you")


def reversed_ids(tokenizer):
    """The same tokens with other ids: in reverse order, but for the special ones, which keep their places."""
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = pipeline["model"]["vocab"]
    last, special = len(vocabulary) - 1, {token["content"] for token in pipeline["added_tokens"]}
    pipeline["model"]["vocab"] = {
        token: number if token in special else last + len(special) - number for token, number in vocabulary.items()
    }
    names = {"eos_token": tokenizer.eos_token, "bos_token": tokenizer.bos_token, "pad_token": tokenizer.pad_token}
    made = type(tokenizer.backend_tokenizer).from_str(json.dumps(pipeline))
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


@pytest.fixture
def other(tokenizer):
    return Template(reversed_ids(tokenizer), SETTINGS)


def sampled(template, text, *, ended):
    tokens = template.response(ASKED, text)
    return tokens if ended else tokens[:-1]


def test_a_saved_policy_has_the_tokens_that_it_was_saved_with(policy, template, tmp_path):
    save_policy(policy, template, tmp_path / "sft", None)
    saved = load_template(tmp_path / "sft", SETTINGS)
    assert same_tokens(template, saved)
    assert not RewardReader(template, saved).text


def test_padding_does_not_make_another_tokenizer(template, tokenizer):
    tokenizer.pad_token = tokenizer.eos_token
    assert same_tokens(template, Template(tokenizer, SETTINGS))


def test_the_same_tokens_in_another_order_are_another_tokenizer(template, other):
    assert not same_tokens(template, other)


def test_another_chat_template_is_another_rendering(template, tokenizer):
    again = Template(PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|endoftext|>",
        bos_token="<|endoftext|>", pad_token="<|padding|>"), SETTINGS)  # fmt: skip
    assert same_tokens(template, again)
    again.tokenizer.chat_template += " "
    assert not same_tokens(template, again)


def test_a_reward_with_the_policy_s_tokens_reads_exactly_what_was_sampled(template):
    reader, response = RewardReader(template), [9, 8, 7]
    assert reader.sample(ASKED, response).response == [9, 8, 7]
    assert reader.facts == {}


@pytest.mark.parametrize("ended", [True, False])
def test_another_reward_reads_the_sample_s_text_in_its_own_tokens(template, other, ended):
    read = RewardReader(template, other).sample(ASKED, sampled(template, "it is nice", ended=ended))
    assert read.prompt == other.prompt(ASKED)
    assert read.response == other.response(ASKED, "it is nice")[: None if ended else -1]
    assert (read.response[-1] == other.end_of_text) == ended


def test_a_demonstration_reads_like_a_sample_of_the_same_text(template, other):
    reader = RewardReader(template, other)
    tokens = sampled(template, ROW.response, ended=True)
    assert reader.demonstration(ASKED, f" {ROW.response}\n") == reader.sample(ASKED, tokens)


def test_pairs_hold_the_reward_s_tokens(template, other):
    tokens = sampled(template, "it is", ended=True)
    sample = Sample(ROW.id, 0, template.prompt(ASKED), tokens, ended=True, log_probability=-1.0)
    (pair,) = RewardReader(template, other).pairs([ROW], [sample])
    assert other.decode(pair.demonstration.response) == ROW.response
    assert other.decode(pair.sample.response) == "it is"
    assert pair.sample_log_probability is None
    assert RewardReader(template, other).facts == {"reads": "text"}


def test_a_dialogue_beyond_the_reward_s_context_is_refused(template, other):
    reader = RewardReader(template, other, positions=8)
    with pytest.raises(InputError, match="of the reward's tokens, but the reward reads 8"):
        reader.demonstration(ASKED, ROW.response)


def test_a_context_shorter_than_the_limits_is_refused_at_once_where_the_tokens_are_the_policy_s(template):
    with pytest.raises(InputError, match=r"max_response_tokens = 64, but the reward reads 63 tokens"):
        RewardReader(template, positions=63)


def test_rows_that_the_reward_s_template_refuses_are_left_out(template, tokenizer):
    settings = SETTINGS.model_copy(update={"name": "model"})
    strict = reversed_ids(tokenizer)
    strict.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + hh.CHAT_TEMPLATE
    )
    tokenizer.chat_template = hh.CHAT_TEMPLATE
    reader = RewardReader(Template(tokenizer, settings), Template(strict, settings))
    system = Demonstration.make([{"role": "system", "content": "be kind"}, *ASKED], "it is")
    samples = [Sample(row.id, 0, [1], [9, 0], ended=True, log_probability=0.0) for row in (system, ROW)]
    assert len(reader.pairs([system, ROW], samples)) == 1
    assert [reader.takes(row.prompt) for row in (system, ROW)] == [False, True]
    with pytest.raises(InputError, match="the chat template of the reward refuses every row"):
        reader.pairs([system], samples[:1])


def test_a_reward_that_reads_text_needs_a_tokenizer(policy, template, tmp_path):
    save_policy(policy, template, tmp_path / "sft", None)
    save_policy(policy, template, tmp_path / "reward", None)
    assert not reader_of(template, tmp_path / "sft", tmp_path / "reward").text
    for path in (tmp_path / "reward").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="holds no tokenizer"):
        reader_of(template, tmp_path / "sft", tmp_path / "reward")


def test_the_reward_s_special_tokens_in_a_text_end_nothing(template, other):
    other.tokenizer.add_special_tokens({"additional_special_tokens": ["</s>"]})
    other = Template(other.tokenizer, SETTINGS)
    asked = [{"role": "user", "content": "what is </s>?"}]
    read = RewardReader(template, other).sample(asked, sampled(template, "it is </s>.", ended=True))
    assert other.tokenizer.convert_tokens_to_ids("</s>") not in read.prompt + read.response
    assert other.tokenizer.decode(read.response) == " it is < /s>.<|endoftext|>"
