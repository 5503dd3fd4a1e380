"""Measure one model on the six benchmarks of the paper's table, by lm-eval's stock tasks."""

import argparse
import gzip
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from juicer.runtime.errors import InputError
from juicer.runtime.files import write_json
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.leaderboard import HarnessSettings
from juicer.stages.stage import Stage, main

if TYPE_CHECKING:
    from pydantic import JsonValue

    from juicer.evaluation.benchmark_results import BenchmarkScore


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="name of the model in tables, for example irft-r5")
    parser.add_argument("--method", required=True, help="base, sft, sft-matched, irft or rft")
    parser.add_argument("--round", type=int, required=True, help="round of the method, 0 for none")
    parser.add_argument("--policy", type=Path, required=True, help="model folder")
    parser.add_argument("--mirror", type=Path, required=True, help="folder that python -m tasks.mirror made")
    parser.add_argument("--out", type=Path, required=True, help="folder to write: results.json and samples/")


def run(stage: Stage) -> str:
    given, settings = stage.arguments, stage.read("leaderboard.harness", HarnessSettings)
    bars = sys.stderr.isatty()
    if not bars:
        os.environ.setdefault("TQDM_DISABLE", "1")  # hides the progress bars that lm-eval has no option for
    logging.getLogger("lm_eval.evaluator").setLevel(logging.ERROR)
    from juicer.evaluation.benchmark_results import BenchmarkedModel
    from juicer.evaluation.benchmarks import COLUMNS, missing_files
    from juicer.evaluation.leaderboard import evaluate
    from juicer.models.loading import load_template

    if missing := missing_files(given.mirror):
        others = f", nor {len(missing) - 1} others" if len(missing) > 1 else ""
        do = f"make the mirror where there is a network: python -m tasks.mirror --out {given.mirror}"
        raise InputError(f"the mirror has no such file{others}", where=str(missing[0]), do=do)

    known = list[str]()

    def seen(name: str, column: "BenchmarkScore") -> None:
        known.append(name)
        stage.live.progress(len(known), len(COLUMNS))
        print(f"{stage.name}: {name} {column.score:.2f} ({column.questions} questions)", flush=True)
        stage.record(questions=column.questions)

    compute = stage.read("compute", ComputeSettings)
    template = load_template(given.policy, stage.read("template", TemplateSettings))
    with stage.scratch() as scratch, stage.memo() as memo:
        board = evaluate(given.policy, template, settings, compute, given.mirror, scratch, seen, memo, bars=bars)
    results = BenchmarkedModel(
        name=given.name,
        method=given.method,
        round=given.round,
        path=given.policy.as_posix(),
        average=board.average,
        columns=board.columns,
        limit=settings.limit,
        seed=settings.seed,
        tasks=board.tasks,
        harness=board.harness,
        data=_origin(given.mirror),
    )
    with stage.publish(given.out) as out:
        (out / "samples").mkdir(parents=True)
        write_json(out / "results.json", results.as_json())
        for task, samples in board.samples.items():
            _write_samples(out / "samples" / f"{task}.jsonl.gz", samples)
    cut = sum(column.cut for column in board.columns.values())
    note = f"; {cut} prompts were truncated at the start: the model's context is too short for them" if cut else ""
    limited = f" of at most {settings.limit} questions per task" if settings.limit else ""
    return f"average {board.average:.2f}{limited}{note}"


def _origin(mirror: Path) -> dict[str, str] | None:
    """Commits of the data sets; None for a mirror that was assembled by hand."""
    from juicer.evaluation.benchmarks import Mirror

    path = mirror / "mirror.json"
    return Mirror.read(path).revisions if path.is_file() else None


def _write_samples(path: Path, samples: Iterable["Mapping[str, JsonValue]"]) -> None:
    """Write records as compressed JSON lines; the same bytes every time, so without the time of writing."""
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, filename="", mode="wb", mtime=0) as file:
        for sample in samples:
            file.write(json.dumps(sample, ensure_ascii=False).encode() + b"\n")


if __name__ == "__main__":
    main(run, arguments, __doc__)
