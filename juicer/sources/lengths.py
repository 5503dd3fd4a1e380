"""How long demonstrations are under a recipe's template: percentiles, what limits drop, and limits that keep most."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from pydantic import BaseModel

from juicer.data.demonstrations import Demonstration
from juicer.data.template import Template
from juicer.settings.data import TemplateSettings
from juicer.sources.suitability import Rendered, rendered

SAMPLE = 5000
"""Rows of a file whose lengths are measured: of the 99th percentile, the error of the share is 0.14 per cent."""
MANY_TOO_LONG = 0.2
"""Largest share of rows that may exceed the template's limits without a warning."""
KEPT = (0.95, 0.99)
"""Shares of the rows for which limits are named."""


class Percentiles(BaseModel):
    """Lengths in tokens: `p90` is the smallest limit that keeps 90 per cent."""

    mean: float
    p50: int
    p90: int
    p95: int
    p99: int
    longest: int


class Limits(BaseModel):
    """Largest lengths in tokens."""

    prompt: int
    response: int

    def fit(self, positions: int | None) -> bool:
        """Whether both fit into a context of so many tokens; into None, which has no limit, they do."""
        return positions is None or self.prompt + self.response <= positions

    def __str__(self) -> str:
        return f"template.max_prompt_tokens={self.prompt} template.max_response_tokens={self.response}"


class LengthSummary(BaseModel):
    """`lengths` of curation.json."""

    rows: int
    """Rows that were measured."""
    prompts: Percentiles
    responses: Percentiles
    """With the end of the response."""
    limits: Limits
    """The recipe's."""
    too_long: int
    """Measured rows that exceed them."""
    keep_95: Limits
    """Limits that keep 95 per cent of the measured rows, at the same percentile of prompts and responses."""
    keep_99: Limits


