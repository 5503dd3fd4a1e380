"""What a run found, in words: the headline of the report and the sentences below it, from metrics/summary.json alone.

The words follow from the intervals, whatever their sign: a model that is not better is not called better.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from juicer.evaluation.choice import best_on_validation
from juicer.evaluation.results import Criterion
from juicer.reporting.contract import Champion, Summary, SummaryRow
from juicer.reporting.formatting import shown
from juicer.reporting.numbers import Z_95

METHODS = ("irft", "rft")
FEW_ENDED = 0.5
"""Where fewer responses end before the length limit, metrics say more about the limit than about the model."""


class Findings(NamedTuple):
    """A headline, the sentences under it, and what the reader should keep in mind."""

    headline: str
    sentences: list[str]
    caveats: list[str]


def verdict(difference: float | None, error: float | None) -> Literal["better", "worse", "undecided"]:
    """Which side of zero the 95% interval of a paired difference lies on; undecided if it contains zero."""
    if difference is None or error is None or abs(difference) <= Z_95 * error:
        return "undecided"
    return "better" if difference > 0 else "worse"


def title(model: SummaryRow) -> str:
    """A model's name in prose, for example "RFT round 1"."""
    if model.method in METHODS:
        return f"{model.method.upper()} round {model.round}"
    names = {"base": "The base model", "sft": "SFT", "sft-matched": "SFT continued (sft-matched)"}
    return names.get(model.method, model.name)


def best_round(models: Sequence[SummaryRow], method: str) -> SummaryRow | None:
    """The method's best round by the champion's criterion; its last round where there are no validation metrics."""
    rounds = [model for model in models if model.method == method]
    if best := best_on_validation([model.validation_merits for model in rounds]):
        return rounds[best.place]
    return rounds[-1] if rounds else None


def interval(difference: float, error: float) -> str:
    """A difference and its 95% interval, for example "+0.31 (95% interval +0.20 to +0.42)"."""
    low, high = difference - Z_95 * error, difference + Z_95 * error
    return (
        f"{shown(difference, 3, signed=True)} "
        f"(95% interval {shown(low, 3, signed=True)} to {shown(high, 3, signed=True)})"
    )


def findings(summary: Summary) -> Findings:
    """The headline, sentences and caveats of a summary."""
    champion, control = summary.model(summary.champion.name), summary.model(summary.control)
    rounds = [best for method in METHODS if (best := best_round(summary.models, method)) is not None]
    sentences = [_chosen(summary.champion)]
    sentences += [_compared(model, control) for model in rounds]
    sentences += _beyond_the_score(champion, control, rounds)
    headline = _headline(champion, control, bool(rounds), summary.champion.criterion)
    return Findings(headline, sentences, _caveats(summary, champion, control, rounds))


def _headline(champion: SummaryRow, control: SummaryRow, methods: bool, criterion: Criterion | None) -> str:
    other = "SFT with the same training budget" if control.name == "sft-matched" else "SFT"
    if not methods:
        return "Supervised fine-tuning alone: both methods are switched off"
    if criterion is None:
        return "No model was chosen: there are no metrics on validation prompts"
    if criterion == "demonstration_gap":
        return f"{title(champion)} is chosen by its demonstration gap alone, which does not measure quality"
    if champion.method not in METHODS:
        return "No round of reward learning beat supervised fine-tuning on validation prompts"
    name = title(champion)
    if champion.reward_difference is None:
        return f"{name} is chosen; without a scorer its responses cannot be compared by score"
    by = shown(abs(champion.reward_difference), 2)
    found = verdict(champion.reward_difference, champion.reward_difference_sem)
    if found == "better":
        return f"{name} scores {by} higher than {other}"
    if found == "worse":
        return f"{name} was best on validation prompts, but scores {by} lower than {other} on held-out prompts"
    return f"{name} is chosen, but its score does not differ significantly from that of {other}"


def _chosen(champion: Champion) -> str:
    if champion.criterion is None:
        return f"There are no metrics on validation prompts, so {champion.name} is the champion by default."
    value = shown(champion.value, 3)
    by = {
        "reward_mean": f"it has the highest mean score there ({value})",
        "preference_accuracy": f"it has the highest preference accuracy there ({value}; the recipe has no scorer)",
        "demonstration_gap": (
            f"its demonstration gap is the nearest to 0 there ({value}; the recipe has neither a scorer nor rejected "
            "responses)"
        ),
    }[champion.criterion]
    return (
        f"The champion, {champion.name}, was chosen on validation prompts: {by}. "
        "All other figures are from held-out prompts."
    )


def _compared(model: SummaryRow, control: SummaryRow) -> str:
    validated = any(merit is not None for merit in model.validation_merits)
    standing = "the method's best round on validation prompts" if validated else "the last round"
    subject = f"{title(model)}, {standing},"
    if model.reward_difference is None or model.reward_difference_sem is None:
        if model.preference_accuracy is None or control.preference_accuracy is None:
            return f"{subject} has neither scores nor preferences to compare."
        return (
            f"{subject} has preference accuracy {shown(model.preference_accuracy, 3)}, {control.name} has "
            f"{shown(control.preference_accuracy, 3)}; there is no scorer to compare responses by."
        )
    words = {
        "better": "scores higher than",
        "worse": "scores lower than",
        "undecided": "does not differ significantly in score from",
    }[verdict(model.reward_difference, model.reward_difference_sem)]
    difference = interval(model.reward_difference, model.reward_difference_sem)
    return f"{subject} {words} {control.name}: {difference}, paired over {model.prompts} prompts."


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
    accuracies = subject.preference_accuracy, control.preference_accuracy
    if subject.reward_difference is not None and None not in accuracies:
        sentences.append(
            f"Preference accuracy on held-out pairs is {shown(accuracies[0], 3)} against {shown(accuracies[1], 3)}."
        )
    return sentences


def _caveats(summary: Summary, champion: SummaryRow, control: SummaryRow, rounds: Sequence[SummaryRow]) -> list[str]:
    caveats = [
        f"This is one seed ({summary.seed}): intervals are over prompts, not over training runs. "
        "‘make claim’ repeats the comparison over five seeds."
    ]
    if control.name == "sft" and rounds:
        caveats.append(
            "The recipe makes no sft-matched, so part of any difference may be due to the additional training alone."
        )
    if any(model.reward_mean is not None for model in summary.models):
        caveats.append(
            "The scorer that curated the demonstrations also judges the responses; it is imperfect and can be gamed."
        )
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
