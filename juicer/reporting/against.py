"""Two outcomes side by side: metrics with their differences, changed values of the recipe, changed data and code.

Differences are those of this project's results to the other ones. Where both were measured on held-out prompts of the
same ids, by the same scorer, they are paired over these prompts (`juicer.evaluation.significance`); elsewhere they are
plain differences, and no verdict is drawn from them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from juicer.evaluation.results import EvaluatedModel, PerPrompt
from juicer.evaluation.rounds import score_difference
from juicer.evaluation.significance import Difference
from juicer.reporting.contract import SummaryRow
from juicer.reporting.formatting import scalar, shown
from juicer.reporting.outcomes import Outcome, lists_of_code, starting_points

Values = Sequence[float | None]
SAID_BY = ("judge_mean", "reward_mean", "preference_accuracy", "demonstration_nll")
"""The headline is about the first of these that both champions have."""


@dataclass(frozen=True)
class Measure:
    """A metric that is compared."""

    key: str
    heading: str
    digits: int
    best: Literal["high", "low", None]
    each: Callable[[EvaluatedModel, PerPrompt], Values] | None = None
    """Its value on each held-out prompt; None where only the mean is kept."""
    needs: tuple[str, ...] = ("template",)
    """Sections of the recipe that have to be the same for it to measure the same."""


MEASURES = (
    Measure("reward_mean", "Score", 3, "high", lambda model, rows: model.held_out_scores, ("template", "scorer")),
    Measure("judge_mean", "Judge", 3, "high", lambda model, rows: model.held_out_judged, ("template", "judge")),
    Measure("voted_win_rate", "Win rate by votes", 3, "high"),
    Measure("judged_win_rate", "Win rate by the pairwise judge", 3, "high"),
    Measure("oracle_mean", "Oracle", 3, "high"),
    Measure(
        "preference_accuracy",
        "Preference accuracy",
        3,
        "high",
        lambda model, rows: [None if gap is None else float(gap > 0) for gap in rows.gap],
    ),
    Measure("preference_gap", "Preference gap, nats", 3, "high", lambda model, rows: rows.gap),
    Measure("demonstration_nll", "NLL, nats per response", 3, "low", lambda model, rows: model.held_out_nll),
    Measure("perplexity", "Perplexity", 4, "low"),
    Measure("response_tokens", "Tokens per response", 1, None, lambda model, rows: rows.response_tokens),
    Measure("ended", "Ended", 3, "high", lambda model, rows: [float(each) for each in rows.ended]),
    Measure("repeated", "Repeated", 3, "low", lambda model, rows: [float(each) for each in rows.repeated]),
    Measure("kl_to_sft", "KL to sft, nats", 2, None, lambda model, rows: rows.kl),
)


@dataclass(frozen=True)
class Compared:
    """One metric of a model here and of a model there."""

    measure: Measure
    there: float | None
    here: float | None
    paired: Difference | None
    """The difference, here less there, over the prompts that both have; None where it cannot be paired."""

    @property
    def difference(self) -> float | None:
        """Here less there: over the prompts that both have, or else of the two means."""
        if self.paired is not None:
            return self.paired.mean
        return None if self.here is None or self.there is None else self.here - self.there

    @property
    def verdict(self) -> str:
        """What the interval says; empty where there is none."""
        if self.paired is None:
            return ""
        if not self.paired.mean and not self.paired.error:
            return "equal"
        found = self.paired.verdict
        if found == "too few":
            return "too few prompts"
        if found == "undecided":
            return "not beyond noise"
        if self.measure.best is None:
            return "higher" if found == "better" else "lower"
        return "better" if (found == "better") == (self.measure.best == "high") else "worse"

    @property
    def interval(self) -> str:
        """The 95% interval of the difference; empty where there is none."""
        if self.paired is None or self.paired.count < 2:
            return ""
        low, high = (shown(end, self.measure.digits, signed=True) for end in (self.paired.low, self.paired.high))
        return f"{low} to {high}"


@dataclass(frozen=True)
class ModelPair:
    """A model there, and the one here that is held against it."""

    there: str
    here: str
    method: str
    compared: list[Compared]
    common: int | None
    """Held-out prompts that both were measured on; None where that is not known."""
    note: str
    """Why differences are not paired; empty where they are."""

    def of(self, key: str) -> Compared | None:
        """The comparison by one metric."""
        return next((each for each in self.compared if each.measure.key == key), None)


@dataclass(frozen=True)
class ChangedValue:
    """A value of the recipe that differs."""

    key: str
    there: str
    here: str


@dataclass(frozen=True)
class ChangedPath:
    """A file that differs."""

    path: str
    how: Literal["changed", "only here", "only there"]


@dataclass(frozen=True)
class Against:
    """Two outcomes, compared."""

    here: Outcome
    there: Outcome
    headline: str
    champions: ModelPair | None
    """None where one of the outcomes has no row of its champion."""
    models: list[ModelPair]
    """Of the same names."""
    only_here: list[str]
    only_there: list[str]
    values: list[ChangedValue]
    data: list[ChangedPath]
    code: list[ChangedPath]
    unknown_code: list[str]
    """Lists of code that differ, where it cannot be told by which modules."""

    @property
    def title(self) -> str:
        """What the first comparison is of."""
        if self.champions is None:
            return ""
        what = "Champions" if self.there.whole else "The version, and the champion here"
        return f"{what}: {self.champions.there} there, {self.champions.here} here"


def compare(here: Outcome, there: Outcome) -> Against:
    """Compare this project's outcome with another one."""
    names_here, names_there = ([model.name for model in each.models] for each in (here, there))
    champion, other = here.model(here.champion), there.model(there.champion)
    champions = _pair(champion, other, here, there) if champion and other else None
    modules, unknown = _code(here, there)
    return Against(
        here=here,
        there=there,
        headline=_headline(champions, there.label),
        champions=champions,
        models=[
            _pair(model, other, here, there) for model in here.models if (other := there.model(model.name)) is not None
        ],
        only_here=[name for name in names_here if name not in names_there] if there.whole else [],
        only_there=[name for name in names_there if name not in names_here],
        values=_values(here, there),
        data=changed_paths(starting_points(here.lock), starting_points(there.lock), whole=here.whole and there.whole),
        code=modules,
        unknown_code=unknown,
    )


