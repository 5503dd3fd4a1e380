"""What the stages hand to the functions that do their work: which rows, which models, which seeds, how many steps.

The functions themselves are replaced by ones that note what they were given: nothing is sampled or trained here.
"""

import argparse
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from juicer.data import demonstrations
from juicer.data.demonstrations import Demonstration
from juicer.data.dialogues import Sample, write_samples
from juicer.evaluation.metrics import Evaluation
from juicer.evaluation.results import EvaluatedModel, Merits, Metrics
from juicer.recipe.activation import dump, load
from juicer.stages.stage import Stage
from juicer.training.record import TrainingRecord
from tasks import evaluate, irft_generate, irft_train, rft_generate, rft_policy, rft_reward, sft_matched
from tests.example_evaluations import metrics

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
SPLITS = {"train": 12, "validation": 3, "held_out": 5}
"""Number of rows of each."""
SFT = Path("models/sft")


def answer(split: str, number: int) -> str:
    return f"{split} answer {number}"


@dataclass
class Work:
    """The calls of the replaced functions, in order: the arguments of each by name."""

    calls: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def note(self, function: str, **given: Any) -> None:
        self.calls.setdefault(function, []).append(given)

    def take(self, function: str) -> list[dict[str, Any]]:
        """The calls since the last time."""
        return self.calls.pop(function, [])

    def recipe(self, *overrides: str) -> Any:
        recipe, graph = load(QUICKSTART, ["compute.device=cpu", *overrides])
        Path("params.yaml").write_text(dump(recipe, graph))
        return recipe

    def run(self, program: ModuleType, stage: str, **arguments: Any) -> str:
        given = argparse.Namespace(params=Path("params.yaml"), data=Path("data"), **arguments)
        done: str = program.run(Stage(stage, given))
        return done


def loaded(folder: Path, *_: object) -> Any:
    """Stands for the model of a folder."""
    return SimpleNamespace(folder=folder, eval=lambda: None)


def training_record(stage: str, *curves: str, steps: int = 1) -> TrainingRecord:
    record = TrainingRecord(stage, steps=steps, response_tokens=10 * steps)
    record.log(1, loss=0.5, **dict.fromkeys(curves, 0.5))
    return record


@pytest.fixture
def work(template, tmp_path, monkeypatch) -> Work:
    """A folder with demonstrations of three splits and a recipe; every costly function only notes its arguments."""
    noted = Work()
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for split, rows in SPLITS.items():
        made = [
            Demonstration.make([{"role": "user", "content": f"{split} {number}"}], answer(split, number), rejected="no")
            for number in range(rows)
        ]
        demonstrations.write(Path("data") / f"{split}.jsonl", made)

    def evaluate_policy(policy, sft, scorer, oracle, template, rows, settings, seed, context):
        noted.note("evaluate_policy", policy=policy, sft=sft, rows=[row.response for row in rows], seed=seed)
        scores = [float(row.response.split()[-1]) + 100 * row.response.startswith("held_out") for row in rows]
        samples = [Sample(row.id, 0, [1], [2], ended=True, log_probability=-1.0) for row in rows]
        found = Metrics.parse(metrics(prompts=len(rows), reward_mean=sum(scores) / len(scores), ended=1.0), "made")
        return Evaluation(found, samples, [row.response for row in rows], scores, [None] * len(rows))

    def sample_responses(policy, template, prompts, settings, seed, context):
        names = [name for name, _ in prompts]
        noted.note("sample_responses", policy=policy, ids=names, seed=seed)
        return [Sample(name, 0, prompt, [2], ended=True, log_probability=-1.0) for name, prompt in prompts]

    def train_sft(policy, template, dialogues, settings, compute, seed, scratch, context, *, stage, steps):
        rate = settings.optimiser.learning_rate
        noted.note("train_sft", policy=policy, seed=seed, steps=steps, rate=rate)
        return training_record(stage, steps=steps)

    def irft_round(policy, reference, pairs, settings, padding, seed, context):
        noted.note("irft_round", policy=policy, reference=reference, seed=seed)
        return training_record("irft_train", "margin", "accuracy")

    def add_adapters(policy, settings, seed):
        noted.note("add_adapters", seed=seed)

    def train_reward(model, pairs, settings, padding, seed, context):
        noted.note("train_reward", seed=seed)
        record = training_record("rft_reward")
        record.facts["training_accuracy"] = 1.0
        return record

    def align_policy(policy, initial, reward, normaliser, template, prompts, settings, compute, seed, scratch, context):
        noted.note(
            "align_policy", policy=policy, initial=initial, reward=reward, normaliser=normaliser, seed=seed,
            prompts=[prompt[-1]["content"] for prompt in prompts],
        )  # fmt: skip
        return training_record("rft_policy", "reward", steps=3)

    def load_reward(folder, compute, seed, dtype=None):
        noted.note("load_reward", folder=folder, seed=seed)
        return loaded(folder)

    def save(model, template, folder, record):
        folder.mkdir()
        (folder / "training.json").write_text(json.dumps(record))

    for module, replaced in {
        "juicer.models.loading": {
            "load_policy": loaded, "save_policy": save, "save_model": save,
            "load_template": lambda folder, settings: template,
        },
        "juicer.evaluation.metrics": {"evaluate_policy": evaluate_policy},
        "juicer.sampling.decoding": {"sample_responses": sample_responses},
        "juicer.methods.sft": {"train_sft": train_sft},
        "juicer.methods.irft": {"irft_round": irft_round},
        "juicer.methods.reward": {
            "train_reward": train_reward, "load_reward": load_reward, "freeze_blocks": lambda model, blocks: None,
            "score_rewards": lambda model, dialogues, *rest, **more: Tensor([len(each.response) for each in dialogues]),
        },
        "juicer.methods.policy_alignment": {"align_policy": align_policy},
        "juicer.training.adapters": {"add_adapters": add_adapters, "merge_adapters": lambda adapters: None},
        "juicer.training.utilisation": {"peak_share": lambda model, dialogues: None},
        "juicer.scorers": {"load": lambda settings, folder, compute: None},
    }.items():  # fmt: skip
        for name, value in replaced.items():
            monkeypatch.setattr(f"{module}.{name}", value)
    noted.recipe()
    return noted


