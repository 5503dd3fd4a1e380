"""What a run found, in words: the headline of the report and the sentences below it, from metrics/summary.json alone.

The words follow from the intervals, whatever their sign: a model that is not better is not called better. "Not better"
needs proof too: where a run could not have shown a difference that matters, the words are that it cannot tell.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from juicer.evaluation.choice import best_on_validation
from juicer.evaluation.pairs_record import accuracy_interval
from juicer.evaluation.results import Instruments, Tie
from juicer.evaluation.rounds import RoundComparison
from juicer.evaluation.significance import FEWEST, Difference, Verdict, share_difference, win_rate_difference
from juicer.reporting.contract import Champion, Matters, Summary, SummaryRow, win_rate_key
from juicer.reporting.formatting import scalar, shown
from juicer.reporting.numbers import COLUMNS, Column, separates_nothing
from juicer.settings.choice import CRITERIA, UNJUDGED, Criterion

METHODS = ("irft", "rft")
CONSISTENT = 0.6
"""Below this share of prompts on which both orders have the same outcome, a pairwise judge goes by places."""
FEW_ENDED = 0.5
"""Where fewer responses end before the length limit, metrics say more about the limit than about the model."""


WIN_RATES = {"win rate by people's votes": "people", "win rate by the pairwise judge": "the pairwise judge"}
"""What models are compared by where somebody saw two responses side by side, and who did."""
COLUMN_OF = {"score": "reward_mean", "score by the judge": "judge_mean", "preference accuracy": "preference_accuracy"}
"""What models are compared by, and the column of the table that has it."""


class Findings(NamedTuple):
    """A headline, the sentences under it, and what the reader should keep in mind."""

    headline: str
    sentences: list[str]
    caveats: list[str]


class Comparison(NamedTuple):
    """A model held against the control."""

    by: Literal[
        "win rate by people's votes",
        "score by the judge",
        "win rate by the pairwise judge",
        "score",
        "preference accuracy",
    ]
    difference: Difference
    matters: float | None
    """The smallest difference that matters; None where it is not known."""

    @property
    def verdict(self) -> Verdict | Literal["cannot tell"]:
        """That of the interval; "cannot tell" instead of undecided where the run lacks power for what matters."""
        found = self.difference.verdict
        if found == "undecided" and self.matters is not None and self.difference.detectable > self.matters:
            return "cannot tell"
        return found

    @property
    def units(self) -> str:
        """What the difference was measured on, for example "78 held-out pairs" or "votes on 30 held-out prompts"."""
        count = self.difference.count
        on = "votes on " if self.by == "win rate by people's votes" else ""
        return f"{on}{count} held-out {self.cases if count != 1 else self.cases.removesuffix('s')}"

    @property
    def scored(self) -> bool:
        """Whether the model's own responses are compared."""
        return self.by != "preference accuracy"

    @property
    def cases(self) -> str:
        """What scores and preferences are given to."""
        return "prompts" if self.scored else "pairs"


def compare(model: SummaryRow, control: SummaryRow, matters: Matters | None) -> Comparison | None:
    """A model against the control: by people's votes where there are enough for a verdict, or else by the judge, the
    pairwise judge, the scorer or preference accuracy, the first of them that was measured; None without any.

    The judge stands before the pairwise judge because its accuracy on pairs is measured.
    """
    share = matters.share if matters else None
    votes = _wins(model, "voted", control)
    if votes is not None and votes.count >= FEWEST:
        return Comparison("win rate by people's votes", votes, share)
    if judged := _paired(model.judge_difference, model.judge_difference_sem, model.judge_difference_low,
                         model.judge_difference_high, model.prompts):  # fmt: skip
        return Comparison("score by the judge", judged, matters.judge if matters else None)
    if (wins := _wins(model, "judged", control)) is not None:
        return Comparison("win rate by the pairwise judge", wins, share)
    if scored := _paired(model.reward_difference, model.reward_difference_sem, model.reward_difference_low,
                         model.reward_difference_high, model.prompts):  # fmt: skip
        return Comparison("score", scored, matters.score if matters else None)
    if model.preference_accuracy is None or control.preference_accuracy is None or not model.pairs:
        return None
    difference = share_difference(model.preference_accuracy, control.preference_accuracy, model.pairs)
    return Comparison("preference accuracy", difference, share)


def _wins(model: SummaryRow, kind: Literal["voted", "judged"], control: SummaryRow) -> Difference | None:
    """How far a win rate against the control is above 1/2; None where it was not measured."""
    name = win_rate_key(kind, control.name)
    rate, error, count = (model.metric(f"{name}{suffix}") for suffix in ("", "_sem", "_prompts"))
    if rate is None or error is None or count is None:
        return None
    return win_rate_difference(rate, error, int(count))


