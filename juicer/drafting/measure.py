"""How long the demonstrations are under the recipe's template, and which of them it does not take."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from juicer.data.template import Template
from juicer.drafting.survey import Placed
from juicer.settings.data import CurateSettings
from juicer.sources.curation import split_of
from juicer.sources.lengths import LengthStatistics
from juicer.sources.suitability import Rendered, rendered


@dataclass(frozen=True)
class Sized:
    """A demonstration that the template takes, in tokens."""

    split_hash: str
    """Of the dialogue, which decides its split."""
    prompt_hash: str
    held_out: bool
    prompt: int
    response: int
    """With end-of-text."""


@dataclass(frozen=True)
class Measured:
    """The lengths of a sample of the demonstrations."""

    rows: Sequence[Sized]
    unsuitable: Mapping[str, int]
    """Rows of the sample that the template does not take as they are, by reason."""
    exact: bool = True
    """Whether the tokens are those of the model's tokenizer."""

    @cached_property
    def statistics(self) -> LengthStatistics:
        """Percentiles, and limits that keep most rows."""
        return LengthStatistics([row.prompt for row in self.rows], [row.response for row in self.rows])

    @cached_property
    def source_holds_out(self) -> bool:
        """Whether the source itself holds rows out."""
        return any(row.held_out for row in self.rows)

    def fitting(self, prompt_limit: int, response_limit: int) -> "Measured":
        """The rows within two limits."""
        rows = [row for row in self.rows if row.prompt <= prompt_limit and row.response <= response_limit]
        return Measured(rows, self.unsuitable, self.exact)

    def splits(self, shares: CurateSettings) -> Counter[str]:
        """Rows in each split, as `curate` splits them."""
        held_out = {each for row in self.rows if row.held_out for each in (row.split_hash, row.prompt_hash)}
        found: Counter[str] = Counter(train=0, validation=0, held_out=0)
        for row in self.rows:
            if row.held_out:
                found["held_out"] += 1
            elif held_out.isdisjoint((row.split_hash, row.prompt_hash)):
                found[split_of(row.split_hash, shares, bool(held_out))] += 1
        return found


def measure(template: Template, sample: Sequence[Placed], *, bytes_per_token: int | None = None) -> Measured:
    """Measure a sample.

    Args:
        bytes_per_token: the template's tokenizer has a token for every byte, which stands for one so long.
    """
    unsuitable, usable = Counter[str](), list[tuple[Placed, Rendered]]()
    for placed in sample:
        found = rendered(template, placed.row.prompt, placed.row.response)
        if isinstance(found, Rendered):
            usable.append((placed, found))
        else:
            unsuitable[found.reason] += 1
    prompts = template.tokens_of_prompts([text.start for _, text in usable])
    responses = template.tokens_of_responses([(text.start, text.rest) for _, text in usable])
    each = bytes_per_token or 1
    rows = [
        Sized(row.split_hash(), row.prompt_hash(), row.held_out, -(-prompt // each), max(2, -(-response // each)))
        for row, prompt, response in zip(
            (placed.row for placed, _ in usable), map(len, prompts), map(len, responses), strict=True
        )
    ]
    return Measured(rows, unsuitable, exact=bytes_per_token is None)