class LengthStatistics:
    """Tokens of the prompts and responses of some rows, with their ends."""

    def __init__(self, prompts: Iterable[int] = (), responses: Iterable[int] = ()) -> None:
        self.prompts, self.responses = list(prompts), list(responses)

    def __len__(self) -> int:
        return len(self.prompts)

    def add(self, prompt: int, response: int) -> None:
        """Count another row."""
        self.prompts.append(prompt)
        self.responses.append(response)

    def within(self, limits: Limits) -> "LengthStatistics":
        """The rows that exceed neither limit."""
        pairs = zip(self.prompts, self.responses, strict=True)
        kept = [pair for pair in pairs if pair[0] <= limits.prompt and pair[1] <= limits.response]
        return LengthStatistics((prompt for prompt, _ in kept), (response for _, response in kept))

    def too_long(self, limits: Limits) -> float:
        """Share of the rows that exceed one of two limits; 0 if there are no rows."""
        return 1 - len(self.within(limits)) / len(self) if len(self) else 0.0

    def keeping(self, share: float) -> Limits:
        """The smallest limits, at the same percentile of prompts and responses, that together keep a share of the rows.

        Raises:
            ValueError: there are no rows.
        """
        prompts, responses = sorted(self.prompts), sorted(self.responses)
        # The place in order from which on both limits keep a row.
        places = sorted(
            max(bisect_left(prompts, prompt), bisect_left(responses, response))
            for prompt, response in zip(self.prompts, self.responses, strict=True)
        )
        place = _at(places, share)
        return Limits(prompt=prompts[place], response=responses[place])

    def summary(self, settings: TemplateSettings) -> LengthSummary:
        """All that is recorded of them.

        Raises:
            ValueError: there are no rows.
        """
        limits = limits_of(settings)
        return LengthSummary(
            rows=len(self),
            prompts=_percentiles(self.prompts),
            responses=_percentiles(self.responses),
            limits=limits,
            too_long=len(self) - len(self.within(limits)),
            keep_95=self.keeping(0.95),
            keep_99=self.keeping(0.99),
        )

    def lines(self, settings: TemplateSettings, rows: str, positions: int | None) -> list[str]:
        """The percentiles as aligned lines, what the limits drop, and limits that keep most; none without rows.

        Args:
            settings: the recipe's limits.
            rows: which rows were measured, such as "1,000 rows".
            positions: the policy's context in tokens; None if it has no limit.
        """
        if not len(self):
            return []
        found = self.summary(settings)
        head = f"tokens of {rows}"
        named = {
            f"  prompts, limit {found.limits.prompt}": found.prompts,
            f"  responses, limit {found.limits.response}": found.responses,
        }
        width = max(map(len, (head, *named)))
        table = [[head, "mean", "50%", "90%", "95%", "99%", "longest"]]
        table += [
            [name, *(f"{value:,.0f}" for value in percentiles.model_dump().values())]
            for name, percentiles in named.items()
        ]
        lines = [row[0].ljust(width) + "".join(cell.rjust(9) for cell in row[1:]) for row in table]
        dropped = found.too_long / found.rows
        lines.append(f"  {'warning: ' if dropped > MANY_TOO_LONG else ''}the limits drop {dropped:.1%} of these rows")
        for share in KEPT:
            limits = self.keeping(share)
            beyond = "" if limits.fit(positions) else f", more than the policy's context of {positions} tokens"
            lines.append(f"  to keep {share:.0%}: {limits}{beyond}")
        return lines

    def advice(self, positions: int | None) -> str:
        """Limits that keep most rows, as a clause; empty if there are no rows.

        Args:
            positions: the policy's context in tokens, which limits must not exceed; None if it has no limit.
        """
        if not len(self):
            return ""
        found = {share: self.keeping(share) for share in KEPT}
        fitting = {
            s: each for s, each in found.items() if positions is None or each.prompt + each.response <= positions
        }
        if not fitting:
            longest = found[KEPT[0]]
            what = f"{KEPT[0]:.0%} of the rows need {longest.prompt} + {longest.response} tokens"
            return f"{what}, more than the policy's context of {positions}: use shorter rows, or another policy"
        of_limits = {str(limits): f"keep {share:.0%}" for share, limits in fitting.items()}
        return "set " + ", or ".join(f"{limits} to {keep}" for limits, keep in of_limits.items())


def measured(template: Template, rows: Iterable[Demonstration]) -> LengthStatistics:
    """The exact lengths of rows, those left out that the template does not take."""
    usable = [found for row in rows if isinstance(found := rendered(template, row.prompt, row.response), Rendered)]
    prompts = template.tokens_of_prompts([each.start for each in usable])
    responses = template.tokens_of_responses([(each.start, each.rest) for each in usable])
    return LengthStatistics(map(len, prompts), map(len, responses))


def limits_of(settings: TemplateSettings) -> Limits:
    """The recipe's limits."""
    return Limits(prompt=settings.max_prompt_tokens, response=settings.max_response_tokens)


def in_sample(number: int, total: int, size: int = SAMPLE) -> bool:
    """Whether a row, numbered from 1, is one of `size` that are spread evenly over `total`; all are of fewer."""
    return total <= size or number * size // total > (number - 1) * size // total


def _percentiles(lengths: Sequence[int]) -> Percentiles:
    ordered = sorted(lengths)
    at = {f"p{round(share * 100)}": _at(ordered, share) for share in (0.5, 0.9, 0.95, 0.99)}
    return Percentiles(mean=sum(ordered) / len(ordered), **at, longest=ordered[-1])


def _at(ordered: Sequence[int], share: float) -> int:
    """The smallest of sorted values that at least a share of them does not exceed.

    Raises:
        ValueError: there are none.
    """
    if not ordered:
        raise ValueError("no rows")
    # Rounded, because a product such as 0.95 * 20 may come out just above a whole number.
    return ordered[max(1, math.ceil(round(share * len(ordered), 6))) - 1]
