"""methods.md: the headlines, the tables, the effort and the samples of a comparison of methods, in Markdown."""

from collections.abc import Sequence
from statistics import fmean

from juicer.claim.measures import BY_KEY
from juicer.claim.methods.results import EQUAL, MethodComparison
from juicer.claim.methods.verdict import less
from juicer.claim.page import (
    aligned,
    caption,
    difference,
    differences_table,
    heading,
    instruments,
    made_with,
    samples,
    seeds_table,
    table,
    values_table,
)
from juicer.claim.power import after
from juicer.claim.results import Compared, Gain
from juicer.reporting.formatting import shown

DECLARED_OF = "each method's chosen round, and of every other control,"
ALSO = ("accuracy", "oracle", "accuracy_per_token", "kl")
"""Metrics of the main table besides the primary ones; the table of all metrics has the others."""
FIGURE = "methods"
"""Name of the picture's files, without their ends."""
GAINS = (
    "The last round of each method with several rounds less its first one, and less the one that is best on validation "
    "prompts; on held-out prompts, paired, with 95% intervals that are not corrected for their number. Only seeds with "
    "more than one round count: with `rounds: auto` those in which a second round was kept."
)
LESS = "†"
"""Marks a method with less than the control."""


def page(found: MethodComparison, *, pictured: bool) -> str:
    """The whole page.

    Args:
        found: the results.
        pictured: whether there is a picture beside it.
    """
    control = found.reference
    parts = [f"# {found.recipe}: methods from one SFT checkpoint, against {control}", "\n\n".join(found.headlines)]
    if said := less(found.efforts, control):
        parts.append("\n".join(f"- {each}" for each in said))
    if pictured:
        parts.append(
            f"![Differences to {control} with 95% intervals; filled: holds after the correction]({FIGURE}.svg)"
        )
    parts += [f"## Differences to {control}", caption(found, DECLARED_OF, apart=True), _effort_caption(found)]
    parts += [f"{heading(found, variant)}{_main(found, variant)}" for variant in found.seeds]
    parts += ["### Power", "\n".join(f"- {sentence}" for sentence in after(found))]
    if found.gains:
        parts += ["## Do later rounds help?", GAINS]
        parts += [f"{heading(found, each)}{_gains(found, each)}" for each in found.seeds if _has_gains(found, each)]
    parts += ["## What was compared", *_intro(found)]
    parts += [f"## All differences to {control}"]
    parts += [f"{heading(found, variant)}{differences_table(found, variant)}" for variant in found.seeds]
    parts += ["## Values", "Means over the seeds of the held-out values, with 95% intervals."]
    parts += [f"{heading(found, variant)}{values_table(found, variant)}" for variant in found.seeds]
    parts += ["## Seeds", "The value of each seed. results.json has those of all metrics."]
    parts += [f"{heading(found, variant)}{seeds_table(found, variant)}" for variant in found.seeds]
    parts += instruments(found)
    parts += samples(found)
    return "\n\n".join(parts) + "\n"


def _has_gains(found: MethodComparison, variant: str) -> bool:
    return any(each.variant == variant for each in found.gains)


def summary(found: MethodComparison) -> str:
    """The table of the primary metrics and the verdicts, for a terminal."""
    tables = []
    for variant, seeds in found.seeds.items():
        titles = [BY_KEY[key].title for key in found.primary]
        rows = [["model", *titles, "steps", "tokens", "minutes", "detectable", "verdict"]]
        for each in rows_of(found, variant):
            cells = [_difference(each, key) for key in found.primary]
            rows.append([each.name, *cells, *_effort(found, each), _detectable(found, each), _verdict(found, each)])
        said = f"{variant} (seeds {', '.join(map(str, seeds))}): difference to {found.reference}"
        tables.append(f"{said}\n\n{aligned(rows)}")
    return "\n\n".join([*tables, *found.headlines, *less(found.efforts, found.reference)])


def _main(found: MethodComparison, variant: str) -> str:
    keys = [*found.primary, *(key for key in ALSO if any(each.figure(key) for each in found.of(variant)))]
    head = [
        "model",
        *(BY_KEY[key].title for key in keys),
        "steps",
        "response tokens",
        "minutes",
        "detectable",
        "verdict",
    ]
    rows = [
        [
            each.name,
            *(_difference(each, key) for key in keys),
            *_effort(found, each),
            _detectable(found, each),
            _verdict(found, each),
        ]
        for each in rows_of(found, variant)
    ]
    return table(head, rows)


def rows_of(found: MethodComparison, variant: str) -> list[Compared]:
    """SFT, then the methods in the order of the recipe, then the controls."""
    models = [each for each in found.of(variant) if each.method != "base"]
    order = ["sft", *found.methods, *found.controls]
    return sorted(models, key=lambda each: order.index(each.method))


