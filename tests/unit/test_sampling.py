"""Sampling is seeded per sample, stops at end-of-text, and samples from the policy itself."""

import hashlib
import json
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from juicer.data.dialogues import Dialogue, read_samples, write_samples
from juicer.data.template import Template
from juicer.models.log_probability import score_dialogues
from juicer.runtime.context import WorkContext
from juicer.runtime.errors import InputError
from juicer.sampling import decoding, steppers
from juicer.sampling.decoding import (
    SampleRequest,
    draw,
    sample_responses,
    seed_of,
)
from juicer.settings.data import TemplateSettings
from juicer.settings.training import SamplingSettings
from tests.chat_tokenizers import gemma


@pytest.fixture
def prompts(template):
    return [(f"p{i}", template.prompt([{"role": "user", "content": "hello " * (i % 4 + 1)}])) for i in range(24)]


def test_samples_do_not_depend_on_the_batch_they_are_decoded_in(policy, template, prompts):
    one = sample_responses(policy, template, prompts, SamplingSettings(batch_size=5), seed=3)
    other = sample_responses(policy, template, list(reversed(prompts)), SamplingSettings(batch_size=24), seed=3)
    assert {s.id: s.response for s in one} == {s.id: s.response for s in other}


def test_another_seed_gives_other_samples(policy, template, prompts):
    one, other = (sample_responses(policy, template, prompts, SamplingSettings(), seed) for seed in (1, 2))
    assert [s.response for s in one] != [s.response for s in other]


def test_samples_come_in_the_order_of_the_prompts_and_samples_of_a_prompt_differ(policy, template, prompts):
    samples = sample_responses(policy, template, prompts, SamplingSettings(samples_per_prompt=2), seed=0)
    assert [(s.id, s.index) for s in samples] == [(name, i) for name, _ in prompts for i in (0, 1)]
    assert any(a.response != b.response for a, b in zip(samples[::2], samples[1::2], strict=True))


def test_end_of_text_stands_at_the_end_of_ended_samples_and_nowhere_else(policy, template, prompts):
    samples = sample_responses(policy, template, prompts, SamplingSettings(), seed=0)
    assert {s.ended for s in samples} == {True, False}, "the test's model must both end and be cut"
    for sample in samples:
        assert sample.ended == (sample.response[-1] == template.end_of_text)
        assert template.end_of_text not in sample.response[:-1]
        assert sample.ended or len(sample.response) == template.settings.max_response_tokens


def test_a_model_that_only_says_the_end_of_its_turn_has_ended_after_one_token(policy, prompts):
    tokenizer, settings = gemma(), TemplateSettings(name="hh", max_response_tokens=16)
    policy.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        policy.get_output_embeddings().weight.zero_()
        policy.get_output_embeddings().bias = torch.nn.Parameter(torch.zeros(len(tokenizer)))
        policy.get_output_embeddings().bias[4] = 100.0
    for name, ends in (("model", ()), ("hh", (1, 4))):
        template = Template(tokenizer, settings.model_copy(update={"name": name}), ends)
        samples = sample_responses(policy, template, prompts, SamplingSettings(), seed=0)
        assert {(tuple(sample.response), sample.ended) for sample in samples} == {((4,), True)}
        tokenizer = gemma()


def test_log_probabilities_captured_while_sampling_equal_teacher_forcing(policy, template, prompts):
    samples = sample_responses(policy, template, prompts, SamplingSettings(batch_size=7), seed=0)
    forced = score_dialogues(policy, [Dialogue(s.prompt, s.response) for s in samples], template.padding)
    assert [s.log_probability for s in samples] == pytest.approx(forced.tolist(), abs=1e-4)


@pytest.mark.parametrize(("read_at_once", "evict_below"), [(1, 1.0), (5, 0.5), (24, 0.0)])
def test_samples_do_not_depend_on_how_prompts_are_read_and_ended_rows_evicted(
    policy, template, prompts, monkeypatch, read_at_once, evict_below
):
    expected = sample_responses(policy, template, prompts, SamplingSettings(), seed=0)
    monkeypatch.setattr(steppers, "PREFILL_BATCH_SIZE", read_at_once)
    monkeypatch.setattr(decoding, "COMPACT_BELOW", evict_below)
    samples = sample_responses(policy, template, prompts, SamplingSettings(), seed=0)
    assert [(s.response, s.ended) for s in samples] == [(s.response, s.ended) for s in expected]
    assert [s.log_probability for s in samples] == pytest.approx([s.log_probability for s in expected], abs=1e-4)


