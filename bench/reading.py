"""How fast are files of demonstrations read? 200,000 chats of each type, each in a process of its own.

    python -m bench.reading [--rows 200000] [--types jsonl csv ...] [--fetch]

Prints for each type the size of the file, the seconds of the processor, Python's start among them, and the peak memory.
With --fetch the rows are converted and written too, as the stage does. Limits for that: 10 s and 500 MB.
"""

import argparse
import csv
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

Chat = dict[str, Any]
WORDS = 130
"""Mean words of a dialogue. With them, 200,000 rows have about 167 MB as JSON lines."""
TOGETHER = 1000
"""Rows of a batch of an Arrow stream, as `datasets` writes it."""


def rows(count: int) -> Iterator[Chat]:
    """Chats of one to three exchanges, with line breaks, quotes and letters outside of ASCII."""
    chance = random.Random(0)
    words = ["".join(chance.choices("etaoinshrdlucmfäé", k=chance.randint(1, 9))) for _ in range(4000)]
    words += ['"quoted"', "line\nbreak", "comma,", "tab\there", "naïve"] * 20
    pool = chance.choices(words, k=200_000)

    def text(mean: float) -> str:
        length = max(3, int(chance.expovariate(1 / mean)))
        start = chance.randrange(len(pool) - length)
        return " ".join(pool[start : start + length])

    for number in range(count):
        turns = 2 * chance.randint(1, 3)
        roles = ["user", "assistant"] * (turns // 2)
        yield {"id": f"{number:08}", "messages": [{"role": role, "content": text(WORDS / turns)} for role in roles]}


def lines(file: IO[bytes], given: Iterator[Chat]) -> None:
    for row in given:
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def array(file: IO[bytes], given: Iterator[Chat], indent: int | None = None, start: str = "[", end: str = "]") -> None:
    file.write(start.encode())
    for number, row in enumerate(given):
        file.write(b", " * bool(number) + json.dumps(row, ensure_ascii=False, indent=indent).encode())
    file.write(end.encode())


def table(file: IO[bytes], given: Iterator[Chat], delimiter: str) -> None:
    import io

    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["id", "prompt", "response"])
    for row in given:
        *prompt, response = (turn["content"] for turn in row["messages"])
        writer.writerow([row["id"], "\n\n".join(prompt), response])
    text.flush()
    text.detach()


def arrow(file: IO[bytes], given: Iterator[Chat], way: str) -> None:
    import pyarrow
    from pyarrow import ipc

    schema = pyarrow.Table.from_pylist(list(rows(1))).schema
    with getattr(ipc, way)(file, schema) as writer:
        while together := [row for _, row in zip(range(TOGETHER), given, strict=False)]:
            writer.write_batch(pyarrow.RecordBatch.from_pylist(together, schema))


def parquet(file: IO[bytes], given: Iterator[Chat]) -> None:
    """One row group, which is the hardest to stream."""
    import pyarrow
    from pyarrow import parquet as writer

    writer.write_table(pyarrow.Table.from_pylist(list(given)), file)


def zstd(make: Callable[[IO[bytes], Iterator[Chat]], None], file: IO[bytes], given: Iterator[Chat]) -> None:
    import pyarrow

    with pyarrow.CompressedOutputStream(pyarrow.PythonFile(file), "zstd") as packed:
        make(packed, given)


def gzipped(make: Callable[[IO[bytes], Iterator[Chat]], None], file: IO[bytes], given: Iterator[Chat]) -> None:
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as packed:
        make(packed, given)  # type: ignore[arg-type]


TYPES: dict[str, tuple[str, Callable[[IO[bytes], Iterator[Chat]], None]]] = {
    "jsonl": (".jsonl", lines),
    "jsonl.gz": (".jsonl.gz", partial(gzipped, lines)),
    "jsonl.zst": (".jsonl.zst", partial(zstd, lines)),
    "json": (".json", array),
    "json-indented": (".json", partial(array, indent=2)),
    "json-splits": (".json", partial(array, start='{"train": [', end='], "test": []}')),
    "csv": (".csv", partial(table, delimiter=",")),
    "csv.gz": (".csv.gz", partial(gzipped, partial(table, delimiter=","))),
    "tsv": (".tsv", partial(table, delimiter="\t")),
    "parquet": (".parquet", parquet),
    "arrow": (".arrow", partial(arrow, way="new_file")),
    "arrow-stream": (".arrow", partial(arrow, way="new_stream")),
    "arrow-stream.gz": (".arrow.gz", partial(gzipped, partial(arrow, way="new_stream"))),
}
"""Names of the types, each with the suffix and what makes the file."""


def read(path: Path) -> None:
    """Read a file, and print its rows, the seconds of the processor so far and the peak memory in MB."""
    from juicer.sources.files import Row, rows_of

    found = sum(isinstance(row, Row) for row in rows_of(path, path.name))
    tell(found)


def fetch(path: Path) -> None:
    """Read, convert and write a file as the stage fetch does, and print the same."""
    from juicer.settings.sources import FetchSettings
    from juicer.sources.provenance import Losses
    from tasks.fetch import BUFFER, SourceFetch, Writer, write_all

    settings = FetchSettings(source=str(path))
    source = SourceFetch(settings.sources[0], settings, Losses())
    with path.with_name("demonstrations").open("wb", buffering=BUFFER) as file:
        write_all(Writer(file), [source])
    tell(source.demonstrations)


def tell(found: int) -> None:
    """Print the rows and what they cost."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024
    print(json.dumps({"rows": found, "seconds": round(time.process_time(), 2), "peak_mb": round(peak)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES), metavar="TYPE")
    parser.add_argument("--fetch", action="store_true", help="convert and write the rows too")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        (fetch if given.fetch else read)(given.read)
        return
    print(f"{'type':18}{'MB':>7}{'rows':>9}{'CPU s':>8}{'peak MB':>9}")
    for name in given.types:
        suffix, make = TYPES[name]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"chats{suffix}"
            with path.open("wb") as file:
                make(file, rows(given.rows))
            command = [sys.executable, "-m", "bench.reading", "--read", str(path), *["--fetch"] * given.fetch]
            out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            megabytes = path.stat().st_size / 2**20
        if out["rows"] != given.rows:
            sys.exit(f"{name}: {out['rows']} rows of {given.rows}")
        print(f"{name:18}{megabytes:>7.0f}{out['rows']:>9}{out['seconds']:>8.1f}{out['peak_mb']:>9}", flush=True)


if __name__ == "__main__":
    main()