def _difference(compared: Compared, key: str) -> str:
    figure = compared.figure(key)
    return difference(figure, key) if figure is not None and figure.difference is not None else "–"


def _effort(found: MethodComparison, compared: Compared) -> list[str]:
    effort = found.effort(compared.variant, compared.method)
    if effort is None:
        return ["–", "–", "–"]
    is_control = compared.method == found.reference
    minutes = [each / 60 for each in effort.seconds if each is not None]
    return [
        _amount(effort.steps, None if is_control else effort.steps_share),
        _amount(effort.response_tokens, None if is_control else effort.tokens_share, marked=effort.is_less),
        shown(fmean(minutes), 1) if minutes else "–",
    ]


def _amount(values: Sequence[int], share: float | None, *, marked: bool = False) -> str:
    said = shown(fmean(values), 0)
    return said if share is None else f"{said} ({share:.0%}{LESS if marked else ''})"


def _gains(found: MethodComparison, variant: str) -> str:
    mine = [each for each in found.gains if each.variant == variant]
    metrics = list(dict.fromkeys(each.metric for each in mine))
    rows = []
    for method, against in dict.fromkeys((each.method, each.against) for each in mine):
        cells = {each.metric: _gain(each) for each in mine if (each.method, each.against) == (method, against)}
        seeds = max(len(each.by_seed) for each in mine if (each.method, each.against) == (method, against))
        rows.append([method, f"last less {against}", str(seeds), *(cells.get(metric, "–") for metric in metrics)])
    return table(["method", "rounds", "seeds", *(BY_KEY[metric].title for metric in metrics)], rows)


def _gain(gain: Gain) -> str:
    digits = BY_KEY[gain.metric].digits
    width = f" ± {shown(gain.half_width, digits)}" if gain.half_width is not None else ""
    return f"{shown(gain.difference, digits, signed=True)}{width}"


def _detectable(found: MethodComparison, compared: Compared) -> str:
    figure = compared.figure(found.primary[0]) if found.primary else None
    if figure is None or not figure.declared or figure.detectable is None:
        return "–"
    return shown(figure.detectable, BY_KEY[figure.metric].digits)


def _verdict(found: MethodComparison, compared: Compared) -> str:
    if compared.method == found.reference:
        return "what all are compared with"
    verdict = found.verdict(compared)
    return verdict.text if verdict is not None else "–"


def _effort_caption(found: MethodComparison) -> str:
    marked = any(each.is_less for each in found.efforts)
    less_than = f" {LESS} marks less than {EQUAL:.0%} of the control's tokens." if marked else ""
    titles = f" by {BY_KEY[found.primary[0]].title}" if found.primary else ""
    return (
        f"The verdict is{titles}, after the correction. Detectable is the smallest true difference that would have "
        "been shown, with a probability of 80%. Steps and response tokens are those of all rounds since SFT, also of "
        "one that was tried and discarded, means over the seeds, "
        f"with their share of those of {found.reference}: it got at least as many of both as the method that used "
        "most. Equal tokens are not equal steps: a step of IRFT has a demonstration and its samples, one of RLOO many "
        "responses."
        f"{less_than} Minutes are of a method's own stages (training, sampling, evaluation of its models); stages that "
        "all have in common are run once and not counted, and a round that two methods share counts for both."
    )


def _intro(found: MethodComparison) -> list[str]:
    lines = []
    for variant, overrides in found.variants.items():
        words = ", ".join(f"`{word}`" for word in [*found.shared, *overrides]) or "the recipe as it is"
        lines.append(f"- {variant}: seeds {', '.join(map(str, found.seeds[variant]))}; {words}")
        missing = found.missing.get(variant, {})
        lines += [f"  - {name} has not finished: seeds {', '.join(map(str, left))}" for name, left in missing.items()]
        if variant in found.alone:
            without = ", ".join(map(str, found.alone[variant]))
            lines.append(f"  - left out, because {found.reference} has not finished: seeds {without}")
        if not found.starts.get(variant, True):
            lines.append("  - not all runs of a seed started from the same bytes of SFT")
    named = {**found.methods, **found.controls}
    lines += [f"- {name}: {', '.join(f'`{word}`' for word in words) or 'as it is'}" for name, words in named.items()]
    chosen = (
        "Every method starts from the SFT of its seed, and is trained without the others. Its round is chosen on "
        "validation prompts. Every figure is from held-out prompts, and every difference is paired: the same prompts, "
        "seed and variant."
    )
    return [chosen, "\n".join(lines), made_with(found)]
