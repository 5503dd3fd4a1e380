"""What was learnt, in words: the headline of the report, drawn from metrics/summary.json and nothing else.

The words follow from the intervals, whatever their sign: a model that is not better is not called better.
"""

from typing import Any, Literal, NamedTuple

from juicer.evaluation.choice import CRITERIA, best_on_validation
from juicer.reporting.numbers import Z_95, Row, shown

METHODS = ("irft", "rft")
FEW_ENDED = 0.5
"""Below this share of responses that end by themselves, figures are about the limit more than about the model."""


class Findings(NamedTuple):
    """A headline, the sentences under it, and what the reader should keep in mind."""

    headline: str
    sentences: list[str]
    caveats: list[str]


def verdict(difference: float | None, error: float | None) -> Literal["better", "worse", "undecided"]:
    """Whether a paired difference is told from zero by its 95% interval."""
    if difference is None or error is None or abs(difference) <= Z_95 * error:
        return "undecided"
    return "better" if difference > 0 else "worse"


def title(model: Row) -> str:
    """A model's name in prose, for example "RFT round 1"."""
    if model["method"] in METHODS:
        return f"{model['method'].upper()} round {model['round']}"
    names = {"base": "The base model", "sft": "SFT", "sft-matched": "SFT continued (sft-matched)"}
    return names.get(model["method"], str(model["name"]))


def best_round(models: list[Row], method: str) -> Row | None:
    """The method's best round by validation, as the champion is chosen; the last without figures there."""
    rounds = [model for model in models if model["method"] == method]
    figures = [{criterion: model.get(f"validation_{criterion}") for criterion in CRITERIA} for model in rounds]
    if best := best_on_validation(figures):
        return rounds[best.place]
    return rounds[-1] if rounds else None


def interval(difference: float, error: float) -> str:
    """A difference and its 95% interval, for example "+0.31 (95% interval +0.20 to +0.42)"."""
    low, high = difference - Z_95 * error, difference + Z_95 * error
    return (
        f"{shown(difference, 3, signed=True)} "
        f"(95% interval {shown(low, 3, signed=True)} to {shown(high, 3, signed=True)})"
    )


def findings(summary: dict[str, Any]) -> Findings:
    """The headline, sentences and caveats of a summary (see juicer.reporting.numbers.summarise)."""
    models = summary["models"]
    named = {model["name"]: model for model in models}
    champion, control = named[summary["champion"]["name"]], named[summary["control"]]
    rounds = [best for method in METHODS if (best := best_round(models, method)) is not None]
    sentences = [_chosen(summary, champion)]
    sentences += [_compared(model, control) for model in rounds]
    sentences += _beyond_the_score(champion, control, rounds)
    headline = _headline(champion, control, bool(rounds), summary["champion"]["criterion"])
    return Findings(headline, sentences, _caveats(summary, champion, control, rounds))


def _headline(champion: Row, control: Row, methods: bool, criterion: str | None) -> str:
    longer = "SFT continued for as long" if control["name"] == "sft-matched" else "SFT"
    if not methods:
        return "Supervised fine-tuning alone: both methods are switched off"
    if criterion is None:
        return "Nothing was chosen: there are no figures on validation prompts"
    if criterion == "demonstration_gap":
        return f"{title(champion)} is chosen by its demonstration gap alone, which is no measure of quality"
    if champion["method"] not in METHODS:
        return "Nothing beat supervised fine-tuning here"
    name = title(champion)
    if champion["reward_difference"] is None:
        return f"{name} is chosen; without a scorer its responses cannot be compared by score"
    by = shown(abs(champion["reward_difference"]), 2)
    found = verdict(champion["reward_difference"], champion["reward_difference_sem"])
    if found == "better":
        return f"{name} scores {by} higher than {longer}"
    if found == "worse":
        return f"{name} led on validation, yet scores {by} lower than {longer} on held-out prompts"
    return f"{name} is chosen, but it cannot be told from {longer}"


def _chosen(summary: dict[str, Any], champion: Row) -> str:
    criterion = summary["champion"]["criterion"]
    if criterion is None:
        return f"There are no figures on validation prompts, so nothing was chosen: {champion['name']} stands."
    value = shown(summary["champion"][f"validation_{criterion}"], 3)
    by = {
        "reward_mean": f"highest mean score there ({value})",
        "preference_accuracy": f"highest preference accuracy there ({value}; the recipe has no scorer)",
        "demonstration_gap": f"demonstration gap nearest to 0 there ({value}; neither scorer nor rejected responses)",
    }[criterion]
    return f"The champion, {champion['name']}, was chosen on validation prompts: {by}. All other figures are held out."


def _compared(model: Row, control: Row) -> str:
    figures = any(model.get(f"validation_{criterion}") is not None for criterion in CRITERIA)
    standing = "the method's best on validation" if figures else "the last round"
    subject = f"{title(model)}, {standing},"
    if model["reward_difference"] is None:
        mine, other = model["preference_accuracy"], control["preference_accuracy"]
        if mine is None or other is None:
            return f"{subject} has neither scores nor preferences to be compared by."
        return (
            f"{subject} has preference accuracy {shown(mine, 3)}, {control['name']} has {shown(other, 3)}; "
            "there is no scorer to compare responses by."
        )
    words = {
        "better": "scores higher than",
        "worse": "scores lower than",
        "undecided": "cannot be told by score from",
    }[verdict(model["reward_difference"], model["reward_difference_sem"])]
    difference = interval(model["reward_difference"], model["reward_difference_sem"])
    return f"{subject} {words} {control['name']}: {difference}, paired over {model['prompts']} prompts."


def _beyond_the_score(champion: Row, control: Row, rounds: list[Row]) -> list[str]:
    subject = champion if champion["method"] in METHODS else (rounds[0] if rounds else champion)
    if subject is control:
        return []
    sentences = []
    if "oracle_mean" in subject and "oracle_mean" in control:
        sentences.append(
            f"The world's oracle, on which nothing is chosen, gives {subject['name']} "
            f"{shown(subject['oracle_mean'], 3)} and {control['name']} {shown(control['oracle_mean'], 3)}."
        )
    if subject["reward_difference"] is not None and None not in (
        subject["preference_accuracy"],
        control["preference_accuracy"],
    ):
        sentences.append(
            f"Preference accuracy on held-out pairs is {shown(subject['preference_accuracy'], 3)} "
            f"against {shown(control['preference_accuracy'], 3)}."
        )
    return sentences


def _caveats(summary: dict[str, Any], champion: Row, control: Row, rounds: list[Row]) -> list[str]:
    caveats = [
        f"One seed ({summary['seed']}): intervals are over prompts, not over training runs. "
        "‘make claim’ repeats the comparison over five seeds."
    ]
    if control["name"] == "sft" and rounds:
        caveats.append(
            "The recipe makes no sft-matched, so part of any difference may be nothing but the additional training."
        )
    if any(model["reward_mean"] is not None for model in summary["models"]):
        caveats.append("The scorer that curated the demonstrations is the judge; it is imperfect, and can be gamed.")
    cut = [
        f"{model['name']} ({1 - model['ended']:.0%})"
        for model in summary["models"]
        if (model["name"] == "sft" or model is champion) and model["ended"] is not None and model["ended"] < FEW_ENDED
    ]
    if cut:
        caveats.append(
            f"Responses were cut at template.max_response_tokens before they ended: {', '.join(cut)} of them. "
            "Such a model has not learnt to stop: train it for longer, or raise the limit."
        )
    return caveats