def test_a_model_with_a_sliding_window_samples_what_it_scores(template, prompts):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(template.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=6,
        initializer_range=0.5,
    )
    policy = MistralForCausalLM(config).eval()
    assert min(len(prompt) for _, prompt in prompts) > 6, "the window must hide something"
    samples = sample_responses(policy, template, prompts, SamplingSettings(batch_size=10), seed=0)
    forced = score_dialogues(policy, [Dialogue(s.prompt, s.response) for s in samples], template.padding, batch_size=1)
    assert [s.log_probability for s in samples] == pytest.approx(forced.tolist(), abs=1e-3)


def test_draws_follow_the_probabilities():
    log_probabilities = torch.tensor([0.5, 0.3, 0.0, 0.2]).log()[None].expand(10_000, 4)
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    counts = torch.bincount(draw(log_probabilities, uniform.double(), SamplingSettings()), minlength=4)
    assert counts.tolist() == [5000, 3000, 0, 2000]


def test_temperature_sharpens_the_distribution():
    log_probabilities = torch.tensor([0.6, 0.4]).log()[None].expand(1000, 2)
    uniform = (torch.arange(1000) + 0.5).double() / 1000
    counts = torch.bincount(draw(log_probabilities, uniform, SamplingSettings(temperature=0.5)), minlength=2)
    assert counts[0].item() == pytest.approx(1000 * 0.36 / 0.52, abs=1)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_temperature_near_zero_draws_the_likeliest_token(top_p):
    flat = torch.arange(50_000).remainder(997).float() / 1000  # no token is likelier than 1 in 20,000
    flat[123] = 1.3
    log_probabilities = flat.log_softmax(-1)[None].expand(100, -1)
    uniform = (torch.arange(100) + 0.5).double() / 100
    drawn = draw(log_probabilities, uniform, SamplingSettings(temperature=0.01, top_p=top_p))
    assert drawn.tolist() == [123] * 100


def test_nucleus_keeps_the_fewest_tokens_that_reach_top_p():
    log_probabilities = torch.tensor([0.1, 0.6, 0.3]).log()[None].expand(900, 3)
    uniform = (torch.arange(900) + 0.5).double() / 900
    counts = torch.bincount(draw(log_probabilities, uniform, SamplingSettings(top_p=0.7)), minlength=3)
    assert counts.tolist() == [0, 600, 300]


def test_samples_survive_a_file(policy, template, prompts, tmp_path):
    samples = sample_responses(policy, template, prompts[:3], SamplingSettings(), seed=0)
    write_samples(tmp_path / "s.jsonl", samples)
    assert read_samples(tmp_path / "s.jsonl") == samples


