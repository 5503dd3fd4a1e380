"""Stage fetch: read the demonstrations of a source into the project's schema, and record their provenance.

A source is the quickstart's world, a local file or folder, or a Hugging Face dataset at a pinned commit.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from juicer.data.demonstrations import Demonstration
from juicer.runtime.errors import InputError
from juicer.runtime.files import md5_of_file, write_json
from juicer.settings.sources import FetchSettings
from juicer.settings.world import WorldSettings
from juicer.sources import formats
from juicer.sources.files import Row, SourceFile, files_of, is_path, rows_of
from juicer.sources.hub import split_of
from juicer.stages.stage import Stage, main

MALFORMED_LIMIT = 0.05
"""Largest share of malformed rows. Anthropic-HH has about 0.3 per cent; with one in twenty, the file or the format is
probably not what the recipe says, and continuing would hide that."""
EXAMPLES = 5
"""Number of malformed rows per reason whose place is recorded."""


@dataclass
class Provenance:
    """Counts of the rows that were read, kept and rejected, for provenance.json."""

    read: int = 0
    kept: int = 0
    held_out: int = 0
    empty_rejected: int = 0
    """Kept rows whose rejected response is empty and was dropped."""
    rejected: dict[formats.Reason, list[formats.Malformed]] = field(default_factory=dict)
    """All malformed rows by reason. There are few of them, because the stage fails otherwise."""
    format: str = "world"
    files: list[dict[str, Any]] = field(default_factory=list)

    def malformed(self) -> list[formats.Malformed]:
        """All malformed rows, reasons in the order of their first appearance."""
        return [row for rows in self.rejected.values() for row in rows]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("data/raw"), help="folder to write, default data/raw")


def run(stage: Stage) -> str:
    settings = stage.read("fetch", FetchSettings)
    provenance = Provenance()
    with stage.publish(stage.arguments.out) as out:
        out.mkdir()
        md5 = _write(out / "demonstrations.jsonl", _demonstrations(stage, settings, provenance), provenance)
        _refuse_if_unusable(provenance, settings.source)
        write_json(out / "provenance.json", _described(settings, provenance, md5))
    for rows in provenance.rejected.values():
        for row in rows[:EXAMPLES]:
            print(f"warning: left out {row}", file=sys.stderr)
    stage.record(rows=provenance.kept)
    rejected = provenance.read - provenance.kept
    return f"{provenance.kept} demonstrations from {settings.source} ({rejected} malformed rows left out)"


def _demonstrations(stage: Stage, settings: FetchSettings, provenance: Provenance) -> Iterator[Demonstration]:
    """The demonstrations of the source; counts the rows that are read and those that are malformed."""
    if settings.source == "world":
        from juicer.quickstart import world

        for demonstration in world.rows(stage.read("world", WorldSettings), stage.value("seed")):
            provenance.read += 1
            yield demonstration
        return
    chosen: formats.Format | None = None if settings.format == "auto" else settings.format
    for row, held_out in _rows(settings, provenance):
        if chosen is None:
            chosen = formats.recognise(row)
        provenance.format = chosen
        provenance.read += 1
        first = settings.exchange == "first"
        converted = formats.convert(row, chosen, held_out=held_out, first_exchange=first)
        if isinstance(converted, formats.Malformed):
            provenance.rejected.setdefault(converted.reason, []).append(converted)
        else:
            given = row.values.get(formats.WORSE.get(chosen, ""))
            provenance.empty_rejected += converted.rejected is None and given is not None
            yield converted


def _rows(settings: FetchSettings, provenance: Provenance) -> Iterator[tuple[Row, bool]]:
    """The rows of the source, each with whether the source holds it out from training."""
    if not is_path(settings.source):
        yield from _hub_rows(settings)
        return
    for file in files_of(settings.source):
        before = provenance.read
        shown = _shown(settings.source, file)
        for row in rows_of(file.path, shown):
            yield row, file.held_out
        md5 = md5_of_file(file.path)
        provenance.files.append({"name": file.name, "md5": md5, "rows": provenance.read - before})


def _shown(source: str, file: SourceFile) -> str:
    """The file's name in errors: the path as the user wrote it."""
    return source if Path(source).name == file.name else f"{source.rstrip('/')}/{file.name}"


def _hub_rows(settings: FetchSettings) -> Iterator[tuple[Row, bool]]:
    source, revision = settings.source, settings.revision
    if revision is None:
        what = f"{source!r} does not exist as a file or folder, and a Hugging Face id needs a pinned revision"
        raise InputError(what, where="fetch.source", do="correct the path, or set fetch.revision to a commit")
    # Held-out rows come first, as the `test` files of a folder come before its `train` files.
    splits = [(settings.held_out_split, True)] if settings.held_out_split else []
    for split, held_out in [*splits, (settings.train_split, False)]:
        rows = split_of(source, revision, settings.subset, split)
        for number, values in enumerate(rows, 1):
            yield Row(values, f"{source} {split}: row {number}"), held_out


def _write(path: Path, rows: Iterator[Demonstration], provenance: Provenance) -> str:
    """Stream rows to a file; returns its md5."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("wb") as file:
        for row in rows:
            line = row.line()
            digest.update(line)
            file.write(line)
            provenance.kept += 1
            provenance.held_out += row.held_out
    return digest.hexdigest()


def _refuse_if_unusable(provenance: Provenance, source: str) -> None:
    if not provenance.read:
        raise InputError("the dataset is empty", where=source, do="check fetch.source")
    malformed = provenance.malformed()
    if malformed and (not provenance.kept or len(malformed) > MALFORMED_LIMIT * provenance.read):
        share = f"{len(malformed)} of {provenance.read} rows are malformed"
        do = f"correct or remove them; up to {MALFORMED_LIMIT:.0%} are left out with a warning"
        raise InputError(f"{formats.EXPLANATIONS[malformed[0].reason]}; {share}", where=malformed[0].where, do=do)


def _described(settings: FetchSettings, provenance: Provenance, md5: str) -> dict[str, Any]:
    return {
        "source": settings.source,
        "revision": settings.revision,
        "subset": settings.subset,
        "licence": settings.licence,
        "format": provenance.format,
        "rows": {
            "read": provenance.read,
            "kept": provenance.kept,
            "held_out": provenance.held_out,
            "rejected": provenance.read - provenance.kept,
            **({"empty_rejected_response": provenance.empty_rejected} if provenance.empty_rejected else {}),
        },
        "rejected": {
            reason: {
                "rows": len(rows),
                "explanation": formats.EXPLANATIONS[reason],
                "examples": [row.where for row in rows[:EXAMPLES]],
            }
            for reason, rows in provenance.rejected.items()
        },
        "files": provenance.files,
        "output": {"name": "demonstrations.jsonl", "md5": md5},
    }


if __name__ == "__main__":
    main(run, arguments, __doc__)
