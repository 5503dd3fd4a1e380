"""What `fetch` read, from where, and what became of every row: the content of provenance.json."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from juicer.sources.formats import LeftOut

PLACES = 10
"""Rows of each reason whose place is recorded."""


class FileRecord(BaseModel):
    """A file that was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Its path as the recipe or its folder gives it."""
    md5: str
    rows: int
    held_out: str | None = None
    """The word of its name for which all its rows are held out."""


class SourceRecord(BaseModel):
    """A source of the recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    format: str
    rows: int
    demonstrations: int
    weight: float | None = None
    used: int
    """Demonstrations that the mixture took."""
    unread: dict[str, int]
    """Keys with a value that no demonstration was made from, with the number of rows."""
    files: list[FileRecord]
    ignored: dict[str, int]
    """Files of a folder that are not read, by type."""


class LeftOutRecord(BaseModel):
    """The rows that were left out for one reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    explanation: str
    places: list[str]
    """The first of them."""


@dataclass
class Losses:
    """Counts the rows that were left out, by reason."""

    rows: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[LeftOut]] = field(default_factory=dict)
    unusable: int = 0
    """Rows that should have been demonstrations."""

    def add(self, row: LeftOut) -> None:
        """Count a row, and keep its place if it is one of the first."""
        self.rows[row.reason] += 1
        self.unusable += row.unusable
        named = self.first.setdefault(row.reason, [])
        if len(named) < PLACES:
            named.append(row)

    def records(self) -> dict[str, LeftOutRecord]:
        """Every reason, the most frequent first."""
        return {
            reason: LeftOutRecord(
                rows=rows,
                explanation=self.first[reason][0].explanation,
                places=[_place(row) for row in self.first[reason]],
            )
            for reason, rows in self.rows.most_common()
        }

    def lines(self) -> Iterator[str]:
        """A line per reason with the first places."""
        for reason, rows in self.rows.most_common():
            named = [_place(row) for row in self.first[reason][:3]]
            more = f" and {rows - len(named)} more" if rows > len(named) else ""
            why = self.first[reason][0].explanation
            yield f"left out {rows} row{'s' * (rows != 1)}: {why}: {', '.join(named)}{more}"

    def main(self) -> tuple[LeftOut, int] | None:
        """The first row of the most frequent reason, among those of unusable rows if there are any, and its count."""
        reasons = [reason for reason, named in self.first.items() if named[0].unusable] or list(self.first)
        if not reasons:
            return None
        most = max(reasons, key=lambda reason: self.rows[reason])
        return self.first[most][0], self.rows[most]


def _place(row: LeftOut) -> str:
    return f"{row.where} ({row.detail})" if row.detail else row.where