def _pair(here: SummaryRow, there: SummaryRow, ours: Outcome, theirs: Outcome) -> ModelPair:
    mine, other = ours.evaluation(here.name), theirs.evaluation(there.name)
    rows, other_rows = (each.held_out_rows if each else None for each in (mine, other))
    common: list[tuple[int, int]] | None = None
    if rows is not None and other_rows is not None:
        places = {identity: place for place, identity in enumerate(other_rows.id)}
        common = [(place, places[each]) for place, each in enumerate(rows.id) if each in places]
    compared, differing = list[Compared](), list[str]()
    for measure in MEASURES:
        values = here.metric(measure.key), there.metric(measure.key)
        if values == (None, None) or (measure.key == "repeated" and not any(values)):
            continue
        unlike = [section for section in measure.needs if not _alike(section, ours, theirs)]
        differing += unlike
        paired = None
        if measure.each and common and mine and other and rows and other_rows and not unlike:
            lists = measure.each(mine, rows), measure.each(other, other_rows)
            if len(lists[0]) == len(rows.id) and len(lists[1]) == len(other_rows.id):
                paired = score_difference([lists[0][one] for one, _ in common], [lists[1][two] for _, two in common])
        compared.append(Compared(measure, values[1], values[0], paired))
    count = None if common is None else len(common)
    return ModelPair(there.name, here.name, here.method, compared, count, _why_not(count, differing))


def _why_not(common: int | None, differing: Sequence[str]) -> str:
    if common is None:
        return "What was measured on each prompt is not to be had for both, so these are differences of means alone."
    if not common:
        return "The held-out prompts are others, so these are differences of means alone."
    if differing:
        sections = ", ".join(dict.fromkeys(differing))
        return f"Other settings or another model of {sections}: figures that depend on it are not paired."
    return ""


