"""The table in docs/models.md is what the probe finds on every architecture of the installed transformers."""

import pytest

from dev.architectures import BEGIN, END, PAGE, kinds, probe, rows


@pytest.mark.slow
def test_the_probe_finds_of_every_architecture_what_the_documentation_says() -> None:
    written = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    entries = [probe(kind) for kind in kinds()]
    assert [row for row in rows(entries) if row not in written.splitlines()] == []
    assert sum(entry.works for entry in entries) > 100


def test_every_architecture_is_in_the_documentation() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert [kind for kind in kinds() if f"| {kind} |" not in written] == []