def _paired(
    mean: float | None, error: float | None, low: float | None, high: float | None, count: int | None
) -> Difference | None:
    if mean is None or count is None:
        return None
    if error is None or low is None or high is None:
        return Difference(mean, math.inf, -math.inf, math.inf, count)
    return Difference(mean, error, low, high, count)


def title(model: SummaryRow) -> str:
    """A model's name in prose, for example "RFT round 1"."""
    if model.method in METHODS:
        return f"{model.method.upper()} round {model.round}"
    names = {"base": "The base model", "sft": "SFT", "sft-matched": "SFT continued (sft-matched)"}
    return names.get(model.method, model.name)


def best_round(
    models: Sequence[SummaryRow], method: str, criteria: Sequence[Criterion] = CRITERIA
) -> SummaryRow | None:
    """The method's best round by the champion's criteria; its last round where there are no validation metrics."""
    rounds = [model for model in models if model.method == method]
    if best := best_on_validation([model.validation_merits for model in rounds], criteria):
        return rounds[best.place]
    return rounds[-1] if rounds else None


def interval(difference: Difference) -> str:
    """A difference and its 95% interval, for example "+0.31 (95% interval +0.20 to +0.42)"."""
    mean = shown(difference.mean, 3, signed=True)
    if difference.count < 2:
        return f"{mean} (no interval)"
    low, high = (shown(end, 3, signed=True) for end in (difference.low, difference.high))
    return f"{mean} (95% interval {low} to {high})"


def power(found: Comparison) -> str:
    """The smallest difference that the run could have shown, what matters, and what showing that would take."""
    if found.difference.count < FEWEST:
        return f"Below {FEWEST} {found.cases} nothing is called a difference."
    could = (
        f"{found.units} could have shown a difference of {shown(found.difference.detectable, 3)} in {found.by}, with a "
        "probability of 80%"
    )
    could = could[0].upper() + could[1:]
    if found.matters is None:
        return f"{could}."
    what = f"{could}; what matters is {shown(found.matters, 3)}"
    if found.verdict != "cannot tell":
        return f"{what}."
    return f"{what}, which takes about {_about(found.difference.needed(found.matters))} {found.cases}."