def _alike(section: str, ours: Outcome, theirs: Outcome) -> bool:
    """Whether a section of the recipe is the same, and so is the model that it names. Values that only one side knows,
    because its version of Juicer does, and sizes of batches make no difference."""
    keys = [key for key in ours.values if key.split(".")[0] == section and not key.endswith("batch_size")]
    same = all(ours.values[key] == theirs.values[key] for key in keys if key in theirs.values)

    def md5(outcome: Outcome) -> str | None:
        stage = "evaluate@sft"
        if section == "template" or stage not in outcome.lock.stages:
            return None
        path = outcome.lock.argument(stage, f"--{section}")
        deps = outcome.lock.stages[stage].get("deps") or []
        return next((str(dep.get("md5")) for dep in deps if dep["path"] == path), None)

    md5s = {md5(ours), md5(theirs)} - {None}
    return same and len(md5s) < 2


def _headline(champions: ModelPair | None, label: str) -> str:
    if champions is None:
        return f"No champion to compare with that of {label}"
    names = f"{champions.here} here", f"{champions.there} of {label}"
    found = next((each for key in SAID_BY if (each := champions.of(key)) and each.difference is not None), None)
    if found is None:
        return f"{names[0]} and {names[1]} have no metric in common"
    name = found.measure.heading.split(",")[0]
    name = name if name == "NLL" else name.lower()
    by = shown(abs(found.difference or 0.0), found.measure.digits)
    if found.paired is None:
        how = "the same as" if not found.difference else f"{by} {'above' if found.difference > 0 else 'below'}"
        return f"The {name} of {names[0]} is {how} that of {names[1]}, which is not compared prompt by prompt"
    if found.verdict in ("better", "worse"):
        how = "higher" if found.paired.mean > 0 else "lower"
        return f"{names[0]} is {found.verdict} than {names[1]}: its {name} is {by} {how}"
    if found.verdict == "equal":
        return f"{names[0]} has the same {name} as {names[1]} on every held-out prompt"
    return f"{names[0]} does not differ in {name} from {names[1]} beyond noise"


def _values(here: Outcome, there: Outcome) -> list[ChangedValue]:
    """The values that differ; those of one side only, where both sides are known whole."""
    keys = {**here.values, **there.values}
    if not (here.whole and there.whole):
        keys = {key: value for key, value in keys.items() if key in here.values and key in there.values}
    missing = object()
    return [
        ChangedValue(key, *(_text(each.values, key) for each in (there, here)))
        for key in sorted(keys)
        if here.values.get(key, missing) != there.values.get(key, missing)
    ]


def _text(values: dict[str, Any], key: str) -> str:
    if key not in values:
        return "not there"
    value = values[key]
    if isinstance(value, list):
        return f"[{', '.join(scalar(each) for each in value)}]"
    return "null" if value is None else scalar(value)


def changed_paths(here: dict[str, str], there: dict[str, str], *, whole: bool = True) -> list[ChangedPath]:
    """Files whose md5s differ, in order of their paths; without `whole`, of those that both sides have."""
    found = list[ChangedPath]()
    for path in sorted({*here, *there}):
        if path in here and path in there:
            if here[path] != there[path]:
                found.append(ChangedPath(path, "changed"))
        elif whole:
            found.append(ChangedPath(path, "only here" if path in here else "only there"))
    return found


def _code(here: Outcome, there: Outcome) -> tuple[list[ChangedPath], list[str]]:
    """Modules that differ, and lists that differ in modules which cannot be told any more."""
    ours, theirs = lists_of_code(here.lock), lists_of_code(there.lock)
    found, unknown = dict[str, ChangedPath](), list[str]()
    for each in changed_paths(ours, theirs, whole=False):
        mine, other = here.list_of_code(ours[each.path]), there.list_of_code(theirs[each.path])
        if mine is None or other is None:
            unknown.append(each.path)
        else:
            found |= {module.path: module for module in changed_paths(mine, other)}
    return [found[path] for path in sorted(found)], unknown
