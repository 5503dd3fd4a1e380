"""What a comparison of methods shows, in words."""

from collections.abc import Sequence

from juicer.claim.measures import BY_KEY
from juicer.claim.methods.results import Effort, Outcome, Verdict
from juicer.claim.results import Compared, Figure
from juicer.reporting.formatting import shown


def verdicts_of(compared: Sequence[Compared], metric: str, seeds: int) -> list[Verdict]:
    """A verdict about every model of a variant that was declared.

    Args:
        compared: the models.
        metric: the primary metric.
        seeds: how many were planned.
    """
    found = []
    for each in compared:
        figure = each.figure(metric)
        if figure is not None and figure.declared:
            outcome, text = _judged(figure, len(each.rounds), seeds)
            found.append(
                Verdict(
                    variant=each.variant, method=each.method, name=each.name, metric=metric, outcome=outcome, text=text
                )
            )
    return found


def _judged(figure: Figure, finished: int, planned: int) -> tuple[Outcome, str]:
    assert figure.difference is not None  # only the control itself has none, and it is not declared
    if finished < planned:
        return "open", f"open: {finished} of {planned} seeds"
    if figure.holds:
        outcome: Outcome = "better" if figure.difference > 0 else "worse"
        return outcome, outcome
    width = figure.difference_half_width
    if width is None or figure.detectable is None:
        return "not shown to differ", "not shown to differ; these seeds cannot tell how much the runs vary"
    if abs(figure.difference) > width:
        return "not shown to differ", "not shown to differ after the correction"
    return "not shown to differ", "not shown to differ"


def headline(variant: str, compared: Sequence[Compared], verdicts: Sequence[Verdict], control: str) -> str:
    """The main finding of a variant, in a sentence.

    Args:
        compared: the models of the variant.
        verdicts: those about them.
        control: what they are compared with.
    """
    if not verdicts:
        return f"On `{variant}`, nothing measures how good the responses are, so no method is called better or worse."
    metric = verdicts[0].metric
    title, figures = BY_KEY[metric].title, {each.name: each.figure(metric) for each in compared}
    parts = []
    for outcome in ("better", "worse"):
        named = [(each.method, _by(figures[each.name])) for each in verdicts if each.outcome == outcome]
        if len(named) == 1:
            parts.append(f"{named[0][0]} is {outcome} than {control} {named[0][1]}")
        elif named:
            *first, last = (f"{method} ({by})" for method, by in named)
            parts.append(f"{', '.join(first)} and {last} are {outcome} than {control}")
    left = [figure for each in verdicts if each.outcome == "not shown to differ" and (figure := figures[each.name])]
    able = [each.detectable for each in left if each.detectable is not None]
    if missing := [each.method for each in verdicts if each.outcome == "open"]:
        verb = "is" if len(missing) == 1 else "are"
        parts.append(f"{', '.join(missing)} {verb} open, because seeds are missing")
    if left:
        which = "no other method" if parts else "no method"
        beside = "" if parts else f" from {control}"
        parts.append(f"{which} is shown to differ{beside}{_detectable(able, BY_KEY[metric].digits)}")
    return f"On `{variant}`, by {title}: {'; '.join(parts)}."


def _by(figure: Figure | None) -> str:
    assert figure is not None and figure.difference is not None
    digits = BY_KEY[figure.metric].digits
    width = f" ± {shown(figure.difference_half_width, digits)}" if figure.difference_half_width is not None else ""
    return f"by {shown(abs(figure.difference), digits)}{width}"


def _detectable(able: Sequence[float], digits: int) -> str:
    if not able:
        return ""
    low, high = shown(min(able), digits), shown(max(able), digits)
    return f" (a difference of {low if low == high else f'{low} to {high}'} would have been, with a probability of 80%)"


def less(efforts: Sequence[Effort], control: str) -> list[str]:
    """A sentence about each method that was trained for clearly less than the control."""
    sentences = []
    for each in efforts:
        if each.is_less:
            what = f"{each.tokens_share:.0%} of its response tokens"
            sentences.append(f"On `{each.variant}`, {each.method} was trained for less than {control}: {what}.")
    return sentences
