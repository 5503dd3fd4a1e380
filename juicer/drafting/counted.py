"""Numbers with their nouns."""


def counted(count: int, noun: str) -> str:
    """A number with its noun, which takes an s for all but one: `1 row`, `1,000 rows`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
