"""A model on the six benchmarks of the paper's table, by lm-eval's stock tasks, with their data from a mirror."""

import contextlib
import importlib.metadata
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import JsonValue

from juicer.data.template import Template
from juicer.evaluation.benchmark_results import BenchmarkScore, TaskResult
from juicer.evaluation.benchmarks import COLUMNS, task_manager, tasks_under
from juicer.evaluation.documents import Document
from juicer.models.folder import base_record, check_folder
from juicer.models.loading import attention_for, device_of, dtype_of, load_policy, sampling_config
from juicer.runtime.errors import InputError
from juicer.runtime.memo import Memo, no_memo
from juicer.settings.compute import ComputeSettings
from juicer.settings.leaderboard import BenchmarkSettings, HarnessSettings

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

_LIBRARIES = ("lm_eval", "transformers", "torch", "datasets")


class Measured(Document):
    """What lm-eval found on the tasks of one column, as the memo keeps it."""

    tasks: dict[str, TaskResult]
    samples: dict[str, list[dict[str, JsonValue]]]
    cut: int
    """As in `BenchmarkScore`."""


@dataclass
class Leaderboard:
    """What lm-eval found for one model.

    Attributes:
        columns: by name, in the order of the paper's table.
        tasks: per task: every metric, number of questions, few-shot count and version, as lm-eval reports them.
        harness: versions of lm-eval and of the libraries that compute.
        samples: per task: question, prompts, what the model answered, and the metrics.
    """

    columns: dict[str, BenchmarkScore] = field(default_factory=dict)
    tasks: dict[str, TaskResult] = field(default_factory=dict)
    harness: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[dict[str, JsonValue]]] = field(default_factory=dict)

    @property
    def average(self) -> float:
        """Plain mean of the columns, in per cent."""
        return sum(column.score for column in self.columns.values()) / len(self.columns)


def evaluate(
    model: Path,
    template: Template,
    settings: HarnessSettings,
    compute: ComputeSettings,
    mirror: Path,
    scratch: Path,
    seen: Callable[[str, BenchmarkScore], None],
    memo: Memo = no_memo,
    *,
    bars: bool,
) -> Leaderboard:
    """Measure a model as `lm_eval --model hf` does, column by column, because few-shot counts differ.

    What a base model's generation_config.json asks for (penalties, beams, lengths) does not take part: the same weights
    have the same row before and after training has saved them.

    Args:
        model: model folder.
        template: the recipe's, of which only the ends of a response count: prompts are lm-eval's own.
        mirror: folder with the data of all tasks (see juicer.evaluation.benchmarks).
        scratch: empty folder for what `datasets` makes of the mirror's files.
        seen: called with the name of each column and its figures as soon as they are known.
        memo: gives the result of a column again after an interruption.
        bars: draw lm-eval's progress bars.

    Raises:
        InputError: no model in the folder, a few-shot count that the data do not allow, or a metric or filter that
            a task does not have.
    """
    manager = task_manager()
    for name, tasks in COLUMNS.items():
        for leaf in (leaf for task in tasks for leaf in tasks_under(task, manager.task_index)):
            _check(getattr(settings, name), f"leaderboard.harness.{name}", leaf, manager.task_index[leaf].cfg)
    measured = language_model(model, template, settings, compute, bars=bars)
    board = Leaderboard(harness={name: importlib.metadata.version(name) for name in _LIBRARIES})
    for name, tasks in COLUMNS.items():
        benchmark: BenchmarkSettings = getattr(settings, name)
        data = data_from(mirror, scratch)
        try:
            kept = memo(partial(_measure, measured, manager, tasks, benchmark, settings, data))
        except (AssertionError, ValueError) as error:
            # How lm-eval says that there are too few examples, or that a prompt does not fit.
            raise InputError(f"lm-eval stops: {error}", where=f"leaderboard.harness.{name}") from error
        found = Measured.parse(kept, f"lm-eval's results on {name}")
        board.tasks |= found.tasks
        board.samples |= found.samples
        board.columns[name] = column_of(list(found.tasks.values()), benchmark, found.cut)
        seen(name, board.columns[name])
    return board