def _about(number: int) -> str:
    """A number of prompts to two significant digits, rounded up."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return scalar(-(-number // unit) * unit)


def findings(summary: Summary) -> Findings:
    """The headline, sentences and caveats of a summary."""
    champion, control = summary.model(summary.champion.name), summary.model(summary.control)
    found = (best_round(summary.models, method, summary.criteria) for method in METHODS)
    rounds = [best for best in found if best is not None]
    sentences = [_chosen(summary), *_about_rounds(summary)]
    sentences += [_compared(model, control, summary.matters) for model in rounds]
    sentences += _beyond_the_score(champion, control, rounds)
    headline = _headline(summary, champion, control, rounds)
    return Findings(headline, sentences, _caveats(summary, champion, control, rounds))


def _headline(summary: Summary, champion: SummaryRow, control: SummaryRow, rounds: Sequence[SummaryRow]) -> str:
    other = "SFT with the same training budget" if control.name == "sft-matched" else "SFT"
    criterion = summary.champion.criterion
    if not rounds:
        return "Supervised fine-tuning alone: both methods are switched off"
    if criterion is None:
        return "No model was chosen: there are no metrics on validation prompts"
    if not summary.champion.settled:
        return f"Nothing on validation prompts tells the models apart: {title(champion)} is taken as the simplest"
    seen = compare(champion, control, summary.matters)
    if criterion in UNJUDGED and (seen is None or seen.by not in WIN_RATES):
        by = "its demonstration gap" if criterion == "demonstration_gap" else "the likelihood of the demonstrations"
        return f"{title(champion)} is chosen by {by} alone, which does not measure quality"
    if champion.method not in METHODS:
        compared = [found for model in rounds if (found := compare(model, control, summary.matters))]
        open_ones = [found for found in compared if found.verdict in ("cannot tell", "too few")]
        if open_ones:
            if nothing := _nothing_separated(summary, open_ones[0]):
                return f"{_capital(nothing)}: cannot tell whether reward learning beats {other}"
            return f"Cannot tell from {open_ones[0].units} whether reward learning beats {other}"
        return "No round of reward learning beat supervised fine-tuning on validation prompts"
    name, found = title(champion), compare(champion, control, summary.matters)
    if found is None:
        return f"{name} is chosen; there are neither scores nor preferences to compare it by"
    by = shown(abs(found.difference.mean), 2)
    if found.verdict == "better":
        return f"{name} {_differs(found, by, 'higher', other)}"
    if found.verdict == "worse":
        low = _differs(found, by, "lower", other)
        return f"{name} was best on validation prompts, but {low} on held-out {found.cases}"
    if nothing := _nothing_separated(summary, found):
        return f"{name} is chosen, but {nothing}: cannot tell whether it beats {other}"
    if found.verdict == "undecided":
        of = f"1/2 against {other}" if found.by in WIN_RATES else f"that of {other}"
        return f"{name} is chosen, but its {found.by} does not differ significantly from {of}"
    return f"{name} is chosen, but {found.units} cannot tell whether it beats {other}"


def said_to_separate_nothing(models: Sequence[SummaryRow], columns: Sequence[Column]) -> str:
    """Which of the columns have the same value for all models and so prefer none; empty if none is like that."""
    equal = [column for column in columns if separates_nothing(models, column)]
    if not equal:
        return ""
    last = next(model for model in reversed(models) if model.method != "base")
    values = [f"{column.heading} ({shown(last.metric(column.key), column.digits)})" for column in equal]
    listed = f"{', '.join(values[:-1])} and {values[-1]}" if len(values) > 1 else values[0]
    are, separate = ("are", "separate") if len(values) > 1 else ("is", "separates")
    return f"{listed} {are} the same for all models that were trained here and {separate} nothing."


def _nothing_separated(summary: Summary, found: Comparison) -> str:
    """Says so where what models are compared by has the same value for all of them; else empty."""
    column = next((column for column in COLUMNS if column.key == COLUMN_OF.get(found.by)), None)
    if column is None or found.verdict in ("better", "worse") or not separates_nothing(summary.models, column):
        return ""
    value = shown(summary.model(summary.control).metric(column.key), column.digits)
    return f"every model has the same {found.by} ({value}), which separates nothing"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _differs(found: Comparison, by: str, how: str, other: str) -> str:
    if found.by in WIN_RATES:
        only = "only " if how == "lower" else ""
        rate = f"{found.difference.mean + 0.5:.0%}"
        return f"is preferred to {other} by {WIN_RATES[found.by]} in {only}{rate} of comparisons"
    does = {
        "score": "scores",
        "score by the judge": "is scored by the judge",
        "preference accuracy": "has a preference accuracy",
    }[found.by]
    return f"{does} {by} {how} than {other}"


def _chosen(summary: Summary) -> str:
    champion = summary.champion
    if champion.criterion is None:
        return f"There are no metrics on validation prompts, so {champion.name} is the champion by default."
    return (
        f"The champion, {champion.name}, was chosen on validation prompts: {_reason(champion, summary.criteria)}. "
        "All other figures are from held-out prompts."
    )


NAMES: Mapping[Criterion, str] = {
    "reward_mean": "mean score",
    "preference_accuracy": "preference accuracy",
    "preference_gap": "preference gap",
    "judged_win_rate": "win rate against the control by the pairwise judge",
    "demonstration_gap": "demonstration gap",
    "demonstration_nll": "negative log-likelihood of the demonstrations",
}


def _reason(champion: Champion, criteria: Sequence[Criterion]) -> str:
    """By what a champion was chosen, and what separated nothing before."""
    assert champion.criterion is not None, "it was chosen"
    ties = "; ".join(_tied(tie) for tie in champion.ties)
    if not champion.settled:
        return f"{ties}. Nothing else separates them, so it is the earliest and simplest of these"
    value = shown(champion.value, 3)
    by: Mapping[Criterion, str] = {
        "demonstration_gap": f"its demonstration gap is the nearest to 0 there ({value}",
        "demonstration_nll": f"the demonstrations there are the most likely under it ({value} nats per response",
    }
    why = by.get(champion.criterion, f"it has the highest {NAMES[champion.criterion]} there ({value}")
    missing = {
        "preference_accuracy": "; the recipe has no scorer",
        "demonstration_gap": "; the recipe has neither a scorer nor rejected responses",
    }
    if ties:
        return f"{ties}. Of these, {why})"
    # In another order a criterion that comes first says nothing of what the recipe lacks.
    return f"{why}{missing.get(champion.criterion, '') if list(criteria) == list(CRITERIA) else ''})"


def _tied(tie: Tie) -> str:
    """A criterion that left several models, for example "all 5 models share the preference accuracy 1.000"."""
    of = f"all {tie.compared} models" if tie.best == tie.compared else f"{tie.best} of {tie.compared} models"
    best = "" if tie.best == tie.compared else "best "
    none = ", so it separates nothing" if tie.best == tie.compared else ""
    return f"{of} share the {best}{NAMES[tie.criterion]} {shown(tie.value, 3)}{none}"


def _about_rounds(summary: Summary) -> list[str]:
    """Why the rounds of each method on `rounds: auto` ended."""
    last = {each.method: each for each in summary.rounds or ()}
    return [_ended(each, [model.name for model in summary.models]) for each in last.values()]


def _ended(last: RoundComparison, reported: Sequence[str]) -> str:
    method, number, before = last.method.upper(), last.round, before_of(last)
    criterion, on = last.measure, f"{last.count} validation {last.cases}"
    how = f"{shown(last.difference, 3, signed=True)}{around_round(last)}"
    if last.ending == "limit":
        return (
            f"{method} stopped after round {number} because {last.method}.auto.most allows no more: it still improves "
            f"on {before} (its {criterion} on {on}: {how})."
        )
    if last.ending == "open":
        return (
            f"{method} has not ended: round {number} improves on {before} (its {criterion} on {on}: {how}), so another "
            "round is to be tried: juicer run."
        )
    few = f"; {on} are too few to tell" if last.count < FEWEST else ""
    found = f"its {criterion} on {on} is not above that of {before} beyond noise ({how}{few})"
    if last.ending == "kept":
        rest = "a method keeps at least one round, but this one is not shown to be better than SFT"
    elif f"{last.method}-r{number}" in reported:
        rest = f"round {number} is to be discarded: juicer run"
    else:
        rest = f"round {number} is discarded"
    return f"{method} stopped after round {number}: {found}; {rest}."


def before_of(found: RoundComparison) -> str:
    """What a round is compared with, in prose."""
    return "SFT" if found.round == 1 else f"round {found.round - 1}"


def around_round(found: RoundComparison) -> str:
    """The 95% interval of the difference, for example ", 95% interval −0.02 to +0.05"."""
    if found.low is None or found.high is None:
        return ""
    low, high = (shown(end, 3, signed=True) for end in (found.low, found.high))
    return f", 95% interval {low} to {high}"


def _compared(model: SummaryRow, control: SummaryRow, matters: Matters | None) -> str:
    validated = any(merit is not None for merit in model.validation_merits)
    standing = "the method's best round on validation prompts" if validated else "the last round"
    subject = f"{title(model)}, {standing},"
    found = compare(model, control, matters)
    if found is None:
        return f"{subject} has neither scores nor preferences to compare."
    better, worse = {
        "score": ("scores higher than", "scores lower than"),
        "score by the judge": ("is scored higher by the judge than", "is scored lower by the judge than"),
        "preference accuracy": ("has a higher preference accuracy than", "has a lower preference accuracy than"),
        **{by: (f"is preferred by {who} to", f"is preferred less by {who} than") for by, who in WIN_RATES.items()},
    }[found.by]
    words = {
        "better": better,
        "worse": worse,
        "undecided": f"does not differ significantly in {found.by} from",
        "cannot tell": f"cannot be told apart in {found.by} from",
        "too few": f"has too few {found.cases} to be told apart from",
    }[found.verdict]
    if found.by in WIN_RATES:
        rate = shown(found.difference.mean + 0.5, 3)
        how = f"it wins {rate}, ties half, {interval(found.difference)} from 1/2, over {found.units}."
    elif found.scored:
        how = f"{interval(found.difference)}, paired over {found.units}."
    else:
        values = (shown(each.preference_accuracy, 3) for each in (model, control))
        how = f"{' against '.join(values)}, {interval(found.difference)}. There is no scorer to compare responses by."
    rest = "" if found.verdict in ("better", "worse") else f" {power(found)}"
    return f"{subject} {words} {control.name}: {how}{rest}"


def _beyond_the_score(champion: SummaryRow, control: SummaryRow, rounds: Sequence[SummaryRow]) -> list[str]:
    subject = champion if champion.method in METHODS else (rounds[0] if rounds else champion)
    if subject is control:
        return []
    sentences = []
    if subject.oracle_mean is not None and control.oracle_mean is not None:
        sentences.append(
            f"The world's oracle, by which nothing is trained or chosen, gives {subject.name} "
            f"{shown(subject.oracle_mean, 3)} and {control.name} {shown(control.oracle_mean, 3)}."
        )
    if subject.nll_difference is not None:
        found = _paired(subject.nll_difference, subject.nll_difference_sem, subject.nll_difference_low,
                        subject.nll_difference_high, subject.prompts)  # fmt: skip
        costs = [each.demonstration_nll_per_token for each in (subject, control)]
        if found is not None and None not in costs:
            sentences.append(
                f"Held-out demonstrations cost {subject.name} {shown(costs[0], 3)} nats per token and {control.name} "
                f"{shown(costs[1], 3)}; per response the difference is {interval(found)}."
            )
    accuracies = subject.preference_accuracy, control.preference_accuracy
    if subject.reward_difference is not None and None not in accuracies:
        sentences.append(
            f"Preference accuracy on held-out pairs is {shown(accuracies[0], 3)} against {shown(accuracies[1], 3)}."
        )
    return sentences


def _about_instruments(found: Instruments) -> list[str]:
    """How far the scorer and the judge can be trusted."""

    def accuracy(value: float) -> str:
        low, high = accuracy_interval(value, found.pairs)
        return f"{shown(value, 3)} (95% interval {shown(low, 3)} to {shown(high, 3)})"

    sentences = [
        f"The {name} prefers the response that people chose in {accuracy(value)} of {found.pairs} held-out pairs; "
        "a coin would in 0.5."
        for name, value in (("judge", found.judge_accuracy), ("scorer", found.scorer_accuracy))
        if value is not None
    ]
    if found.agreement is not None:
        sentences.append(
            f"Scorer and judge, which have no pair in common, agree in {shown(found.agreement, 3)} of these pairs."
        )
    return [" ".join(sentences)]


def _about_judging(summary: Summary) -> list[str]:
    """How far the pairwise judge and people's votes can be trusted, and what the judge cost."""
    said = list[str]()
    if (judging := summary.judging) is not None:
        asked = f"The pairwise judge, {judging.judge}, was asked {scalar(judging.questions)} questions"
        failed = f"; {judging.failed} remained without a verdict" if judging.failed else ""
        cost = f", for {shown(judging.price, 2)}" if judging.price else ""
        same = ""
        if judging.consistent is not None:
            same = f" It says the same in both orders on {judging.consistent:.0%} of the prompts."
            if judging.consistent < CONSISTENT:
                same += " That is little: it goes by the place of a response more than by the response."
        said.append(f"{asked}{cost}{failed}.{same}")
    if (voting := summary.voting) is not None and voting.votes:
        rest = ""
        if (agreed := voting.agreement) is not None:
            rest += f" People agree with one another in {agreed.share:.0%} of {agreed.of} comparisons."
        if (agreed := voting.with_judge) is not None:
            rest += f" A judge agrees with {agreed.share:.0%} of {agreed.of} votes."
        said.append(f"People gave {scalar(voting.votes)} votes on the responses, not knowing whose they were.{rest}")
    if summary.voting is not None and summary.voting.outdated:
        said.append(
            f"{scalar(summary.voting.outdated)} votes are on responses that the models no longer give: they do not "
            "count."
        )
    return said