def evaluated(work: Work, name: str = "rft-r1", method: str = "rft", number: int = 1, path: str = "models/any") -> Any:
    """Evaluate a model; returns the result, the line that is printed, and the two calls of evaluate_policy."""
    given = {"name": name, "method": method, "round": number, "policy": Path(path), "sft": SFT, "scorer": None}
    line = work.run(evaluate, f"evaluate@{name}", **given, out=Path(f"{name}.json"))
    return EvaluatedModel.read(Path(f"{name}.json")), line, work.take("evaluate_policy")


def test_held_out_figures_are_of_held_out_rows_and_validation_figures_of_validation_rows(work):
    result, line, calls = evaluated(work)
    rows = {split: [answer(split, number) for number in range(SPLITS[split])] for split in ("held_out", "validation")}
    assert [call["rows"] for call in calls] == list(rows.values())
    assert (result.held_out.prompts, result.held_out.reward_mean) == (5, 102.0)
    assert result.held_out_scores == [100.0, 101.0, 102.0, 103.0, 104.0]
    assert result.validation is not None
    assert (result.validation.prompts, result.validation.reward_mean) == (3, 1.0)
    assert result.validation_scores == [0.0, 1.0, 2.0]
    assert [sample.demonstration for sample in result.samples] == rows["held_out"]
    assert line.startswith("reward 102.000, ")


def test_all_models_are_sampled_with_the_same_random_numbers_and_each_split_with_its_own(work):
    seeds = {
        name: tuple(call["seed"] for call in evaluated(work, name, method, number, path)[2])
        for name, method, number, path in [
            ("base", "base", 0, "models/base"),
            ("sft", "sft", 0, "models/sft"),
            ("sft-matched", "sft-matched", 0, "models/sft-matched"),
            ("irft-r1", "irft", 1, "models/irft/r1"),
            ("irft-r2", "irft", 2, "models/irft/r2"),
            ("rft-r1", "rft", 1, "models/rft/r1/policy"),
        ]
    }
    (both,) = set(seeds.values())
    assert len(set(both)) == 2
    work.recipe("seed=1")
    assert set(both).isdisjoint(call["seed"] for call in evaluated(work)[2])


def test_a_model_is_evaluated_against_the_sft_policy_and_sft_against_none(work):
    for call in evaluated(work)[2]:
        assert (call["policy"].folder, call["sft"].folder) == (Path("models/any"), SFT)
    assert [call["sft"] for call in evaluated(work, "sft", "sft", 0, "models/sft")[2]] == [None, None]


GENERATED = {"irft": irft_generate, "rft": rft_generate}