def _measure(
    language_model: "HFLM",
    manager: "TaskManager",
    tasks: Sequence[str],
    benchmark: BenchmarkSettings,
    settings: HarnessSettings,
    data: AbstractContextManager[None],
) -> dict[str, JsonValue]:
    """What lm-eval finds on the tasks of one column, as the JSON of `Measured`; `data` makes their data reachable."""
    import lm_eval
    from lm_eval.utils import handle_non_serializable

    with data, _Cuts() as cuts:
        loaded = manager.load(list(tasks))
        for task in loaded["tasks"].values():
            task.set_config("num_fewshot", benchmark.fewshot)
            task.set_fewshot_seed(settings.seed)
        results = lm_eval.evaluate(language_model, loaded, limit=settings.limit)
    leaves = [leaf for task in tasks for leaf in tasks_under(task, manager.task_index)]
    found = {
        leaf: {
            "metrics": _numbers(results["results"][leaf]),
            "questions": results["n-samples"][leaf]["effective"],
            "fewshot": results["n-shot"][leaf],
            "version": results["versions"][leaf],
        }
        for leaf in leaves
    }
    samples = {leaf: results["samples"][leaf] for leaf in leaves}
    plain = json.dumps({"tasks": found, "samples": samples, "cut": cuts.number}, default=handle_non_serializable)
    return dict(json.loads(plain))


def language_model(
    model: Path, template: Template, settings: HarnessSettings, compute: ComputeSettings, *, bars: bool
) -> "HFLM":
    """A model as lm-eval uses it. Arguments: see `evaluate`."""
    from lm_eval.models.huggingface import HFLM

    check_folder(model)
    device = device_of(compute)
    measured = HFLM(
        # lm-eval cannot merge adapters that are kept without their base model's weights.
        pretrained=str(model) if base_record(model) is None else load_policy(model, compute),
        tokenizer=str(model),
        device=device.type,
        dtype=str(dtype_of(compute)).removeprefix("torch."),
        batch_size=settings.batch_size,
        attn_implementation=attention_for(model, compute),
        use_safetensors=True,
        trust_remote_code=False,
    )
    measured.model.generation_config = sampling_config(template)
    if not bars:
        for request in ("loglikelihood", "generate_until"):
            setattr(measured, request, partial(getattr(measured, request), disable_tqdm=True))
    return measured


class _Cuts(logging.Filter):
    """Counts what lm-eval says, question by question, of prompts that do not fit, and keeps it from the terminal."""

    _logger = logging.getLogger("lm_eval.models.huggingface")

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __enter__(self) -> Self:
        self._logger.addFilter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        cut = "truncat" in record.getMessage().lower()
        self.number += cut
        return not cut


@contextlib.contextmanager
def data_from(mirror: Path, scratch: Path) -> Iterator[None]:
    """Let `datasets` take the folders of a mirror for the data sets of the hub of the same names.

    Its usual cache would hand out the data of any other mirror: for a folder it is keyed by names, not by content.
    """
    from datasets import config, disable_progress_bars

    disable_progress_bars()
    usual = config.HF_DATASETS_CACHE
    config.HF_DATASETS_CACHE = scratch.resolve()
    try:
        with contextlib.chdir(mirror):
            yield
    finally:
        config.HF_DATASETS_CACHE = usual


def column_of(tasks: Sequence[TaskResult], benchmark: BenchmarkSettings, cut: int = 0) -> BenchmarkScore:
    """The mean of a metric over the questions of several tasks, in per cent.

    With n_i questions, mean m_i and standard error s_i of task i: sum(n_i m_i) / n and sqrt(sum((n_i s_i)^2)) / n.

    Args:
        tasks: the results of the column's tasks.
        benchmark: which metric, and how it was measured.
        cut: as in `BenchmarkScore`.
    """
    questions = sum(task.questions for task in tasks)
    score, variance = 0.0, 0.0
    for task in tasks:
        share = task.questions / questions
        score += share * task.metrics[f"{benchmark.metric},{benchmark.filter}"]
        variance += (share * task.metrics.get(f"{benchmark.metric}_stderr,{benchmark.filter}", math.nan)) ** 2
    return BenchmarkScore(
        score=100 * score,
        error=None if math.isnan(variance) else 100 * math.sqrt(variance),
        questions=questions,
        cut=cut,
        fewshot=benchmark.fewshot,
        metric=benchmark.metric,
        filter=benchmark.filter,
    )


def _check(benchmark: BenchmarkSettings, where: str, task: str, settings: Mapping[str, Any]) -> None:
    """Refuse a metric or a filter that a task does not have, before hours are spent on it."""
    for kind, given, known in (
        ("metric", benchmark.metric, [each["metric"] for each in settings["metric_list"]]),
        ("filter", benchmark.filter, [each["name"] for each in settings.get("filter_list", [{"name": "none"}])]),
    ):
        if given not in known:
            do = f"one of: {', '.join(known)}"
            raise InputError(f"{task} has no {kind} {given!r}", where=f"{where}.{kind}", do=do)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among what lm-eval reports of a task; a standard error that it cannot give is "N/A" there."""
    return {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
