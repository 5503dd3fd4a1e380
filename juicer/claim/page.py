"""claim.md: the tables, the power and the samples of a claim, in Markdown."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from juicer.claim.measures import BY_KEY, MEASURES
from juicer.claim.power import after
from juicer.claim.results import Claim, Compared, Figure, Found, Samples
from juicer.evaluation.pairs_record import accuracy_interval
from juicer.reporting.formatting import shown

PER_SEED = ("oracle", "accuracy_per_token", "gap", "kl", "response_tokens")
"""Metrics of the table of seeds, besides the primary ones; results.json has all."""
DECLARED_OF = "sft and each method's chosen round"
"""What is compared in a claim."""
FIGURE = "claim"
"""Name of the picture's files, without their ends."""


def page(claim: Claim, *, pictured: bool) -> str:
    """The whole page.

    Args:
        pictured: whether there is a picture beside it.
    """
    parts = [f"# {claim.recipe}: each method against SFT of the same effort", *_intro(claim)]
    if pictured:
        said = "Preference gap (left) and score (right) by round, with 95% intervals; SFT and sft-matched as lines."
        parts.append(f"![{said}]({FIGURE}.svg)")
    parts += ["## Differences to sft-matched", caption(claim, DECLARED_OF)]
    parts += [f"{heading(claim, variant)}{differences_table(claim, variant)}" for variant in claim.seeds]
    parts += ["### Power", "\n".join(f"- {sentence}" for sentence in after(claim))]
    parts += ["## Values", "Means over the seeds of the held-out values, with 95% intervals."]
    parts += [f"{heading(claim, variant)}{values_table(claim, variant)}" for variant in claim.seeds]
    parts += ["## Seeds", "The value of each seed. results.json has those of all metrics."]
    parts += [f"{heading(claim, variant)}{seeds_table(claim, variant)}" for variant in claim.seeds]
    parts += instruments(claim)
    parts += samples(claim)
    return "\n\n".join(parts) + "\n"


def differences(claim: Found) -> str:
    """The table of the primary metrics, for a terminal."""
    tables = []
    for variant in claim.seeds:
        compared = [each for each in claim.of(variant) if each.method != claim.reference]
        rows = [
            [each.name, *(difference(found, key) if (found := each.figure(key)) else "–" for key in claim.primary)]
            for each in compared
        ]
        head = ["model", *(BY_KEY[key].title for key in claim.primary)]
        seeds = ", ".join(map(str, claim.seeds[variant]))
        tables.append(f"{variant} (seeds {seeds}): difference to {claim.reference}\n\n{aligned([head, *rows])}")
    return "\n\n".join(tables)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(cell.ljust(width) for cell, width in line).rstrip() for line in lines)


def heading(claim: Found, variant: str) -> str:
    """The heading of a variant; none where there is one."""
    return f"### {variant}\n\n" if len(claim.seeds) > 1 else ""


def _intro(claim: Claim) -> list[str]:
    lines = []
    for name, overrides in claim.variants.items():
        finished = claim.seeds[name]
        took = [each for each in claim.seconds[name] if each is not None]
        changes = ", ".join(f"`{word}`" for word in overrides) or "the recipe as it is"
        times = f"; the stages of a seed took {shown(sum(took) / len(took) / 60, 1)} minutes" if took else ""
        missing = [seed for seed in claim.planned if seed not in finished]
        left = f"; not finished: {', '.join(map(str, missing))}" if missing else ""
        lines.append(f"- {name}: seeds {', '.join(map(str, finished))}{left}{times}; {changes}")
    chosen = (
        "The round of a method is chosen on validation prompts. Every figure is from held-out prompts, and every "
        "difference is paired: the same prompts, seed and variant."
    )
    return [chosen, "\n".join(lines), made_with(claim)]


def made_with(claim: Found) -> str:
    """The versions and the processor, in a sentence."""
    versions = claim.versions
    code = (versions.juicer or "no commit")[:12] + (" with changes" if versions.changed else "")
    return (
        f"Juicer {code}, Python {versions.python}, torch {versions.torch}, transformers {versions.transformers}, "
        f"{claim.processor}."
    )


