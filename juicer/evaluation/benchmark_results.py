"""The files that tasks.leaderboard writes: the scores of one model on the public benchmarks."""

from typing import Self

from pydantic import JsonValue, model_validator

from juicer.evaluation.benchmarks import COLUMNS
from juicer.evaluation.documents import Document
from juicer.evaluation.results import Row


class BenchmarkScore(Document):
    """One column of the leaderboard: the score on one benchmark, and how it was measured."""

    score: float
    """Mean over all questions of all tasks of the column, in per cent."""
    error: float | None
    """Its standard error, in per cent; None where lm-eval gives none (a single question)."""
    questions: int
    """Number of questions."""
    cut: int
    """Prompts (for generation: batches of prompts) truncated at the start, because the model's context is shorter."""
    fewshot: int
    """Solved examples before each question."""
    metric: str
    """Metric of the harness."""
    filter: str
    """Filter of the harness."""


class TaskResult(Document):
    """What lm-eval reports for one task."""

    metrics: dict[str, float]
    """Per metric and filter, for example acc,none."""
    questions: int
    fewshot: int
    version: JsonValue
    """Version of the task's definition."""


class BenchmarkedModel(Row):
    """evaluation/leaderboard/NAME/results.json: what tasks.leaderboard measured of one model."""

    average: float
    """Plain mean of the columns, in per cent."""
    columns: dict[str, BenchmarkScore]
    """In the order of the paper's table."""
    limit: int | None
    """Most questions per task; None for all."""
    seed: int
    """Seed of the few-shot examples."""
    tasks: dict[str, TaskResult]
    harness: dict[str, str]
    """Versions of lm-eval and of the libraries that compute."""
    data: dict[str, str] | None
    """Commit of each data set; None for a mirror that was assembled by hand."""

    @model_validator(mode="after")
    def _has_every_column(self) -> Self:
        if missing := [name for name in COLUMNS if name not in self.columns]:
            raise ValueError(f"the benchmarks {', '.join(missing)} are missing from columns")
        return self
