"""results.json: what a claim found, as typed documents. The page and the figure are made from these alone."""

from typing import Literal

from pydantic import Field

from juicer.claim.intervals import Over
from juicer.evaluation.documents import Document
from juicer.evaluation.results import Instruments, ShownSample

Chosen = Literal["best", "last"]
Against = Literal["first", "best"]


class Figure(Document):
    """One metric of one model, over the seeds."""

    metric: str
    """A key of `juicer.claim.measures.MEASURES`."""
    over: Over
    """What the intervals are over."""
    prompts: int | None
    """Held-out prompts that a seed has a value on, at the fewest; None where a seed gives one number."""
    mean: float
    half_width: float | None
    """Of its 95% interval; None where there is a single unit, like all the others."""
    difference: float | None
    """To sft-matched; None for sft-matched itself, like all below."""
    difference_half_width: float | None
    p: float | None
    error: float | None
    """Standard error of the difference; None where there is a single unit."""
    degrees: float | None
    """Degrees of freedom of Student's t for it; 0 where there is a single unit."""
    detectable: float | None
    """The smallest true difference that would have been shown with a probability of 80%: for a declared difference
    after the correction, at the level of its strictest step; for others by the 95% interval."""
    deviation: float | None
    """Standard deviation, over prompts, of the paired differences, averaged over the seeds."""
    declared: bool
    """Whether it is one of the comparisons that were declared before, and are tested together."""
    holds: bool | None
    """Whether a declared difference holds after Holm's correction."""
    by_seed: list[float]
    """The value of each seed, in the order of the variant's seeds."""
    difference_by_seed: list[float] | None


class Compared(Document):
    """One model of a variant."""

    variant: str
    name: str
    """For example "irft, best round"."""
    method: str
    chosen: Chosen | None
    """Which round; None where there is no choice."""
    rounds: list[int]
    """The round of each seed."""
    figures: list[Figure]

    def figure(self, metric: str) -> Figure | None:
        """The figure of a metric; None where it was not measured."""
        return next((each for each in self.figures if each.metric == metric), None)


class Gain(Document):
    """The last round of a method less another of its rounds, in one metric, paired over the seeds."""

    variant: str
    method: str
    against: Against
    """The first round, or the best one on validation prompts of each seed."""
    metric: str
    difference: float
    half_width: float | None
    """Of its 95% interval; None where there is a single unit."""
    by_seed: list[float]


class Point(Document):
    """A mark of the picture."""

    variant: str
    method: str
    round: int
    metric: str
    mean: float
    half_width: float | None


class Samples(Document):
    """The responses of one model to the first of the held-out prompts."""

    name: str
    samples: list[ShownSample]
    judged: list[float | None] = Field(default_factory=list)
    """The judge's score of each; empty without a judge."""


class Versions(Document):
    """What the figures were computed with."""

    juicer: str | None
    """Commit of the project; None before its first one."""
    changed: bool
    """Whether files differ from that commit, or a run has finished with others."""
    python: str
    torch: str
    transformers: str


class Found(Document):
    """What every comparison found."""

    recipe: str
    variants: dict[str, list[str]]
    """Overrides by the variant's name."""
    seeds: dict[str, list[int]]
    """The finished seeds of each variant."""
    planned: list[int]
    """The seeds that were asked for."""
    processor: str
    versions: Versions
    primary: list[str]
    """The metrics of the declared comparisons."""
    instruments: dict[str, Instruments] = Field(default_factory=dict)
    """Per variant, at its first finished seed: how far its scorer and judge can be trusted."""
    compared: list[Compared]
    samples_seed: int | None
    samples: dict[str, list[Samples]]
    """Per variant, at its first finished seed."""

    @property
    def reference(self) -> str:
        """The control that all are compared with."""
        return "sft-matched"

    def of(self, variant: str) -> list[Compared]:
        """The models of a variant."""
        return [each for each in self.compared if each.variant == variant]

    def seeds_of(self, compared: Compared) -> list[int]:
        """The seeds that a model's values are of."""
        return self.seeds[compared.variant]


class Claim(Found):
    """The whole of results.json."""

    seconds: dict[str, list[float | None]]
    """Per variant and seed, the sum of the wall-clock times of the stages that ran for it, also of those that ran side
    by side; None where all were restored."""
    points: list[Point]
