"""How long demonstrations are under a recipe's template: percentiles, what limits drop, and limits that keep most."""

from collections.abc import Iterable, Sequence

from juicer.data.demonstrations import Demonstration
from juicer.data.template import Template
from juicer.sources.suitability import Rendered, rendered

SHARES = (0.5, 0.9, 0.95, 0.99, 1.0)
"""Percentiles that are shown."""


class LengthStatistics:
    """Tokens of the prompts and responses of some rows, with their ends."""

    def __init__(self, prompts: Sequence[int], responses: Sequence[int]) -> None:
        self.prompts, self.responses = list(prompts), list(responses)

    def __len__(self) -> int:
        return len(self.prompts)

    def percentiles(self, which: str) -> list[int]:
        """The lengths of `prompts` or `responses` at `SHARES`: the smallest limit that keeps such a share."""
        lengths = sorted(getattr(self, which))
        return [_at(lengths, share) for share in SHARES]

    def dropped(self, prompt_limit: int, response_limit: int) -> int:
        """Rows that exceed one of two limits."""
        pairs = zip(self.prompts, self.responses, strict=True)
        return sum(prompt > prompt_limit or response > response_limit for prompt, response in pairs)

    def limits(self, share: float) -> tuple[int, int]:
        """Limits of prompt and response, at the same percentile of both, that together keep a share of the rows."""
        prompts, responses = sorted(self.prompts), sorted(self.responses)
        allowed = (1 - share) * len(self)
        for place in range(int(share * len(self)), len(self) + 1):
            found = _at(prompts, place / len(self)), _at(responses, place / len(self))
            if self.dropped(*found) <= allowed:
                return found
        return prompts[-1], responses[-1]


def measured(template: Template, rows: Iterable[Demonstration]) -> LengthStatistics:
    """The exact lengths of rows, those left out that the template or the tokenizer does not take."""
    usable = [found for row in rows if isinstance(found := rendered(template, row.prompt, row.response), Rendered)]
    prompts = template.tokens_of_prompts([each.start for each in usable])
    responses = template.tokens_of_responses([(each.start, each.rest) for each in usable])
    return LengthStatistics([*map(len, prompts)], [*map(len, responses)])


def _at(lengths: Sequence[int], share: float) -> int:
    """The smallest of sorted lengths that at least a share of them does not exceed."""
    return lengths[max(0, -int(-share * len(lengths) // 1) - 1)] if lengths else 0