def generate(work: Work, method: str, parts: list[str]) -> list[dict[str, Any]]:
    """The calls of sample_responses in the rounds of a method."""
    for number, part in enumerate(parts, 1):
        name = f"{method}_generate@r{number}"
        out = Path(f"{method}-r{number}.jsonl")
        work.run(GENERATED[method], name, round=f"r{number}", part=part, policy=SFT, out=out)
    return work.take("sample_responses")


@pytest.mark.parametrize(("method", "rounds"), [("irft", 3), ("rft", 5)])
def test_the_rounds_of_a_split_sample_for_every_demonstration_once(work, method, rounds):
    recipe = work.recipe(f"{method}.rounds={rounds}", f"{method}.slice=split")
    calls = generate(work, method, getattr(recipe, method).parts)
    rows = [row.id for row in demonstrations.read(Path("data/train.jsonl"))]
    assert len(calls) == rounds
    assert Counter(name for call in calls for name in call["ids"]) == Counter(rows)
    assert {len(call["ids"]) for call in calls} <= {len(rows) // rounds, math.ceil(len(rows) / rounds)}


def test_the_slices_follow_from_the_recipe_s_seed(work):
    work.recipe("seed=0")
    one = generate(work, "rft", ["1/3"])
    work.recipe("seed=1")
    assert set(one[0]["ids"]) != set(generate(work, "rft", ["1/3"])[0]["ids"])


def test_every_round_of_every_method_samples_with_a_seed_of_its_own(work):
    calls = [call for method in GENERATED for call in generate(work, method, ["all"] * 3)]
    assert len({call["seed"] for call in calls}) == len(calls) == 6
    work.recipe("seed=1")
    assert {call["seed"] for call in calls}.isdisjoint(call["seed"] for call in generate(work, "rft", ["all"] * 3))


@pytest.fixture
def samples() -> Path:
    """A sample for every second demonstration."""
    rows = list(demonstrations.read(Path("data/train.jsonl")))[::2]
    write_samples(
        Path("samples.jsonl"), [Sample(row.id, 0, [1], [2], ended=True, log_probability=-1.0) for row in rows]
    )
    return Path("samples.jsonl")


def irft(work: Work, samples: Path, round: str = "r1", policy: Path = SFT) -> list[dict[str, Any]]:
    out = Path(f"models/irft/{round}")
    work.run(irft_train, f"irft_train@{round}", round=round, policy=policy, initial=SFT, samples=samples, out=out)
    return work.take("irft_round")


def test_the_reference_of_a_round_of_irft_is_its_start_or_the_sft_policy_as_the_recipe_says(work, samples):
    before = Path("models/irft/r1")
    (call,) = irft(work, samples, "r2", before)
    assert call["reference"] is call["policy"] and call["policy"].folder == before
    work.recipe("irft.training.reference=initial")
    (call,) = irft(work, samples, "r2", before)
    assert (call["policy"].folder, call["reference"].folder) == (before, SFT)


def rft(work: Work, samples: Path, round: str = "r1", policy: Path = SFT, start: Path = SFT) -> dict[str, Any]:
    """Reward and policy alignment of a round; returns the calls that they make."""
    reward = Path(f"models/rft/{round}/reward")
    work.run(rft_reward, f"rft_reward@{round}", round=round, reward=start, samples=samples, out=reward)
    record = json.loads((reward / "training.json").read_text())
    record["facts"] |= {"normaliser_mean": 2.0, "normaliser_deviation": 3.0}
    (reward / "training.json").write_text(json.dumps(record))
    given = {"policy": policy, "initial": SFT, "reward": reward, "samples": samples}
    work.run(rft_policy, f"rft_policy@{round}", round=round, **given, out=Path(f"models/rft/{round}/policy"))
    (head, *_), (trained,), (aligned,) = (work.take(name) for name in ("load_reward", "train_reward", "align_policy"))
    return {"head": head, "trained": trained, "aligned": aligned}


def test_every_round_of_rft_starts_where_the_last_ended_and_is_held_to_the_sft_policy(work, samples):
    last = Path("models/rft/r1/policy")
    aligned = rft(work, samples, "r2", last, Path("models/rft/r1/reward"))["aligned"]
    assert (aligned["policy"].folder, aligned["initial"]) == (last, SFT)
    assert aligned["reward"].folder == Path("models/rft/r2/reward")
    assert aligned["normaliser"] == (2.0, 3.0)
    assert aligned["prompts"] == [f"train {number}" for number in range(0, 12, 2)]


def test_what_is_drawn_while_training_is_drawn_anew_in_every_round(work, samples):
    rounds = ("r1", "r2", "r3")
    seeds = [call["seed"] for name in rounds for call in irft(work, samples, name)]
    seeds += [call["seed"] for call in work.take("add_adapters")]
    for name in rounds:
        calls = rft(work, samples, name)
        seeds += [calls["trained"]["seed"], calls["aligned"]["seed"]]
    assert len(set(seeds)) == len(seeds) == 12
    work.recipe("seed=1")
    assert set(seeds).isdisjoint(call["seed"] for call in irft(work, samples))


def test_the_reward_s_new_head_does_not_depend_on_the_round(work, samples):
    assert len({rft(work, samples, name)["head"]["seed"] for name in ("r1", "r2")}) == 1


def test_the_steps_and_tokens_of_the_reward_count_for_the_method(work, samples):
    rft(work, samples)
    made = json.loads(Path("models/rft/r1/policy/training.json").read_text())
    assert (made["steps"], made["total_steps"], made["total_response_tokens"]) == (3, 4, 40)


def control(work: Work, **used: tuple[int, int]) -> list[dict[str, Any]]:
    """Train the control after methods that used so many (steps, response tokens); returns the calls of train_sft."""
    folders: dict[str, Path | None] = {"irft": None, "rft": None}
    for method, (steps, tokens) in used.items():
        folder = folders[method] = Path("models") / method
        folder.mkdir(parents=True, exist_ok=True)
        record = {"stage": method, "total_steps": steps, "total_response_tokens": tokens}
        (folder / "training.json").write_text(json.dumps(record))
    work.run(sft_matched, "sft_matched@control", policy=SFT, scorer=None, **folders, out=Path("models/sft-matched"))
    return work.take("train_sft")


@pytest.mark.parametrize(
    ("used", "steps"),
    [
        ({"irft": (30, 0)}, 30),
        ({"irft": (30, 0), "rft": (20, 0)}, 30),
        ({"irft": (20, 0), "rft": (30, 0)}, 30),
        ({"irft": (30, "31.5 steps")}, 32),
        ({"irft": (30, "10 steps"), "rft": (20, "31.5 steps")}, 32),
        ({"irft": (30, "31.5 steps"), "rft": (20, "10 steps")}, 32),
        ({"rft": (3, "1 token")}, 3),
    ],
)
def test_the_control_takes_at_least_the_steps_and_the_tokens_of_the_longer_method(work, template, used, steps):
    work.recipe("sft.batch_size=4", "sft_matched.learning_rates=[1e-3]")
    rows = list(demonstrations.read(Path("data/train.jsonl")))
    per_step = sum(len(template.response(row.prompt, row.response)) for row in rows) / 3  # 12 rows in steps of 4
    tokens = {0: 0, "1 token": 1, "10 steps": 10 * per_step, "31.5 steps": round(31.5 * per_step)}
    (call,) = control(work, **{method: (count, tokens[cost]) for method, (count, cost) in used.items()})
    assert call["steps"] == steps


def test_every_rate_of_the_control_starts_at_sft_with_the_same_seeds_and_the_best_is_kept(work, monkeypatch):
    rates = [1e-4, 1e-3, 1e-2]
    work.recipe("sft_matched.learning_rates=[1e-4, 1e-3, 1e-2]")
    seeds = []

    def judge(policy, sft, scorer, oracle, template, rows, settings, seed, context):
        seeds.append((seed, [row.response for row in rows]))
        reward = {1: 0.1, 2: 0.9, 3: 0.5}[len(seeds)]
        return SimpleNamespace(metrics=SimpleNamespace(merits=Merits(reward_mean=reward)))

    monkeypatch.setattr("juicer.evaluation.metrics.evaluate_policy", judge)
    calls = control(work, irft=(30, 0))
    assert [call["rate"] for call in calls] == rates
    assert {call["policy"].folder for call in calls} == {SFT}
    assert len({call["seed"] for call in calls}) == len({seed for seed, _ in seeds}) == 1
    assert [rows for _, rows in seeds] == [[answer("validation", number) for number in range(3)]] * 3
    facts = json.loads(Path("models/sft-matched/training.json").read_text())["facts"]
    assert facts["learning_rate"] == 1e-3
    assert facts["validation_of_learning_rates"] == {"0.0001": 0.1, "0.001": 0.9, "0.01": 0.5}
