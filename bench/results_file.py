"""Where benchmarks write: bench/out/, which git ignores, unless the tracked file in bench/results/ is asked for."""

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRACKED, OUT = ROOT / "bench/results", ROOT / "bench/out"


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Add --out, and --keep for the tracked file called `name`."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--out", type=Path, default=OUT / name, help="default %(default)s")
    place.add_argument(
        "--keep", action="store_const", dest="out", const=TRACKED / name, help="write the tracked results"
    )


def write(path: Path, text: str) -> None:
    """Write results, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
