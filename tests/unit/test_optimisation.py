"""The shared loop: K, the order of the rows, the schedule, micro-batches, and what stops it."""

import math
from collections import Counter

import pytest
import torch

from juicer.runtime.context import Tracking
from juicer.runtime.errors import InputError
from juicer.runtime.processes import Processes
from juicer.settings.compute import ComputeSettings
from juicer.settings.training import OptimiserSettings
from juicer.training.loop import make_optimiser, micro_batches, shuffled_batches, steps_for, train_loop
from juicer.training.record import TrainingRecord
from juicer.training.trainer import trainer_arguments

SETTINGS = OptimiserSettings(learning_rate=0.1, warmup_ratio=0.2)


def line(rows):
    """Fit y = 2x from x = row number: losses per row."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)

    def loss_of(numbers):
        x = torch.tensor([[float(number + 1)] for number in numbers])
        return (model(x) - 2 * x)[:, 0] ** 2, {"twos": torch.full((len(numbers),), 2.0)}

    return model, loss_of


@pytest.mark.parametrize(("epochs", "rows", "size", "steps"), [(2, 10, 4, 5), (1, 10, 4, 3), (0.5, 10, 5, 1)])
def test_k_is_the_ceiling_of_epochs_times_rows_over_batch_size(epochs, rows, size, steps):
    batches = list(shuffled_batches(rows, size, epochs, seed=0))
    assert steps_for(epochs, rows, size) == steps == len(batches)
    assert sum(map(len, batches)) == math.ceil(epochs * rows)


def test_every_epoch_holds_every_row_once():
    stream = [row for batch in shuffled_batches(7, 3, 2, seed=5) for row in batch]
    assert sorted(stream[:7]) == sorted(stream[7:]) == list(range(7))
    assert stream[:7] != stream[7:]


def test_the_order_of_the_rows_follows_from_the_seed():
    orders = [[row for batch in shuffled_batches(20, 3, 1, seed) for row in batch] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert list(range(20)) not in orders


@pytest.mark.parametrize(("steps", "ratio"), [(1, 0.1), (7, 0.0), (10, 0.2), (47, 0.1), (94, 0.05), (1000, 0.3)])
def test_the_learning_rate_warms_up_linearly_and_decays_linearly_to_zero(steps, ratio):
    settings = OptimiserSettings(learning_rate=3e-4, warmup_ratio=ratio)
    optimiser, schedule = make_optimiser([torch.nn.Parameter(torch.zeros(1))], settings, steps)
    warmup = math.ceil(ratio * steps)
    for step in range(steps + 1):
        factor = step / warmup if step < warmup else (steps - step) / max(steps - warmup, 1)
        assert schedule.get_last_lr() == [3e-4 * factor]  # to the last bit: checkpoints and outputs depend on it
        optimiser.step(), schedule.step()


def test_a_constant_schedule_stays_at_the_peak_after_the_warm_up():
    settings = OptimiserSettings(learning_rate=1e-6, warmup_ratio=0.08, schedule="constant")
    optimiser, schedule = make_optimiser([torch.nn.Parameter(torch.zeros(1))], settings, 625)
    for step in range(626):
        assert schedule.get_last_lr() == [1e-6 * min(1.0, step / 50)]
        optimiser.step(), schedule.step()


@pytest.mark.parametrize(("schedule", "last"), [("linear", 0.5), ("constant", 1.0)])
def test_trl_s_trainers_follow_the_schedule_of_the_recipe(schedule, last, tmp_path):
    from transformers import TrainingArguments, get_scheduler

    settings = OptimiserSettings(learning_rate=1e-6, warmup_ratio=0.25, schedule=schedule)
    given = trainer_arguments(settings, ComputeSettings(device="cpu"), 0, tmp_path, False, Tracking())
    arguments = TrainingArguments(**given)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rates = get_scheduler(arguments.lr_scheduler_type, optimiser, arguments.get_warmup_steps(8), 8)
    for _ in range(5):
        optimiser.step(), rates.step()
    assert rates.get_last_lr() == [last]


def test_micro_batches_change_nothing_but_memory():
    weights = []
    for micro in (None, 1, 3):
        model, loss_of = line(8)
        train_loop(model, shuffled_batches(8, 4, 2, 0), 4, loss_of, SETTINGS, micro, TrainingRecord("test"))
        weights.append(model.weight.item())
    assert weights[1:] == pytest.approx(weights[:1] * 2, rel=1e-6)


@pytest.mark.parametrize(("rows", "size", "micro"), [(8, 3, None), (8, 3, 2), (2, 3, None), (7, 2, 3), (5, 1, 2)])
def test_processes_make_the_same_passes_and_every_row_counts_once(rows, size, micro):
    batch = list(range(10, 10 + rows))
    each = [list(micro_batches(batch, micro, Processes(rank, size))) for rank in range(size)]
    assert len({tuple(len(row_numbers) for row_numbers, _ in passes) for passes in each}) == 1
    counted = [row for passes in each for row_numbers, count in passes for row in row_numbers[:count]]
    assert sorted(counted) == batch


def test_a_loss_that_is_not_finite_stops_and_names_the_step():
    model, loss_of = line(4)

    def breaks(numbers):
        losses, values = loss_of(numbers)
        return (losses * math.nan if 3 in numbers else losses), values

    with pytest.raises(InputError, match="at step 3 of 4"):
        train_loop(model, iter([[0], [1], [3], [2]]), 4, breaks, SETTINGS, None, TrainingRecord("irft_train"))


def test_the_record_counts_steps_and_plots_every_one():
    model, loss_of = line(4)
    record = TrainingRecord("test")
    train_loop(model, shuffled_batches(4, 2, 1, 0), 2, loss_of, SETTINGS, None, record)
    assert record.steps == 2
    assert record.curves["loss"]["step"] == [1, 2]
    assert record.curves["twos"]["value"] == [2.0, 2.0]


def test_totals_continue_from_the_previous_round():
    record = TrainingRecord("irft_train", steps=3, response_tokens=30)
    record.continue_from({"total_steps": 5, "total_response_tokens": 50})
    assert (record.total_steps, record.total_response_tokens) == (8, 80)


def test_rmsprop_is_torchs_with_its_defaults():
    optimiser, _ = make_optimiser(
        [torch.nn.Parameter(torch.zeros(1))], OptimiserSettings(name="rmsprop", learning_rate=1e-3), 10
    )
    assert isinstance(optimiser, torch.optim.RMSprop)
    assert optimiser.defaults["alpha"] == 0.99


def test_a_step_of_several_passes_waits_for_the_device_once(monkeypatch):
    asked = Counter()
    model, loss_of = line(8)
    batches = list(shuffled_batches(8, 4, 2, 0))
    methods = {name: getattr(torch.Tensor, name) for name in ("tolist", "item", "__float__", "__bool__", "__int__")}
    for name in methods:

        def counted(tensor, name=name, before=methods[name]):
            asked[name] += 1
            return before(tensor)

        monkeypatch.setattr(torch.Tensor, name, counted)
    train_loop(model, batches, 4, loss_of, SETTINGS, 1, TrainingRecord("test"))
    assert asked == {"tolist": 4}
