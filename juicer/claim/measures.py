"""The metrics that models are compared by: a value per held-out prompt where there is one, else a number per model."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from juicer.evaluation.likelihood import per_token_values
from juicer.evaluation.results import EvaluatedModel, PerPrompt

Values = Sequence[float | None]
OfPrompts = Callable[[EvaluatedModel, EvaluatedModel], Values]
"""The values of a model on each prompt, given the model that it is compared with; none where they were not measured."""
OfModel = Callable[[EvaluatedModel], float | None]


@dataclass(frozen=True)
class Measure:
    """A metric."""

    key: str
    title: str
    digits: int
    prompts: OfPrompts | None
    model: OfModel


def _rows(values: Callable[[PerPrompt], Values]) -> OfPrompts:
    return lambda model, _: values(model.held_out_rows) if model.held_out_rows is not None else ()


def _share(gaps: Sequence[float | None]) -> list[float | None]:
    """1 where the chosen response is the more likely one, 1/2 for a tie."""
    return [None if gap is None else 0.5 * ((gap > 0) + (gap >= 0)) for gap in gaps]


def _wins(own: Values, other: Values) -> list[float | None]:
    """1 where the own value is the higher one, 1/2 for a tie."""
    return _share([None if None in (a, b) else a - b for a, b in zip(own, other, strict=True)])  # type: ignore[operator]


def _nll_per_token(model: EvaluatedModel, _: EvaluatedModel) -> list[float]:
    if model.held_out_rows is None or not model.held_out_nll:
        return []
    return per_token_values(model.held_out_nll, model.held_out_rows.demonstration_tokens)


def _no(model: EvaluatedModel) -> None:
    return None


MEASURES: tuple[Measure, ...] = (
    Measure("judge", "judge", 3, lambda model, _: model.held_out_judged, lambda model: model.held_out.judge_mean),
    Measure(
        "judge_wins", "wins by judge", 3, lambda model, other: _wins(model.held_out_judged, other.held_out_judged), _no
    ),
    Measure("score", "score", 3, lambda model, _: model.held_out_scores, lambda model: model.held_out.reward_mean),
    Measure(
        "score_wins", "wins by score", 3, lambda model, other: _wins(model.held_out_scores, other.held_out_scores), _no
    ),
    Measure("oracle", "oracle", 3, None, lambda model: model.held_out.oracle_mean),
    Measure(
        "accuracy",
        "preference accuracy",
        3,
        _rows(lambda rows: _share(rows.gap)),
        lambda model: model.held_out.preference_accuracy,
    ),
    Measure(
        "accuracy_per_token",
        "preference accuracy per token",
        3,
        _rows(lambda rows: _share(rows.gap_per_token)),
        lambda model: model.held_out.preference_accuracy_per_token,
    ),
    Measure(
        "gap",
        "preference gap, nats",
        2,
        _rows(lambda rows: rows.gap),
        lambda model: model.held_out.preference_gap,
    ),
    Measure(
        "nll",
        "NLL of a demonstration, nats",
        2,
        lambda model, _: model.held_out_nll,
        lambda model: model.held_out.demonstration_nll,
    ),
    Measure(
        "nll_per_token",
        "NLL per token, nats",
        3,
        _nll_per_token,
        lambda model: model.held_out.demonstration_nll_per_token,
    ),
    Measure("kl", "KL to sft, nats", 2, _rows(lambda rows: rows.kl), lambda model: model.held_out.kl_to_sft),
    Measure(
        "response_tokens",
        "response tokens",
        1,
        _rows(lambda rows: rows.response_tokens),
        lambda model: model.held_out.response_tokens,
    ),
    Measure("distinct_2", "distinct-2", 3, None, lambda model: model.held_out.distinct_2),
    Measure("ended", "ended", 3, _rows(lambda rows: rows.ended), lambda model: model.held_out.ended),
    Measure("empty", "empty", 3, _rows(lambda rows: rows.empty), lambda model: model.held_out.empty),
    Measure("repeated", "repeated", 3, _rows(lambda rows: rows.repeated), lambda model: model.held_out.repeated),
)
"""In the order of the tables."""
BY_KEY = {each.key: each for each in MEASURES}
SCORES = ("judge", "score")
"""What responses are judged by: the first of these that there is."""


def values_of(measure: Measure, model: EvaluatedModel, other: EvaluatedModel, seed: int) -> dict[str, float] | None:
    """The model's value on each prompt, by the prompt's id; None where there are none.

    Evaluations of before have no ids. Their prompts are those of their seed only, and cannot be paired with another's.
    """
    values = measure.prompts(model, other) if measure.prompts is not None else ()
    rows = model.held_out_rows
    ids = _unique(rows.id) if rows is not None else [f"{seed}:{place}" for place in range(len(values))]
    found = {name: float(value) for name, value in zip(ids, values, strict=False) if value is not None}
    return found or None


def _unique(ids: Sequence[str]) -> list[str]:
    seen = Counter[str]()
    result = []
    for name in ids:
        result.append(f"{name}#{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return result


def difference(own: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """The paired differences on the prompts that both have."""
    return {name: value - other[name] for name, value in own.items() if name in other}
