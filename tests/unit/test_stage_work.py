"""What the stages hand to the functions that do their work: which rows, which models, which seeds, how many steps.

The functions themselves are replaced by ones that note what they were given: nothing is sampled or trained here.
"""

import argparse
import json
import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from juicer.data import demonstrations
from juicer.data.demonstrations import Demonstration
from juicer.data.dialogues import Dialogue, Sample, read_samples, write_samples
from juicer.evaluation.metrics import Evaluation
from juicer.evaluation.results import EvaluatedModel, Instruments, Merits, Metrics, PerPrompt
from juicer.methods import sft_variants
from juicer.methods.reading import RewardReader
from juicer.models.loading import TRAINING_DTYPE
from juicer.recipe.activation import dump, load
from juicer.recipe.graph import ABSENT
from juicer.runtime.seeding import derive
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.stages.stage import Stage
from juicer.training.passes import PADDED
from juicer.training.record import TrainingRecord
from tasks import evaluate, irft_generate, irft_train, rft_generate, rft_policy, rft_reward, sft, sft_matched
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
    line: str = ""
    """What the control said last."""

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
        given = parsed(program, {"data": "data"} | arguments)
        given.params = Path("params.yaml")
        work = Stage(stage, given)
        done: str = program.run(work)
        work.write_costs()
        return done


