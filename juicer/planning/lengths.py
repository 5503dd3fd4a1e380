"""How long the first rows of a recipe's sources are under its template, before anything runs."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from juicer.data.demonstrations import Demonstration
from juicer.recipe.inputs import TOKENIZERS
from juicer.recipe.schema import Recipe
from juicer.settings.sources import Source
from juicer.sources.files import is_path, rows_of_source
from juicer.sources.formats import Reader
from juicer.sources.lengths import LengthStatistics, measured

ROWS = 1000
"""Rows that are measured, shared equally by the sources."""


def sampled_lengths(recipe: Recipe) -> LengthStatistics | None:
    """The lengths of the first rows that a recipe reads.

    Returns:
        None where the rows or the policy's tokenizer are not on this machine, or no row can be used.

    Raises:
        InputError: the first rows cannot be read, or the tokenizer cannot be loaded; names the place.
    """
    folder, sources = Path(recipe.policy.model), recipe.fetch.sources
    here = all(is_path(source.path) for source in sources) and any((folder / name).is_file() for name in TOKENIZERS)
    # A tiny recipe makes a tokenizer of its own.
    if not here or recipe.fetch.is_world or recipe.tiny is not None:
        return None
    from juicer.models.loading import load_template

    each = max(1, ROWS // len(sources))
    rows = [row for source in sources for row in islice(_demonstrations(source, each), each)]
    found = measured(load_template(folder, recipe.template), rows)
    return found if len(found) else None


def _demonstrations(source: Source, first: int) -> Iterator[Demonstration]:
    """Demonstrations of the first rows of a source."""
    reader = Reader(source.reading)
    for _, rows in rows_of_source(source.path, among_others=source.among_others):
        converted = reader.convert(islice(rows, first - reader.rows))
        yield from (row for row in converted if isinstance(row, Demonstration))
        if reader.rows >= first:
            return