def _caveats(summary: Summary, champion: SummaryRow, control: SummaryRow, rounds: Sequence[SummaryRow]) -> list[str]:
    caveats = [
        f"This is one seed ({summary.seed}): intervals are over prompts, not over training runs. "
        "‘juicer claim’ repeats the comparison over several seeds, while this recipe is the active one."
    ]
    if control.name == "sft" and rounds:
        caveats.append(
            "The recipe makes no sft-matched, so part of any difference may be due to the additional training alone."
        )
    if summary.champion.criterion in UNJUDGED:
        caveats.append(
            "No response was judged by anything in this choice. A demonstration gap of 0 and a high likelihood of the "
            "demonstrations belong to a model that writes as the experts do, but also to models that do not, and SFT "
            "maximises that likelihood directly. In 143 runs of the quickstart's worlds, whose true quality is known, "
            "choosing so was no better than choosing at random. A scorer, pairs, a judge or votes would tell more."
        )
    judged = any(model.judge_mean is not None for model in summary.models)
    if not judged and any(model.reward_mean is not None for model in summary.models):
        caveats.append(
            "The scorer that curated the demonstrations also judges the responses; it is imperfect and can be gamed."
        )
    if summary.instruments is not None:
        caveats += _about_instruments(summary.instruments)
    caveats += _about_judging(summary)
    cut = [
        f"{model.name} ({1 - model.ended:.0%})"
        for model in summary.models
        if (model.name == "sft" or model is champion) and model.ended is not None and model.ended < FEW_ENDED
    ]
    if cut:
        caveats.append(
            f"Many responses were cut at template.max_response_tokens before they ended: {', '.join(cut)}. "
            "Such a model has not learnt to stop: train it for longer, or raise the limit."
        )
    return caveats
