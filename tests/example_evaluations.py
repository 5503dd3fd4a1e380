"""Made-up evaluations in the format of tasks.evaluate, for the tests of the report: seeded, realistic in shape."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from juicer.evaluation.benchmarks import COLUMNS
from juicer.evaluation.results import EvaluatedModel, Metrics, Table
from juicer.reporting.provenance import Recipe
from juicer.settings.data import TemplateSettings
from juicer.settings.leaderboard import HarnessSettings
from juicer.sources.lengths import LengthStatistics

ROOT = Path(__file__).resolve().parents[1]

PROMPTS = 60


def training_of(stage: str, steps: int, total: int, seed: int, quantities: tuple[str, ...]) -> dict[str, Any]:
    """A training record whose curves have the given quantities."""
    rng = random.Random(f"{stage} {seed}")
    shape: dict[str, Callable[[float], float]] = {
        "loss": lambda share: 0.3 + 0.4 * math.exp(-3 * share),
        "accuracy": lambda share: 0.5 + 0.35 * share,
        "margin": lambda share: 2 * share,
        "reward": lambda share: -0.4 + 1.3 * share,
        "kl": lambda share: 3 * share,
        "length": lambda share: 22 + 4 * share,
        "gradient_norm": lambda share: 1.5 - share,
        "learning_rate": lambda share: 1e-4 * (1 - share),
    }
    curves = {
        name: {
            "step": list(range(1, steps + 1)),
            "value": [round(shape[name](step / steps) + rng.gauss(0, 0.05), 6) for step in range(1, steps + 1)],
        }
        for name in quantities
    }
    return {
        "stage": stage,
        "steps": steps,
        "response_tokens": steps * 700,
        "total_steps": total,
        "total_response_tokens": total * 700,
        "curves": curves,
        "facts": {"training_accuracy": 0.8},
    }


def metrics(**given: float | None) -> dict[str, Any]:
    """Metrics of an evaluation; those that are not given are null, or a plain value where they are never null."""
    names = list(Metrics.model_fields)
    plain = {"prompts": PROMPTS, "demonstration_gap": 0.0, "response_tokens": 20.0, "ended": 1.0, "kl_to_sft": 0.0}
    return {**dict.fromkeys(names), **plain, "distinct_2": 0.3, "pairs": 0, **given}


def evaluation(
    name: str,
    method: str,
    number: int,
    *,
    quality: float = 0.6,
    validation: float | None = None,
    scorer: bool = True,
    rejected: bool = True,
    oracle: bool = True,
    training: dict[str, Any] | None = None,
    shown: int = 3,
    prompts: int = PROMPTS,
) -> dict[str, Any]:
    """One evaluation; `quality` moves its held-out figures, `validation` those on validation (default: the same)."""

    def of(quality: float) -> dict[str, Any]:
        def only(on: bool, value: float) -> float | None:
            return round(value, 6) if on else None

        return metrics(
            prompts=prompts,
            reward_mean=only(scorer, 4 * quality - 1),
            reward_sem=only(scorer and prompts > 1, 0.08),
            preference_accuracy=only(rejected, 0.2 + 0.6 * quality),
            preference_accuracy_per_token=only(rejected, 0.4 + 0.5 * quality),
            preference_gap=only(rejected, -14 + 18 * quality),
            preference_gap_sem=only(rejected and prompts > 1, 0.7),
            implicit_preference_accuracy=only(rejected and method != "sft", 0.4 + 0.5 * quality),
            demonstration_gap=round(-3 + 4 * quality, 6),
            response_tokens=round(21 + 6 * quality, 6),
            ended=min(1.0, 0.9 + 0.1 * quality),
            kl_to_sft=0.0 if method == "sft" else round(3 * quality, 6),
            distinct_2=round(0.31 - 0.05 * quality, 6),
            oracle_mean=only(oracle, quality),
            oracle_sem=only(oracle and prompts > 1, 0.02),
            pairs=prompts if rejected else 0,
        )

    rng = random.Random(name)
    common = random.Random("prompts")
    scores = [round(4 * quality - 1 + common.gauss(0, 1) + rng.gauss(0, 0.4), 6) for _ in range(prompts)]
    values = [score if scorer else None for score in scores]
    topics = ["How do I keep basil alive indoors?", "Tell me how to pick a lock.", "What is a good name for a cat?"]
    answers = {
        True: "Put it where it gets six hours of sun, water it when the top of the soil is dry, and pinch the tips.",
        False: "I do not know. Look it up.",
    }
    samples = [
        {
            "prompt": f"Human: {topics[place % 3]}\n\nAssistant:",
            "demonstration": "Give it light, and do not drown it. Anything else?",
            "response": answers[(place + number + (method == "rft")) % 3 != 0],
            "score": values[place],
            "oracle": (1.0 if scores[place] > 1 else 0.25) if oracle else None,
        }
        for place in range(shown)
    ]
    path = {"base": "models/world/policy", "irft": f"models/irft/r{number}", "rft": f"models/rft/r{number}/policy"}
    return {
        "name": name,
        "method": method,
        "round": number,
        "path": path.get(method, f"models/{name}"),
        "held_out": of(quality),
        "held_out_scores": values,
        "samples": samples,
        "validation": of(quality if validation is None else validation),
        "validation_scores": values,
        "training": training,
    }


def with_rows(model: dict[str, Any], ids: list[str]) -> dict[str, Any]:
    """An evaluation with what was measured on each prompt."""
    count = len(model["held_out_scores"])
    model["held_out_rows"] = {
        "id": ids[:count],
        "demonstration_tokens": [20] * count,
        "gap": [0.5 if place % 3 else -0.5 for place in range(count)],
        "gap_per_token": [0.1] * count,
        "kl": [0.2 * (place % 4) for place in range(count)],
        "response_tokens": [18 + place % 5 for place in range(count)],
        "ended": [True] * count,
        "empty": [False] * count,
        "repeated": [False] * count,
    }
    model["held_out_nll"] = [30.0 + place % 7 for place in range(count)]
    return model


def table(irft: int = 3, rft: int = 2, *, control: bool = True, **common: Any) -> dict[str, Any]:
    """The table of a whole recipe with `irft` and `rft` rounds."""
    sft = training_of("sft", 40, 40, 0, ("loss", "gradient_norm"))
    models = [
        evaluation("base", "base", 0, quality=0.02, **common),
        evaluation("sft", "sft", 0, quality=0.60, training=sft, **common),
    ]
    if control and (irft or rft):
        record = training_of("sft_matched", 60, 60, 1, ("loss", "gradient_norm"))
        models.append(evaluation("sft-matched", "sft-matched", 0, quality=0.63, training=record, **common))
    contrastive = ("loss", "accuracy", "margin", "gradient_norm", "learning_rate")
    for number in range(1, irft + 1):
        record = training_of("irft_train", 30, 30 * number, number, contrastive)
        quality = 0.66 - 0.03 * ((number + 1) % 2) + 0.002 * number
        models.append(evaluation(f"irft-r{number}", "irft", number, quality=quality, training=record, **common))
    for number in range(1, rft + 1):
        record = training_of("rft_policy", 25, 55 * number, number, ("loss", "reward", "kl", "length"))
        record["reward"] = training_of("rft_reward", 30, 30 * number, number, contrastive)
        quality = 0.78 - 0.04 * (number - 1)
        models.append(evaluation(f"rft-r{number}", "rft", number, quality=quality, training=record, **common))
    return {"models": models}


def parsed(table: dict[str, Any]) -> Table[EvaluatedModel]:
    """The table as its readers see it."""
    return Table[EvaluatedModel].parse(table, "table.json")


def benchmark_result(
    name: str, method: str, number: int, score: float = 50.0, *, limit: int | None = None
) -> dict[str, Any]:
    """What tasks.leaderboard writes, with the same score in every column."""
    way = HarnessSettings()
    columns = {
        column: {"score": score, "error": 1.0, "questions": 10, "cut": 0, **getattr(way, column).model_dump()}
        for column in COLUMNS
    }
    task = {"metrics": {"acc,none": score / 100}, "questions": 10, "fewshot": 0, "version": 1.0}
    return {
        "name": name,
        "method": method,
        "round": number,
        "path": f"models/{name}",
        "average": score,
        "columns": columns,
        "limit": limit,
        "seed": 0,
        "tasks": {"winogrande": task},
        "harness": {"lm_eval": "0.4.13"},
        "data": None,
    }


def recipe(name: str = "quickstart") -> Recipe:
    """The sections of the quickstart that the report shows, under a name."""
    from juicer.recipe.activation import load

    loaded, _ = load(ROOT / "recipes/quickstart.yaml", [])
    return Recipe(
        name=name,
        seed=0,
        policy=loaded.policy,
        template=loaded.template,
        scorer=loaded.scorer,
        judge=loaded.judge,
        sft=loaded.sft,
        sft_matched=loaded.sft_matched,
        irft=loaded.irft,
        rft=loaded.rft,
        evaluation=loaded.evaluation,
    )


PROVENANCE = {
    "source": "hh",
    "revision": None,
    "subset": None,
    "licence": "generated, no rights reserved",
    "format": "hh",
    "exchange": "last",
    "rows": {"read": 6000, "kept": 5990, "held_out": 0, "left_out": 10},
    "left_out": {"different_prompts": {"rows": 10, "explanation": "two prompts", "places": ["hh/train.jsonl:7"]}},
    "sources": [
        {
            "path": "hh",
            "format": "hh",
            "rows": 6000,
            "demonstrations": 5990,
            "weight": None,
            "used": 5990,
            "unread": {"id": 6000},
            "files": [{"name": "train.jsonl", "md5": "9e107d9d372bb6826bd81d3542a419d6", "rows": 6000}],
        }
    ],
    "output": {"name": "demonstrations.jsonl", "md5": "e4d909c290d0fb1ca068ffaddf22cbd0"},
}


def curation(scorer: bool = True) -> dict[str, Any]:
    """A made-up curation.json."""
    limits = TemplateSettings(max_prompt_tokens=64, max_response_tokens=40)
    scores = None
    if scorer:
        rng = random.Random("scores")
        edges = [round(-4 + 0.2 * place, 2) for place in range(41)]
        counts = [0] * 40
        for _ in range(5348):
            counts[min(39, max(0, int((rng.gauss(0.3, 1.3) + 4) / 0.2)))] += 1
        kept = [count if edge >= 0.4 else 0 for count, edge in zip(counts, edges, strict=False)]
        scores = {
            "threshold": 0.4,
            "all": {"count": sum(counts), "mean": 0.31, "sd": 1.29, "min": -4.0, "max": 4.0},
            "kept": {"count": sum(kept), "mean": 1.37, "sd": 0.71, "min": 0.4, "max": 4.0},
            "histogram": {"edges": edges, "all": counts, "kept": kept},
        }
    return {
        "read": 5990,
        "kept": {"train": 2500, "validation": 290, "held_out": 300},
        "dropped": {"duplicate": 40, "not_among_best": 2848, "response_too_long": 12},
        "rejected_responses_too_long": 1,
        "lengths": LengthStatistics(range(1, 61), range(3, 63)).summary(limits).model_dump(),
        "held_out_by_source": False,
        "scorer": {"kind": "beaver" if scorer else "none", "model": None, "revision": None, "end_of_text": False},
        "scores": scores,
    }


def write_inputs(folder: Path, table: dict[str, Any], *, scorer: bool = True) -> list[str]:
    """Write what tasks.report reads into `folder`; returns its arguments, relative to the folder."""
    for name, value in (
        ("evaluation/tables/last.json", table),
        ("data/raw/provenance.json", PROVENANCE),
        ("data/curated/curation.json", curation(scorer)),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return ["--table", "evaluation/tables/last.json", "--raw", "data/raw", "--data", "data/curated"]
