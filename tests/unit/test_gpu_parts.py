"""What the parts of bench/gpu.py share: forced lengths, clocks, spans, and how the rest of the library is reached."""

from pathlib import Path

import pytest
import torch

from bench.gpu_parts import PARTS, common, profile, stages
from bench.gpu_parts.common import Context, StepClock, lengths_forced, pairs_of
from bench.gpu_parts.workspace import Step, placed
from juicer.sampling.decoding import sample_responses
from juicer.settings.training import SamplingSettings

TINY = Context(tiny=True, kit=None, work=Path("unused"))


def test_every_part_has_a_module():
    modules = {path.stem for path in Path(common.__file__).parent.glob("*.py")}
    assert set(PARTS) <= modules


@pytest.mark.parametrize("lengths", [[1], [5], [2, 9, 16]])
def test_sampled_responses_get_the_lengths_that_are_forced(policy, template, lengths):
    prompts = [(str(number), [3, 4, 5 + number]) for number in range(6)]
    with lengths_forced(lengths, template.end_of_text) as rows:
        samples = sample_responses(policy, template, prompts, SamplingSettings(), seed=1)
    assert len(rows) == max(len(sample.response) for sample in samples)
    assert rows[0] == 6 and sum(rows) >= sum(len(sample.response) for sample in samples)
    assert {len(sample.response) for sample in samples} <= set(lengths)
    assert all(sample.ended and sample.response.count(template.end_of_text) == 1 for sample in samples)


def test_a_length_beyond_the_limit_is_cut_there(policy, template):
    with lengths_forced([1000], template.end_of_text):
        [sample] = sample_responses(policy, template, [("a", [3, 4])], SamplingSettings(), seed=1)
    assert not sample.ended
    assert len(sample.response) == template.settings.max_response_tokens


def test_sampling_is_as_before_once_no_length_is_forced(policy, template):
    prompts = [("a", [3, 4, 5])]
    before = sample_responses(policy, template, prompts, SamplingSettings(), seed=1)
    with lengths_forced([2], template.end_of_text):
        assert sample_responses(policy, template, prompts, SamplingSettings(), seed=1) != before
    assert sample_responses(policy, template, prompts, SamplingSettings(), seed=1) == before


def test_pairs_have_real_lengths_within_the_limits():
    pairs = pairs_of(50, 128, 384, 600)
    lengths = {(len(pair.sample.prompt), len(pair.demonstration.response), len(pair.sample.response)) for pair in pairs}
    assert lengths <= set(common.hh_lengths.load())
    assert len(lengths) > 40
    assert all(max(pair.demonstration.prompt) < 600 and len(pair.demonstration) <= 512 for pair in pairs)


def test_a_step_is_timed_without_those_that_warm_up(monkeypatch):
    clock, times = StepClock(), iter([0.0, 5.0, 6.0, 6.5, 8.0])
    monkeypatch.setattr(common.time, "perf_counter", lambda: next(times))
    for step in range(5):
        clock.on_metrics(step, {})
    assert clock.milliseconds(warmup=1) == 1000.0


def test_overlapping_kernels_are_counted_once():
    assert profile._covered([(0, 2), (1, 3), (5, 6), (5, 5.5)]) == 4


def test_a_device_that_computes_works_and_one_that_raises_does_not(monkeypatch):
    assert common.works(torch.device("cpu"))

    def ones(*_, **__):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "ones", ones)
    assert not common.works(torch.device("cpu"))


@pytest.mark.parametrize("step", (*stages.COMPARED, *stages.OTHERS))
def test_a_stage_reads_only_what_is_made_before_it(step):
    def before(name):
        needs = stages.STEPS[name].needs
        return {each for need in needs for each in {need} | before(need)}

    named = set(stages.STEPS[step].arguments) & set(stages.STEPS)
    assert named <= before(step)


def test_places_stand_in_for_arguments():
    steps = {"a": Step("tasks.a", "out", (), ("--policy", "POLICY"))}
    assert placed(steps, {"POLICY": "models/x"})["a"].arguments == ("--policy", "models/x")


def test_two_outputs_of_a_stage_are_compared_by_their_curves(tmp_path):
    for name, values in (("cpu", "[1.0, 2.0]"), ("cuda", "[1.0, 2.5]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "training.json").write_text(
            f'{{"curves": {{"loss": {{"step": [1, 2], "value": {values}}}}}}}'
        )
    assert stages.difference(tmp_path / "cpu", tmp_path / "cuda") == {"loss": 0.5}


def test_a_tiny_model_is_made_on_the_cpu():
    model = common.model_of(TINY, "pythia-1.4b", "policy", torch.float32)
    assert model.device.type == "cpu" and model.config.hidden_size < 100