def parsed(program: ModuleType, arguments: dict[str, object]) -> argparse.Namespace:
    """The arguments of a stage as its command line gives them."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    program.arguments(parser)
    given = {name: ABSENT if value is None else str(value) for name, value in arguments.items()}
    return parser.parse_args([word for name, value in given.items() for word in (f"--{name}", value)])


class TheScorer(str):
    """Stands for a scorer, which takes every row."""

    def refusals(self, rows: list[object]) -> list[str | None]:
        return [None] * len(rows)


class Model(SimpleNamespace):
    """Stands for the model of a folder."""

    def eval(self) -> None:
        self.mode = "evaluation"

    def named_parameters(self) -> list[object]:
        return []


def loaded(folder: Path, compute: ComputeSettings, *dtype: object) -> Any:
    assert isinstance(compute, ComputeSettings)
    return Model(folder=folder, dtype=dtype, mode="training", config=None)


def training_record(stage: str, *curves: str, steps: int = 1) -> TrainingRecord:
    record = TrainingRecord(stage, steps=steps, response_tokens=10 * steps)
    record.log(1, loss=0.7, **dict.fromkeys(curves, 0.7))
    record.log(2, loss=0.5, **dict.fromkeys(curves, 0.5))
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

    def evaluate_policy(policy, sft, scorer, oracle, template, rows, settings, seed, context, judge=None):
        answers = [row.response for row in rows]
        noted.note("evaluate_policy", policy=policy, sft=sft, rows=answers, seed=seed, judge=judge)
        scores = [float(row.response.split()[-1]) + 100 * row.response.startswith("held_out") for row in rows]
        samples = [Sample(row.id, 0, [1], [2], ended=True, log_probability=-1.0) for row in rows]
        found = Metrics.parse(metrics(prompts=len(rows), reward_mean=sum(scores) / len(scores), ended=1.0), "made")
        unknown = [None] * len(rows)
        judged = unknown if judge is None else [-score for score in scores]
        per_prompt = PerPrompt(
            id=[row.id for row in rows], demonstration_tokens=[2 for _ in rows], gap=unknown, gap_per_token=unknown,
            kl=[0.0 for _ in rows], response_tokens=[1 for _ in rows],
            **{name: [False for _ in rows] for name in ("ended", "empty", "repeated")},
        )  # fmt: skip
        return Evaluation(found, samples, answers, scores, judged, unknown, [7.0 + each for each in scores], per_prompt)

    def sample_responses(policy, template, prompts, settings, seed, context):
        names = [name for name, _ in prompts]
        noted.note("sample_responses", policy=policy, ids=names, seed=seed)
        return [Sample(name, 0, prompt, [2], ended=True, log_probability=-1.0) for name, prompt in prompts]

    def train_sft(policy, template, dialogues, settings, compute, seed, scratch, context, *, stage, steps, watched):
        noted.note("train_sft", policy=policy, template=template, dialogues=dialogues, settings=settings, seed=seed,
                   scratch=scratch, context=context, stage=stage, steps=steps, watched=watched)  # fmt: skip
        assert isinstance(compute, ComputeSettings)
        record = training_record(stage, steps=steps)
        record.facts["epochs"] = 2.0
        return record

    def irft_round(policy, reference, pairs, settings, padding, seed, context, passes):
        noted.note("irft_round", policy=policy, reference=reference, pairs=pairs, seed=seed)
        return training_record("irft_train", "margin", "accuracy")

    def add_adapters(policy, settings, seed):
        noted.note("add_adapters", seed=seed)

    def train_reward(model, pairs, settings, padding, seed, context, passes):
        noted.note("train_reward", seed=seed)
        record = training_record("rft_reward")
        record.facts["training_accuracy"] = 1.0
        return record

    def align_policy(
        policy, initial, reward, normaliser, template, prompts, settings, compute, seed, scratch, context, *, reader
    ):
        noted.note(
            "align_policy", policy=policy, initial=initial, reward=reward, normaliser=normaliser, seed=seed,
            prompts=[prompt[-1]["content"] for prompt in prompts],
        )  # fmt: skip
        return training_record("rft_policy", "reward", steps=3)

    def load_reward(folder, compute, seed, dtype=None, frozen="fp32"):
        noted.note("load_reward", folder=folder, seed=seed)
        return loaded(folder, compute)

    def load_template(folder, settings):
        assert isinstance(settings, TemplateSettings)
        return template

    def peak_share(model, dialogues):
        assert isinstance(dialogues[0], Dialogue) and not isinstance(model, list)

    def load_scorer(settings, folder, compute):
        if settings.kind == "none":
            return None
        noted.note("load_scorer", settings=settings, folder=folder)
        return TheScorer("the scorer")

    def save(model, template, folder, record, lora, start):
        noted.note("save", model=model, template=template, start=start)
        folder.mkdir()
        (folder / "training.json").write_text(json.dumps(record))

    for module, replaced in {
        "juicer.models.loading": {
            "load_policy": loaded,
            "load_template": load_template,
        },
        "juicer.evaluation.metrics": {
            "evaluate_policy": evaluate_policy,
            "measure_instruments": lambda rows, *given: Instruments(pairs=len(rows)),
        },
        "juicer.sampling.engines": {"sample_responses": sample_responses, "load_policy": loaded},
        "juicer.methods.sft": {"train_sft": train_sft},
        "juicer.methods.irft": {"irft_round": irft_round},
        "juicer.methods.reward": {
            "train_reward": train_reward, "load_reward": load_reward, "freeze_blocks": lambda model, blocks: None,
            "score_rewards": lambda model, dialogues, *rest, **more: Tensor([len(each.response) for each in dialogues]),
        },
        "juicer.methods.reading": {"reader_of": lambda template, *folders: RewardReader(template)},
        "juicer.methods.probe": {"probe_policy": lambda config, **given: None},
        "juicer.methods.policy_alignment": {"align_policy": align_policy},
        "juicer.training.adapters": {
            "add_adapters": add_adapters, "merge_adapters": lambda adapters: None, "save_trained": save,
        },
        "juicer.training.passes": {"passes_of": lambda compute, model: PADDED},
        "juicer.stages.fine_tuning": {"has_dropout": lambda policy, settings: False},
        "juicer.training.utilisation": {"peak_share": peak_share},
        "juicer.scorers": {"load": load_scorer},
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


def test_the_judge_reads_held_out_responses_only_and_its_scores_are_kept_beside_the_scorers(work):
    work.recipe("judge.kind=beaver", "judge.model=models/world/policy")
    result, line, calls = evaluated(work)
    assert [call["judge"] for call in calls] == ["the scorer", None]
    assert result.held_out_judged == [-score for score in result.held_out_scores]
    assert result.held_out_nll == [7.0 + score for score in result.held_out_scores]
    assert result.held_out_rows is not None and len(result.held_out_rows.id) == 5
    assert result.instruments is None
    assert evaluated(work, "base", "base", 0)[0].instruments == Instruments(pairs=5)
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


def replayed(samples: Path) -> list[str]:
    """Add a sample of an earlier policy for each of the other demonstrations; returns their ids."""
    others = [row.id for row in demonstrations.read(Path("data/train.jsonl"))][1::2]
    own = read_samples(samples)
    write_samples(samples, [*own, *(replace(own[0], id=name, earlier=1) for name in others)])
    return others


def test_replay_takes_a_share_of_the_demonstrations_from_earlier_rounds(work, samples):
    others = replayed(samples)
    alone = [pair.contrast for pair in irft(work, samples)[0]["pairs"]]
    work.recipe("irft.replay=0.5")
    (call,) = irft(work, samples)
    assert len(call["pairs"]) == len(alone) == len(others) == 6
    assert sum(pair.sample_log_probability is None for pair in call["pairs"]) == 3


def test_replayed_prompts_are_none_of_those_that_the_policy_is_aligned_on(work, samples):
    replayed(samples)
    assert rft(work, samples)["aligned"]["prompts"] == [f"train {number}" for number in range(0, 12, 2)]


def test_a_round_writes_the_samples_of_earlier_rounds_behind_its_own(work, samples):
    replayed(samples)
    given = {"round": "r2", "part": "all", "policy": SFT, "earlier": samples, "out": Path("irft-r2.jsonl")}
    work.run(irft_generate, "irft_generate@r2", **given)
    found = read_samples(Path("irft-r2.jsonl"))
    assert [sample.earlier for sample in found] == [0] * 12 + [1] * 6 + [2] * 6


@pytest.mark.parametrize("version", [None, "9.9"])
def test_the_costs_of_a_round_say_which_engine_sampled_and_so_does_the_key_of_its_checkpoints(
    work, monkeypatch, version
):
    keys = []

    @contextmanager
    def worker_of(asked, policy, compute, length, processes, key):
        assert (asked, policy, key) == ("auto", SFT, "irft.sampling.engine")
        yield None if version is None else SimpleNamespace(version=version)

    def sample_by_vllm(worker, template, prompts, settings, seed, context):
        return [Sample(name, 0, prompt, [2], ended=True, log_probability=-1.0) for name, prompt in prompts]

    def key_of(arguments, values):
        keys.append(values["engine"])
        return "key"

    monkeypatch.setattr("juicer.sampling.engines.worker_of", worker_of)
    monkeypatch.setattr("juicer.sampling.engines.sample_by_vllm", sample_by_vllm)
    monkeypatch.setattr("juicer.stages.stage.key_of", key_of)
    work.run(irft_generate, "irft_generate@r1", round="r1", policy=SFT, earlier=None, out=Path("irft-r1.jsonl"))
    engine = "torch" if version is None else "vllm 9.9"
    costs = json.loads(Path(".juicer/costs/irft_generate@r1.json").read_text())
    assert costs["engine"] == engine
    assert keys == [engine]
    assert len(work.take("sample_responses")) == (version is None)


def test_a_round_of_rft_answers_some_validation_prompts_with_a_seed_of_its_own(work):
    work.recipe("rft.watched=2", "rft.sampling.samples_per_prompt=3")
    given = {"round": "r1", "part": "all", "policy": SFT, "out": Path("rft-r1.jsonl")}
    work.run(rft_generate, "rft_generate@r1", **given, validation=Path("watched.jsonl"))
    trained, watched = work.take("sample_responses")
    rows = [row.id for row in demonstrations.read(Path("data/validation.jsonl"))]
    assert [sample.id for sample in read_samples(Path("watched.jsonl"))] == rows[:2] == watched["ids"]
    assert trained["seed"] != watched["seed"]


def test_where_pi_0_is_sampled_for_the_pairs_the_current_policy_answers_the_validation_prompts(work):
    current = Path("models/rft/r1/policy")
    given = {"round": "r2", "part": "all", "policy": SFT, "current": current, "out": Path("rft-r2.jsonl")}
    work.run(rft_generate, "rft_generate@r2", **given, validation=Path("watched.jsonl"))
    assert [call["policy"].folder for call in work.take("sample_responses")] == [SFT, current]


def test_without_watching_a_round_of_rft_writes_no_samples_on_validation_prompts(work):
    work.recipe("rft.watched=0")
    given = {"round": "r1", "part": "all", "policy": SFT, "out": Path("rft-r1.jsonl")}
    work.run(rft_generate, "rft_generate@r1", **given, validation=Path("watched.jsonl"))
    assert Path("watched.jsonl").read_text() == ""
    assert len(work.take("sample_responses")) == 1


def rft(work: Work, samples: Path, round: str = "r1", policy: Path = SFT, start: Path = SFT) -> dict[str, Any]:
    """Reward and policy alignment of a round; returns the calls that they make."""
    reward = Path(f"models/rft/{round}/reward")
    work.run(rft_reward, f"rft_reward@{round}", round=round, policy=policy, reward=start, samples=samples, out=reward)
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


def control(work: Work, scorer: str | None = None, **used: tuple[int, int] | None) -> list[dict[str, Any]]:
    """Train the control after methods that used so many (steps, response tokens); returns the calls of train_sft."""
    folders: dict[str, Path | None] = {"irft": None, "rft": None}
    for method, cost in used.items():
        folder = folders[method] = Path("models") / method
        folder.mkdir(parents=True, exist_ok=True)
        if cost is not None:
            record = {"stage": method, "total_steps": cost[0], "total_response_tokens": cost[1]}
            (folder / "training.json").write_text(json.dumps(record))
    given = {"policy": SFT, "scorer": scorer, **folders, "out": Path("models/sft-matched")}
    work.line = work.run(sft_matched, "sft_matched@control", **given)
    return work.take("train_sft")


def record_of_control() -> dict[str, Any]:
    record: dict[str, Any] = json.loads(Path("models/sft-matched/training.json").read_text())
    return record


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
        # A model without a record asks for nothing.
        ({"irft": None, "rft": (20, 0)}, 20),
        ({"irft": None}, 0),
    ],
)
def test_the_control_takes_at_least_the_steps_and_the_tokens_of_the_longer_method(work, template, used, steps):
    work.recipe("sft.batch_size=4", "sft_matched.learning_rates=[1e-3]")
    rows = list(demonstrations.read(Path("data/train.jsonl")))
    per_step = sum(len(template.response(row.prompt, row.response)) for row in rows) / 3  # 12 rows in steps of 4
    tokens = {0: 0, "1 token": 1, "10 steps": 10 * per_step, "31.5 steps": round(31.5 * per_step)}
    (call,) = control(work, **{name: cost and (cost[0], tokens[cost[1]]) for name, cost in used.items()})
    assert call["steps"] == steps


@pytest.mark.parametrize(
    ("budget", "used", "steps"),
    [
        ("steps=40", {"irft": (30, 0)}, 40),
        ("steps=20", {"irft": (30, 0)}, 30),
        ("response_tokens=1", {"irft": (30, 0)}, 30),
        ("response_tokens=1", {}, 1),
        ("steps=1", {}, 1),
        ("response_tokens=10000", {"rft": (30, 20)}, "10000 tokens"),
        ("response_tokens=10", {"rft": (3, 10000)}, "10000 tokens"),
    ],
)
def test_the_control_takes_at_least_the_budget_of_the_recipe(work, template, budget, used, steps):
    rounds = [] if used else ["irft.rounds=0", "rft.rounds=0"]
    work.recipe("sft.batch_size=4", "sft_matched.learning_rates=[1e-3]", f"sft_matched.{budget}", *rounds)
    rows = list(demonstrations.read(Path("data/train.jsonl")))
    per_step = sum(len(template.response(row.prompt, row.response)) for row in rows) / 3
    (call,) = control(work, **used)
    assert call["steps"] == (math.ceil(10000 / per_step) if steps == "10000 tokens" else steps)


@pytest.mark.parametrize(("program", "name"), [(sft, "sft"), (sft_matched, "sft-matched")])
def test_dft_contrasts_with_samples_of_its_start_that_have_a_seed_of_their_own(work, monkeypatch, program, name):
    def sample_start(policy, template, prompts, settings, seed, context):
        work.note("sample_start", folder=policy.folder, ids=[each for each, _ in prompts], seed=seed)
        return [[Dialogue(prompt, [1, 2])] * settings.samples for _, prompt in prompts]

    def train_variant(
        policy, dialogues, samples, settings, padding, compute, seed, context, *, stage, steps, watched, passes
    ):
        work.note("train_variant", folder=policy.folder, samples=samples, settings=settings, seed=seed, steps=steps)
        prompts = [[each.prompt] * settings.dft.samples for each in dialogues]
        assert [[each.prompt for each in own] for own in samples] == prompts
        return training_record(stage, steps=steps or 1)

    monkeypatch.setattr(sft_variants, "sample_start", sample_start)
    monkeypatch.setattr(sft_variants, "train_variant", train_variant)
    work.recipe("sft.objective=dft", "sft_matched.learning_rates=[1e-3, 1e-4]", "sft_matched.steps=9")
    rows = list(demonstrations.read(Path("data/train.jsonl")))
    if program is sft:
        work.run(sft, "sft", policy=SFT, out=Path("models/made"))
    else:
        control(work, rft=(8, 20))
    (sampled,) = work.take("sample_start")  # once for all rates
    calls = work.take("train_variant")
    assert sampled == {"folder": SFT, "ids": [row.id for row in rows], "seed": derive(0, name, "sampling")}
    assert {call["seed"] for call in calls} == {derive(0, name)}
    assert [call["steps"] for call in calls] == ([None] if program is sft else [9, 9])
    assert {call["settings"].objective for call in calls} == {"dft"}


def test_the_control_continues_sft_on_the_demonstrations_and_all_of_it_counts(work, template):
    recipe = work.recipe("sft_matched.learning_rates=[1e-3]", "sft.batch_size=4")
    (call,) = control(work, irft=(30, 0))
    assert work.take("evaluate_policy") == []  # there is nothing to choose
    assert (call["policy"].folder, call["policy"].dtype) == (SFT, (TRAINING_DTYPE, "fp32"))
    assert (call["template"], call["stage"]) == (template, "sft_matched")
    rows = demonstrations.read(Path("data/train.jsonl"))
    assert call["dialogues"] == [
        Dialogue(template.prompt(row.prompt), template.response(row.prompt, row.response)) for row in rows
    ]
    rate = recipe.sft.optimiser.model_copy(update={"learning_rate": 1e-3})
    assert call["settings"] == recipe.sft.model_copy(update={"optimiser": rate})
    assert call["context"].checkpoint is not None and call["scratch"].name.startswith("sft_matched")
    record = record_of_control()
    assert (record["stage"], record["steps"], record["total_steps"]) == ("sft_matched", 30, 30)
    assert record["total_response_tokens"] == 300
    assert record["facts"] == {"epochs": 2.0, "learning_rate": 1e-3, "validation_of_learning_rates": {}}
    assert work.line == "30 steps at 0.001, loss 0.500"


RATES = [1e-4, 1e-3, 1e-2]


@pytest.mark.parametrize(
    ("rewards", "best"), [([0.1, 0.912345, 0.5], 1), ([0.2, 0.1, 0.1], 0), ([0.1, 0.2, 0.3], 2), ([0.3, 0.3, 0.3], 0)]
)
def test_every_rate_of_the_control_starts_at_sft_with_the_same_seeds_and_the_best_is_kept(
    work, template, monkeypatch, rewards, best
):
    recipe = work.recipe(f"sft_matched.learning_rates={RATES}", "sft_matched.prompts=2")
    judged = []

    def judge(policy, sft, scorer, oracle, template, rows, settings, seed, context):
        judged.append((policy, seed, [row.response for row in rows], settings))
        assert (sft, scorer, oracle, policy.mode) == (None, "the scorer", None, "evaluation")
        assert context.processes.world_size == 1
        reward = rewards[len(judged) - 1] + 3e-7  # which is rounded off in the record
        return SimpleNamespace(metrics=SimpleNamespace(merits=Merits(reward_mean=reward)))

    monkeypatch.setattr("juicer.evaluation.metrics.evaluate_policy", judge)
    calls = control(work, "models/scorer", irft=(30, 0))
    assert [call["settings"].optimiser.learning_rate for call in calls] == RATES
    assert {call["policy"].folder for call in calls} == {SFT}
    assert [policy for policy, *_ in judged] == [call["policy"] for call in calls]
    assert len({call["seed"] for call in calls}) == len({seed for _, seed, *_ in judged}) == 1
    assert [rows for _, _, rows, _ in judged] == [[answer("validation", 0), answer("validation", 1)]] * 3
    assert {settings == recipe.evaluation.sampling for *_, settings in judged} == {True}
    scorer = {"settings": recipe.scorer, "folder": Path("models/scorer")}
    assert work.take("load_scorer") == [scorer] * 3
    (saved,) = work.take("save")
    assert saved["model"] is calls[best]["policy"] and saved["template"] is template
    facts = record_of_control()["facts"]
    assert facts["learning_rate"] == RATES[best]
    assert facts["validation_of_learning_rates"] == dict(zip(["0.0001", "0.001", "0.01"], rewards, strict=True))
    costs = json.loads(Path(".juicer/costs/sft_matched@control.json").read_text())
    assert (costs["steps"], costs["response_tokens"]) == (90, 900)


def test_with_two_rates_both_are_judged_and_without_a_common_metric_the_first_is_kept(work, monkeypatch):
    work.recipe("sft_matched.learning_rates=[1e-4, 1e-3]")
    nothing = SimpleNamespace(metrics=SimpleNamespace(merits=Merits()))
    judged = []
    monkeypatch.setattr("juicer.evaluation.metrics.evaluate_policy", lambda *_: judged.append(1) or nothing)
    control(work, irft=(30, 0))
    assert len(judged) == 2
    facts = record_of_control()["facts"]
    assert (facts["learning_rate"], facts["validation_of_learning_rates"]) == (1e-4, {})


def test_the_control_is_trained_and_judged_with_seeds_of_its_own(work):
    seeds = []
    for seed in (0, 1):
        work.recipe(f"seed={seed}", "sft_matched.learning_rates=[1e-4, 1e-3]")
        seeds += [control(work, irft=(30, 0))[0]["seed"], work.take("evaluate_policy")[0]["seed"]]
    assert seeds == [derive(seed, name) for seed in (0, 1) for name in ("sft-matched", "evaluation")]


@pytest.mark.parametrize("option", ["policy", "data", "scorer", "irft", "rft", "out"])
def test_every_option_of_the_control_has_to_be_given(option):
    options = dict.fromkeys(["policy", "data", "scorer", "irft", "rft", "out"], "a")
    assert parsed(sft_matched, options).out == Path("a")
    del options[option]
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        parsed(sft_matched, options)
