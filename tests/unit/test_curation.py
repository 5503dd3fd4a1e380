"""Length limits, the split by prompt, the k best, and the statistics of their scores."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from juicer.data.demonstrations import Message
from juicer.data.template import Template
from juicer.models.folder import context_of
from juicer.runtime.errors import InputError
from juicer.settings.data import CurateSettings, TemplateSettings
from juicer.sources.curation import Best, Lengths, check_context, is_byte_level, score_statistics, split_of
from juicer.sources.suitability import Rendered, rendered, survives
from tests.chat_tokenizers import chatml, gemma, llama, phi

TEXTS = ["hi", "hello " * 5, "hello " * 40, "ﬁne «é» 你好 " * 6, "x" * 200]


def prompt_of(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def hashes(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def test_shares_of_prompts_are_those_asked_for() -> None:
    settings = CurateSettings(validation_share=0.1, held_out_share=0.2)
    counts = Counter(split_of(each, settings, source_holds_out=False) for each in hashes(10_000))
    assert counts["held_out"] / 10_000 == pytest.approx(0.2, abs=0.02)
    assert counts["validation"] / 10_000 == pytest.approx(0.1, abs=0.02)


def test_a_source_with_held_out_rows_gives_all_others_to_train_and_validation() -> None:
    settings = CurateSettings(validation_share=0.1, held_out_share=0.2)
    own = {each: split_of(each, settings, source_holds_out=False) for each in hashes(1000)}
    theirs = {each: split_of(each, settings, source_holds_out=True) for each in hashes(1000)}
    assert set(theirs.values()) == {"train", "validation"}
    assert all(theirs[each] == own[each] for each in own if own[each] != "held_out")


@pytest.mark.parametrize("limit", [4, 30, 100, 1000])
def test_a_row_is_over_long_exactly_when_its_tokens_are_too_many(
    tokenizer: PreTrainedTokenizerFast, limit: int
) -> None:
    template = Template(tokenizer, TemplateSettings(max_prompt_tokens=limit, max_response_tokens=limit))
    lengths = Lengths(template)
    exact_prompts = [len(template.prompt(prompt_of(text))) for text in TEXTS]
    exact_responses = [len(template.response(prompt_of("a"), text)) for text in TEXTS]
    prompts = [template.render_prompt(prompt_of(text)) for text in TEXTS]
    answered = [rendered(template, prompt_of("a"), text) for text in TEXTS]
    responses = [each for each in answered if isinstance(each, Rendered)]
    for found, exact in ((lengths.prompts(prompts), exact_prompts), (lengths.responses(responses), exact_responses)):
        assert [count > limit for count in found] == [count > limit for count in exact]
        assert all(count == true or true <= count <= limit for count, true in zip(found, exact, strict=True))
    every = range(len(TEXTS))
    assert lengths.prompts(prompts, every) == exact_prompts
    assert lengths.responses(responses, every) == exact_responses


INDENTED = ["    return x\n", "\n\tx", "x \n\n", " x"]


@pytest.mark.parametrize("limit", [2, 500])
@pytest.mark.parametrize(
    ("make", "name"), [(chatml, "hh"), (llama, "hh"), (chatml, "model"), (phi, "model"), (llama, "model")]
)
def test_the_white_space_around_a_response_is_trained_on_where_the_template_writes_it(
    make: Callable[[], PreTrainedTokenizerFast], name: Literal["hh", "model"], limit: int
) -> None:
    settings = TemplateSettings(name=name, max_prompt_tokens=limit, max_response_tokens=limit)
    template = Template(make(), settings)
    for text in INDENTED:
        found = rendered(template, prompt_of("write"), text)
        assert isinstance(found, Rendered) and not found.stripped
        tokens = template.response(prompt_of("write"), text)
        assert text in template.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        assert survives(template, tokens, text)
        assert Lengths(template).responses([found], exact=[0]) == [len(tokens)]


def test_a_template_that_strips_a_response_takes_it_and_says_so() -> None:
    template = Template(gemma(), TemplateSettings(name="model", max_prompt_tokens=9, max_response_tokens=9))
    for text in INDENTED:
        found = rendered(template, prompt_of("write"), text)
        assert isinstance(found, Rendered) and found.stripped
        assert template.response(prompt_of("write"), text) == template.response(prompt_of("write"), text.strip())
        assert Lengths(template).responses([found]) != [None]


def test_only_byte_level_tokenizers_bound_tokens_by_bytes(template: Template) -> None:
    assert is_byte_level(template)
    words = Tokenizer(models.WordLevel({"<eos>": 0}, unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    assert not is_byte_level(
        Template(PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>"), template.settings)
    )
    longer = Tokenizer(models.BPE())
    longer.pre_tokenizer = pre_tokenizers.ByteLevel()
    longer.normalizer = normalizers.Replace("a", "aaaa")
    longer.add_special_tokens(["<eos>"])
    assert not is_byte_level(
        Template(PreTrainedTokenizerFast(tokenizer_object=longer, eos_token="<eos>"), template.settings)
    )


def test_the_best_rows_come_out_in_the_order_they_came_in() -> None:
    chance = random.Random(0)
    scores = [chance.choice([0.0, 0.5, 1.0, 2.0]) for _ in range(200)]
    identities = hashes(200)
    best = Best(50)
    for place, (score, identity) in enumerate(zip(scores, identities, strict=True)):
        best.offer(score, identity[:16], place, str(place).encode())
    ranked = sorted(range(200), key=lambda place: (-scores[place], identities[place][:16]))
    assert [int(line) for _, line in best.rows()] == sorted(ranked[:50])


def test_equal_scores_are_decided_by_the_id_and_not_by_the_order() -> None:
    offers = [(1.0, identity[:16]) for identity in hashes(30)]
    kept = []
    for order in (offers, offers[::-1]):
        best = Best(10)
        for place, (score, identity) in enumerate(order):
            best.offer(score, identity, place, identity.encode())
        kept.append({line for _, line in best.rows()})
    assert kept[0] == kept[1] == {identity.encode() for identity in sorted(identity for _, identity in offers)[:10]}


def test_the_heap_never_holds_more_than_it_keeps() -> None:
    best = Best(3)
    for place, identity in enumerate(hashes(100)):
        best.offer(float(place), identity[:16], place, b"")
    assert [score for score, _ in best.rows()] == [97.0, 98.0, 99.0]


def test_the_histogram_counts_every_score_once() -> None:
    chance = random.Random(1)
    scores = [chance.gauss(0, 1) for _ in range(500)]
    kept = sorted(scores)[-100:]
    found = score_statistics(scores, kept)
    assert found["threshold"] == kept[0]
    assert len(found["histogram"]["edges"]) == 41
    assert (sum(found["histogram"]["all"]), sum(found["histogram"]["kept"])) == (500, 100)
    assert found["all"]["mean"] == pytest.approx(sum(scores) / 500)
    assert found["kept"]["min"] == kept[0] and found["kept"]["max"] == kept[-1]


def test_one_score_has_statistics_too() -> None:
    found = score_statistics([1.5], [1.5])
    assert found["all"] == {"count": 1, "mean": 1.5, "sd": 0.0, "min": 1.5, "max": 1.5}
    assert sum(found["histogram"]["all"]) == 1


@pytest.mark.parametrize(
    "config", [{"max_position_embeddings": 63}, {"n_positions": 63}, {"text_config": {"n_ctx": 63}}]
)
def test_limits_beyond_the_context_are_refused_with_the_numbers(template: Template, config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="48 \\+ 16 = 64 exceeds the policy's context of 63 tokens"):
        check_context(context_of(config), template, "models/x")
    check_context(64, template, "models/x")
    check_context(context_of({}), template, "models/x")