def caption(claim: Found, declared_of: str, *, apart: bool = False) -> str:
    """What the differences and their intervals are.

    Args:
        claim: the results.
        declared_of: what the declared comparisons are of.
        apart: whether each variant's are corrected for themselves.
    """
    declared = Counter(each.variant for each in claim.compared for figure in each.figures if figure.declared)
    number, of_each = str(declared.total()), ""
    if apart and len(declared) > 1:
        low, high = min(declared.values()), max(declared.values())
        number, of_each = str(high) if low == high else f"{low} to {high}", " of each variant"
    over = {figure.over for each in claim.compared for figure in each.figures if figure.difference is not None}
    said = {
        "seeds and prompts": "over seeds and prompts, where all seeds have the same held-out prompts",
        "seeds": "over seeds, where their prompts differ or a seed gives one number",
        "prompts": "over the prompts of a single seed: they say nothing about other training runs",
    }
    how = "; ".join(text for key, text in said.items() if key in over)
    titles = " and ".join(BY_KEY[key].title for key in claim.primary)
    single = any(len(seeds) == 1 for seeds in claim.seeds.values())
    one = " A metric with one number a seed has no interval with one seed." if single else ""
    holm = (
        f" An asterisk marks a difference that holds after Holm's correction for the {number} declared "
        f"comparisons{of_each}, which are those of {declared_of} with {claim.reference} by {titles}: the chance "
        "of an asterisk on any difference that is none is at most 5%. All other differences are not corrected."
        if declared
        else ""
    )
    return (
        f"The differences and their 95% intervals: {how}.{one}{holm} Wins are shares, and their difference is to 1/2."
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def differences_table(claim: Found, variant: str) -> str:
    """Every metric's difference to the control."""
    models = [each for each in claim.of(variant) if each.method != claim.reference]
    return _by_metric(models, difference)


def values_table(claim: Found, variant: str) -> str:
    """The mean of every metric."""
    return _by_metric(claim.of(variant), _value)


def _by_metric(models: Sequence[Compared], cell: Callable[[Figure, str], str]) -> str:
    rows = [
        [measure.title, *(cell(found, measure.key) if (found := each.figure(measure.key)) else "–" for each in models)]
        for measure in MEASURES
        if any(each.figure(measure.key) for each in models)
    ]
    return table(["metric", *(each.name for each in models)], rows)


def difference(figure: Figure, key: str) -> str:
    """A difference, its interval and its asterisk."""
    digits = BY_KEY[key].digits
    width = f" ± {shown(figure.difference_half_width, digits)}" if figure.difference_half_width is not None else ""
    return f"{shown(figure.difference, digits, signed=True)}{width}{'*' if figure.holds else ''}"


def _value(figure: Figure, key: str) -> str:
    digits = BY_KEY[key].digits
    width = f" ± {shown(figure.half_width, digits)}" if figure.half_width is not None else ""
    return f"{shown(figure.mean, digits)}{width}"


def seeds_table(claim: Found, variant: str) -> str:
    """The values of each seed, "–" for one that a model does not have."""
    keys = [*claim.primary, *(key for key in PER_SEED if key not in claim.primary)]
    rows = []
    for each in claim.of(variant):
        own = claim.seeds_of(each)

        def line(title: str, values: Sequence[str], name: str = each.name, own: Sequence[int] = own) -> list[str]:
            cells = dict(zip(own, values, strict=True))
            return [name, title, *(cells.get(seed, "–") for seed in claim.seeds[variant])]

        if each.chosen is not None:
            rows.append(line("round", [*map(str, each.rounds)]))
        for key in keys:
            if (figure := each.figure(key)) is not None:
                digits = BY_KEY[key].digits
                rows.append(line(BY_KEY[key].title, [shown(value, digits) for value in figure.by_seed]))
    return table(["model", "metric", *(f"seed {seed}" for seed in claim.seeds[variant])], rows)


def instruments(claim: Found) -> list[str]:
    """How far the scorer and the judge can be trusted; nothing where it was not measured."""
    rows = []
    for variant, found in claim.instruments.items():
        for role, value in (("scorer", found.scorer_accuracy), ("judge", found.judge_accuracy)):
            if value is not None:
                low, high = accuracy_interval(value, found.pairs)
                rows.append([variant, role, str(found.pairs), shown(value, 3), f"{shown(low, 3)} to {shown(high, 3)}"])
        if found.agreement is not None:
            rows.append([variant, "both prefer the same", str(found.pairs), shown(found.agreement, 3), "–"])
    if not rows:
        return []
    said = (
        "How often they prefer the response that people chose, on held-out pairs that neither was trained on. A coin "
        "would in 0.5 of them."
    )
    return ["## Scorer and judge", said, table(["variant", "", "pairs", "share", "95% interval"], rows)]


def samples(claim: Found) -> list[str]:
    """The prompts and the responses of all models; nothing where there are none."""
    if not any(each.samples for models in claim.samples.values() for each in models):
        return []
    parts = ["## Samples", f"The first held-out prompts and one response of each model, of seed {claim.samples_seed}."]
    for variant, models in claim.samples.items():
        if len(claim.samples) > 1:
            parts.append(f"### {variant}")
        for place in range(min((len(each.samples) for each in models), default=0)):
            parts += _prompt(place, models)
    return parts


def _prompt(place: int, models: Sequence[Samples]) -> list[str]:
    first = models[0].samples[place]
    parts = [
        f"#### Prompt {place + 1}",
        _quoted(first.prompt),
        f"The demonstration:\n\n{_quoted(first.demonstration)}",
    ]
    for each in models:
        sample = each.samples[place]
        judged = each.judged[place] if place < len(each.judged) else None
        score = f", judge {shown(judged, 2)}" if judged is not None else ""
        score += f", score {shown(sample.score, 2)}" if sample.score is not None else ""
        cut = ", cut at the length limit" if sample.was_cut else ""
        parts.append(f"{each.name}{score}{cut}:\n\n{_quoted(sample.response)}")
    return parts


def _quoted(text: str) -> str:
    """A text as it is, in a fence longer than any within it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
