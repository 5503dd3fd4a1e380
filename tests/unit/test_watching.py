"""Observers of running work receive what its record holds afterwards."""

import pytest
import torch

from juicer.data.dialogues import Dialogue
from juicer.methods.sft import train_sft
from juicer.runtime.context import WorkContext
from juicer.sampling.decoding import sample_responses
from juicer.settings.compute import ComputeSettings
from juicer.settings.sft import SftSettings
from juicer.settings.training import OptimiserSettings, SamplingSettings
from juicer.training.loop import train_loop
from juicer.training.record import TrainingRecord


class Seen:
    def __init__(self):
        self.points, self.counted = [], 0.0

    def on_metrics(self, step, values):
        self.points.append((step, values))

    def on_tokens(self, count):
        self.counted += count

    def curve(self, name):
        return [float(f"{values[name]:.6g}") for _, values in self.points]


@pytest.fixture
def seen():
    return Seen()


def test_the_shared_loop_shows_each_step_as_it_records_it(seen):
    model, record = torch.nn.Linear(1, 1, bias=False), TrainingRecord("test", response_tokens=40)

    def loss_of(rows):
        return model(torch.tensor([[float(row)] for row in rows]))[:, 0] ** 2, {"twos": torch.full((len(rows),), 2.0)}

    settings = OptimiserSettings(learning_rate=0.1)
    train_loop(model, [[1], [2], [3]], 3, loss_of, settings, None, record, WorkContext(observers=(seen,)))
    assert [step for step, _ in seen.points] == [1, 2, 3]
    for name, curve in record.curves.items():
        assert seen.curve(name) == curve["value"]
    assert seen.counted == pytest.approx(40)


def test_fine_tuning_through_trl_shows_each_step_as_it_records_it(seen, policy, template, tmp_path):
    dialogues = [Dialogue([5, 6 + i, 7], [8, 9 + i % 2, 0]) for i in range(8)]
    settings = SftSettings(epochs=3, batch_size=4, optimiser=OptimiserSettings(learning_rate=3e-3))
    compute, context = ComputeSettings(threads=1, device="cpu"), WorkContext(observers=(seen,))
    record = train_sft(policy, template, dialogues, settings, compute, 0, tmp_path, context)
    assert seen.curve("loss") == record.curves["loss"]["value"]
    assert seen.curve("gradient_norm") == record.curves["gradient_norm"]["value"]
    assert seen.counted == record.response_tokens


def test_the_tokens_of_sampled_responses_are_counted(seen, policy, template):
    prompts, context = [("a", [5, 6]), ("b", [7])], WorkContext(observers=(seen,))
    samples = sample_responses(policy, template, prompts, SamplingSettings(), 0, context)
    assert seen.counted == sum(len(sample.response) for sample in samples)