def test_a_line_that_is_no_sample_is_named(tmp_path):
    (tmp_path / "s.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(InputError, match=r"s\.jsonl:1"):
        read_samples(tmp_path / "s.jsonl")


def test_a_sample_s_seed_is_made_of_the_seed_its_id_and_its_number():
    digest = hashlib.sha256(b"7/p3/1").digest()
    assert seed_of(7, SampleRequest("p3", 1, [5])) == int.from_bytes(digest[:16], "big")


def test_who_watches_is_told_of_every_response_and_every_token(policy, template, prompts):
    responses, tokens = [], []
    watcher = SimpleNamespace(on_tokens=tokens.append)
    context = WorkContext(progress=responses.append, observers=(watcher,))
    samples = sample_responses(policy, template, prompts, SamplingSettings(batch_size=10), seed=0, context=context)
    assert responses == [10, 10, 4]
    assert sum(tokens) == sum(len(sample.response) for sample in samples)


def test_a_batch_that_is_known_is_not_decoded_again(policy, template, prompts, monkeypatch):
    known, work = [], []

    def memo(compute):
        work.append(compute)
        return known[len(work) - 1] if known else compute()

    settings = SamplingSettings(batch_size=10)
    expected = sample_responses(policy, template, prompts, settings, seed=0, context=WorkContext(memo=memo))
    known, work = [each() for each in work], []
    monkeypatch.setattr(decoding, "decode", None)
    assert sample_responses(policy, template, prompts, settings, seed=0, context=WorkContext(memo=memo)) == expected
    assert len(known) == 3


@pytest.mark.parametrize("share", [0.5, 0.8, 1.0])
def test_rows_that_have_ended_leave_the_batch_and_decoding_stops_with_the_last(
    policy, template, prompts, monkeypatch, share
):
    end = template.end_of_text
    monkeypatch.setattr(decoding, "draw", lambda _, uniform, __: torch.where(uniform < 0.3, end, 5))
    monkeypatch.setattr(decoding, "COMPACT_BELOW", share)
    sizes = []
    policy.base_model.register_forward_pre_hook(
        lambda module, args, given: sizes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    samples = sample_responses(policy, template, prompts, SamplingSettings(), seed=0)
    lengths = [len(sample.response) for sample in samples]
    live, expected = len(lengths), []
    for step in range(1, max(lengths)):
        unfinished = sum(length > step for length in lengths)
        live = unfinished if unfinished <= share * live else live
        expected.append((live, 1))
    assert [size for size in sizes if size[1] == 1] == expected
    assert expected[-1] < expected[0] and len(expected) < template.settings.max_response_tokens - 1


def test_a_batch_of_which_exactly_the_share_is_unfinished_is_made_smaller(policy, template, prompts, monkeypatch):
    end, sizes = template.end_of_text, []
    monkeypatch.setattr(decoding, "COMPACT_BELOW", 0.5)
    # Half of the rows end at once, the others are cut at the limit, after which nothing more is computed.
    monkeypatch.setattr(
        decoding, "draw", lambda _, rows, __: torch.where(torch.arange(len(rows)) < len(rows) - 12, end, 5)
    )
    policy.base_model.register_forward_pre_hook(
        lambda module, args, given: sizes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    samples = sample_responses(policy, template, prompts, SamplingSettings(), seed=0)
    assert sorted(len(sample.response) for sample in samples) == [1] * 12 + [16] * 12
    assert [size for size in sizes if size[1] == 1] == [(12, 1)] * 15


def test_nucleus_is_measured_by_the_whole_distribution():
    log_probabilities = torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.1]).log()[None].expand(700, 6)
    uniform = (torch.arange(700) + 0.5).double() / 700
    counts = torch.bincount(draw(log_probabilities, uniform, SamplingSettings(top_p=0.65)), minlength=6)
    assert counts.tolist() == [500, 100, 100, 0, 0, 0]


def test_draws_are_exact_over_a_large_vocabulary():
    weights = torch.ones(200_000)
    weights[100_000:] = 0.001
    places = torch.arange(100_000, 200_000, 9_999)
    uniform = (100_000 + 0.001 * (places.double() - 100_000 + 0.5)) / 100_100
    log_probabilities = weights.log()[None].expand(len(places), -1)
    assert draw(log_probabilities, uniform, SamplingSettings()).tolist() == places.tolist()


def test_a_number_that_was_rounded_up_to_one_draws_the_last_token():
    log_probabilities = torch.tensor([[0.5, 0.5]]).log()
    assert draw(log_probabilities, torch.ones(1, dtype=torch.float64), SamplingSettings()).tolist() == [1]


def test_nucleus_takes_no_further_token_where_the_likeliest_reach_top_p_exactly():
    log_probabilities = torch.tensor([0.25, 0.5, 0.25]).log()[None].expand(8, 3)
    uniform = (torch.arange(8) + 0.5).double() / 8
    assert draw(log_probabilities, uniform, SamplingSettings(top_p=0.5)).tolist() == [1] * 8


def test_the_largest_and_the_smallest_number_draw_the_last_and_the_first_possible_token():
    log_probabilities = torch.tensor([0.0, 0.5, 0.5, 0.0]).log()[None].expand(3, 4)
    uniform = torch.tensor([0.0, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    assert draw(log_probabilities, uniform, SamplingSettings()).tolist() == [1, 2, 2]


def test_top_p_and_temperature_are_taken_from_the_settings(policy, template, prompts):
    sharp = SamplingSettings(temperature=0.01)
    greedy = sample_responses(policy, template, prompts, sharp, seed=0)
    assert greedy == sample_responses(policy, template, prompts, sharp, seed=1)
    nucleus = sample_responses(policy, template, prompts, SamplingSettings(top_p=1e-6), seed=2)
    assert [each.response for each in nucleus] == [each.response for each in greedy]


@pytest.mark.parametrize("spare", [1, 64])
def test_prompts_that_take_the_rows_of_ended_responses_are_answered_the_same(
    policy, template, prompts, monkeypatch, spare
):
    settings = SamplingSettings(batch_size=6, samples_per_prompt=3)
    expected = sample_responses(policy, template, prompts, settings, seed=0)
    monkeypatch.setattr(steppers, "REFILL_FROM", 0)
    monkeypatch.setattr(steppers, "SPARE", spare)
    monkeypatch.setattr(decoding, "BATCHES_AT_ONCE", 9)
    rows, responses, tokens = [], [], []
    policy.base_model.register_forward_pre_hook(
        lambda module, args, given: rows.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    context = WorkContext(progress=responses.append, observers=(SimpleNamespace(on_tokens=tokens.append),))
    samples = sample_responses(policy, template, prompts, settings, seed=0, context=context)
    assert [(s.response, s.ended) for s in samples] == [(s.response, s.ended) for s in expected]
    assert [s.log_probability for s in samples] == pytest.approx([s.log_probability for s in expected], abs=1e-4)
    assert max(count for count, length in rows if length == 1) == 6
    assert sum(responses) == len(samples) and len(responses) > 2
    assert sum(tokens) == sum(len(sample.response) for sample in samples)


@pytest.mark.parametrize("kind", ["buffered", "own", "none", "refilled"])
@pytest.mark.parametrize("every", [3, 4, 100])
def test_looking_less_often_at_what_has_ended_changes_no_sample(policy, template, prompts, monkeypatch, kind, every):
    settings = SamplingSettings(batch_size=6, samples_per_prompt=3)
    expected = sample_responses(policy, template, prompts, settings, seed=0)
    if kind == "refilled":
        monkeypatch.setattr(steppers, "REFILL_FROM", 0)
    else:
        monkeypatch.setattr(policy, "_juicer_cache", kind, raising=False)
    monkeypatch.setattr(decoding, "look_every", lambda device: every)
    responses, tokens = [], []
    context = WorkContext(progress=responses.append, observers=(SimpleNamespace(on_tokens=tokens.append),))
    samples = sample_responses(policy, template, prompts, settings, seed=0, context=context)
    assert [(s.response, s.ended) for s in samples] == [(s.response, s.ended) for s in expected]
    assert [s.log_probability for s in samples] == pytest.approx([s.log_probability for s in expected], abs=1e-4)
    assert sum(responses) == len(samples)
    assert sum(tokens) == sum(len(sample.response) for sample in samples)


def test_what_a_run_with_other_rows_has_kept_is_not_taken_for_the_answers(policy, template, prompts):
    kept, again = [], []

    def keep(work):
        kept.append(json.loads(json.dumps(work())))
        return kept[-1]

    def recall(work):
        again.append(len(again))
        return kept[again[-1]] if again[-1] < len(kept) else work()

    expected = sample_responses(policy, template, prompts, SamplingSettings(batch_size=10), 0, WorkContext(memo=keep))
    samples = sample_responses(policy, template, prompts, SamplingSettings(batch_size=6), 0, WorkContext(memo=recall))
    assert [s.response for s in samples] == [s.response for s in expected]
    assert [s.id for s in samples] == [name for name, _ in prompts]


def test_a_waiting_prompt_may_be_longer_than_those_being_answered(policy, template, prompts):
    asked = sorted((prompt for _, prompt in prompts), key=len)
    count = template.settings.max_response_tokens
    uniforms = torch.rand(len(asked), count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    work = (policy, template, asked, uniforms, SamplingSettings())
    refilled = decoding.decode(*work, rows=3)
    assert [response for response, *_ in refilled] == [response for response, *_ in decoding.decode(*work)]


def test_rows_that_all_end_at_once_are_all_filled_again(policy, template, prompts, monkeypatch):
    monkeypatch.setattr(steppers, "REFILL_FROM", 0)
    monkeypatch.setattr(decoding, "draw", lambda given, *_: given.argmax(-1).fill_(template.end_of_text))
    samples = sample_responses(policy, template, prompts, SamplingSettings(batch_size=10), seed=0)
    assert [sample.response for sample in samples] == [[template.end_of_text]] * len(prompts)


def test_the_prompt_of_several_samples_is_read_once(policy, template, prompts):
    read = []
    policy.base_model.register_forward_pre_hook(
        lambda module, args, given: read.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    settings = SamplingSettings(samples_per_prompt=4)
    samples = sample_responses(policy, template, prompts, settings, seed=0)
    assert sum(rows for rows, length in read if length > 1) == len(prompts)
    forced = score_dialogues(policy, [Dialogue(s.prompt, s.response) for s in samples], template.padding)
    assert [s.log_probability for s in samples] == pytest.approx(forced.tolist(), abs=1e-4)


def test_a_model_whose_heads_share_keys_samples_what_it_scores(template, prompts, monkeypatch):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(template.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    policy = LlamaForCausalLM(config).eval()
    for refill in (10**9, 0):
        monkeypatch.setattr(steppers, "REFILL_FROM", refill)
        samples = sample_responses(policy, template, prompts, SamplingSettings(batch_size=5), seed=0)
        forced = score_dialogues(policy, [Dialogue(s.prompt, s.response) for s in samples], template.padding)
        assert [s.log_probability for s in samples] == pytest.approx(forced.tolist(), abs=1e-3)
