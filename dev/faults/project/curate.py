"""Stands in for the curation: keeps the lines of a text."""

import argparse
from pathlib import Path

from juicer.stages.stage import Stage, main


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)


def run(stage: Stage) -> str:
    text = (stage.arguments.raw / "rows.txt").read_text()
    with stage.publish(stage.arguments.out) as folder:
        folder.mkdir()
        for name in ("train", "held_out", "validation"):
            (folder / f"{name}.txt").write_text(f"{name} {text}")
    return "done"


if __name__ == "__main__":
    main(run, arguments, __doc__)
