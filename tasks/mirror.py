"""Stage mirror: download the data of the leaderboard's benchmarks, at pinned commits, into a folder of JSON lines.

For machines without a network: run it elsewhere, copy the folder and set leaderboard.mirror to its path.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from juicer.runtime.files import write_json
from juicer.stages.stage import Stage, main

if TYPE_CHECKING:
    from juicer.evaluation.benchmarks import Source

REVISIONS = {
    "allenai/ai2_arc": "210d026faf9955653af8916fad021475a3f00453",
    "truthfulqa/truthful_qa": "741b8276f2d1982aa3d5b832d3ee81ed3b896490",
    "allenai/winogrande": "01e74176c63542e6b0bcb004dcdea22d94fb67b5",
    "openai/gsm8k": "e53f048856ff4f594e959d75785d2c2d37b678ee",
    "Rowan/hellaswag": "218ec52e09a7e7462a5400043bb9a69a41d06b76",
    "cais/mmlu": "c30699e8356da336a370243923dbaf21066bb9fe",
}
"""Commits of the datasets that the tasks of lm-eval 0.4.13 read."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder to write, for example mirrors/benchmarks")


def run(stage: Stage) -> str:
    from juicer.evaluation.benchmarks import sources

    with stage.publish(stage.arguments.out) as out:
        rows = write_mirror(out, sources(), REVISIONS)
    stage.record(rows=sum(rows.values()))
    return f"{sum(rows.values())} rows of {len(REVISIONS)} datasets"


def write_mirror(out: Path, known: Sequence["Source"], revisions: Mapping[str, str]) -> dict[str, int]:
    """Write the mirror and its mirror.json, which records the commits. Returns the number of rows per file.

    Args:
        known: the data to mirror (juicer.evaluation.benchmarks.sources).
        revisions: commit of each dataset.

    Raises:
        InputError: a dataset cannot be read.
    """
    from tqdm import tqdm

    from juicer.evaluation.benchmarks import write_cards, write_split
    from juicer.sources.hub import split_of

    rows: dict[str, int] = {}
    for source in tqdm(known, desc="mirror", unit="dataset", disable=None):
        for split in source.splits:
            wanted = list(split_of(source.dataset, revisions[source.dataset], source.configuration, split))
            write_split(out, source, split, wanted)
            rows[source.file(split).as_posix()] = len(wanted)
    write_cards(out, known)
    write_json(out / "mirror.json", {"revisions": dict(revisions), "rows": rows})
    return rows


if __name__ == "__main__":
    main(run, arguments, __doc__)
