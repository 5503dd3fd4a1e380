"""How long real dialogues are: tokens of prompt, chosen and rejected response of Anthropic-HH rows, for measurements.

    python -m bench.hh_lengths --data ../shared/data/hh-harmless --tokenizer SmolLM2-135M-Instruct.Q4_1.gguf

Writes bench/hh_lengths.json, which `load` reads with the standard library alone. Nothing is clipped or dropped for its
length: limits are the measurement's. A GGUF file is read by the package gguf (`pip install gguf`).
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from juicer.data.template import Template

SOURCE = "Anthropic/hh-rlhf: 956 shuffled rows of harmless-base's test file"
FILE = Path(__file__).with_name("hh_lengths.json")
COLUMNS = ("prompt", "chosen", "rejected")
Lengths = tuple[int, int, int]
"""Tokens of a row's prompt, its chosen response and its rejected one; responses with their end-of-text."""


def load() -> list[Lengths]:
    """The recorded rows, in the order of the source."""
    rows: list[list[int]] = json.loads(FILE.read_text(encoding="utf-8"))["rows"]
    return [(prompt, chosen, rejected) for prompt, chosen, rejected in rows]


def summary(rows: Sequence[Lengths]) -> dict[str, dict[str, float]]:
    """Of each column the mean, the maximum, and the smallest lengths that 50% and 95% of the rows do not exceed."""
    found = {}
    for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True):
        ordered = sorted(column)
        p50, p95 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.95))
        found[name] = {"mean": round(sum(ordered) / len(ordered), 1), "p50": p50, "p95": p95, "max": ordered[-1]}
    return found


def count(data: Path, template: "Template") -> tuple[list[Lengths], int]:
    """Rows of the files that may be trained on, and how many were left out: malformed, or without a rejected one."""
    from juicer.data.demonstrations import Demonstration
    from juicer.settings.sources import ReadingSettings
    from juicer.sources.files import rows_of_source
    from juicer.sources.formats import Reader

    rows: list[Lengths] = []
    left_out, reader = 0, Reader(ReadingSettings())
    for file, read in rows_of_source(str(data)):
        for row in () if file.held_out else reader.convert(read):
            if not isinstance(row, Demonstration) or row.rejected is None:
                left_out += 1
                continue
            chosen, rejected = (len(template.response(row.prompt, text)) for text in (row.response, row.rejected))
            rows.append((len(template.prompt(row.prompt)), chosen, rejected))
    return rows, left_out


def template_of(tokenizer: Path) -> "Template":
    """HH's template over a tokenizer: a folder of one, or a GGUF file."""
    from transformers import AutoTokenizer

    from juicer.data.template import Template
    from juicer.runtime.errors import InputError
    from juicer.settings.data import TemplateSettings

    folder, more = (tokenizer.parent, {"gguf_file": tokenizer.name}) if tokenizer.is_file() else (tokenizer, {})
    try:
        read = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **more)
    except (ImportError, OSError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise InputError(line, where=str(tokenizer), do="a tokenizer's folder or a GGUF file; see --help") from error
    return Template(read, TemplateSettings(name="hh"))


def write(given: argparse.Namespace) -> None:
    rows, left_out = count(given.data, template_of(given.tokenizer))
    about: dict[str, Any] = {
        "source": given.source,
        "licence": "MIT",
        "template": "hh",
        "tokenizer": given.tokenizer.name,
        "command": f"python -m bench.hh_lengths --data {given.data.name} --tokenizer {given.tokenizer.name}",
        "columns": ", ".join(COLUMNS),
        "left_out": left_out,
        "summary": summary(rows),
    }
    head = json.dumps(about, indent=1).removesuffix("\n}")
    given.out.write_text(f'{head},\n "rows": {json.dumps(rows, separators=(",", ":"))}\n}}\n', encoding="utf-8")
    print(f"{given.out}: {len(rows)} rows, {left_out} left out")
    for name, figures in about["summary"].items():
        print(f"  {name:8s} " + ", ".join(f"{key} {value:g}" for key, value in figures.items()))


def main() -> None:
    from juicer.runtime.command import guarded

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of Anthropic-HH rows")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a tokenizer, or a GGUF file")
    parser.add_argument("--source", default=SOURCE, help="what the rows are, for the record")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args()
    sys.exit(guarded(lambda: write(given), debug=given.debug, name="hh_lengths"))


if __name__ == "__main__":
    main()
