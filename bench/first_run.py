"""From one's own file to a started run, as a new user would: one command and no edit for each shape of file.

    python -m bench.first_run [--only NAME ...] [--rows 300]

Clones this project into a temporary folder, writes the same dialogues as files of many shapes, and for each runs
`juicer init`, then the stages up to `curate`. Prints a table: file, what was given beside it, format that was
recognised, rows read, demonstrations, rows kept for training, validation and reporting, and seconds.
"""

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from juicer.quickstart import world
from juicer.quickstart.random_models import write_random_model
from juicer.runtime.files import read_json
from juicer.settings.data import TemplateSettings
from juicer.settings.tiny import TinySettings

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "recipes/models/pythia-1b.json"


@dataclass(frozen=True)
class Pair:
    """A question with a good and a bad answer."""

    number: int
    question: str
    answer: str
    worse: str


def pairs_of(rows: int) -> list[Pair]:
    """Questions of the quickstart's world, each with its number, so that none is a duplicate."""
    found = world.pairs(rows, 0)
    return [
        Pair(number, f"{prompt[-1]['content']} ({number})", better, worse)
        for number, (prompt, better, worse) in enumerate(found)
    ]


def _turns(pair: Pair, answer: str, role: str = "role", content: str = "content") -> list[dict[str, str]]:
    return [{role: "user", content: pair.question}, {role: "assistant", content: answer}]


def _hh(pair: Pair, answer: str) -> str:
    return f"\n\nHuman: {pair.question}\n\nAssistant: {answer}"


def _oasst(pair: Pair, rank: int, text: str) -> dict[str, Any]:
    me = f"{pair.number}-{rank}"
    return {"message_id": me, "parent_id": str(pair.number), "text": text, "role": "assistant", "rank": rank}


def _tree(pair: Pair) -> dict[str, Any]:
    replies = [{**_oasst(pair, 1, pair.worse), "replies": []}, {**_oasst(pair, 0, pair.answer), "replies": []}]
    root = {"message_id": str(pair.number), "text": pair.question, "role": "prompter", "replies": replies}
    return {"message_tree_id": str(pair.number), "tree_state": "ready_for_export", "prompt": root}


def _flat(pair: Pair) -> list[dict[str, Any]]:
    root = {"message_id": str(pair.number), "parent_id": None, "text": pair.question, "role": "prompter", "rank": None}
    rows = [root, _oasst(pair, 1, pair.worse), _oasst(pair, 0, pair.answer)]
    return [{**row, "message_tree_id": str(pair.number)} for row in rows]


Rows = list[dict[str, Any]]
SHAPES: dict[str, Callable[[Pair], dict[str, Any]]] = {
    "alpaca": lambda pair: {"instruction": pair.question, "input": "", "output": pair.answer},
    "dolly": lambda pair: {"instruction": pair.question, "context": "", "response": pair.answer, "category": "qa"},
    "sharegpt": lambda pair: {
        "conversations": [{"from": "human", "value": pair.question}, {"from": "gpt", "value": pair.answer}]
    },
    "messages": lambda pair: {"messages": _turns(pair, pair.answer)},
    "question-answer": lambda pair: {"question": pair.question, "answer": pair.answer},
    "query-response": lambda pair: {"query": pair.question, "response": pair.answer},
    "preference": lambda pair: {"prompt": pair.question, "chosen": pair.answer, "rejected": pair.worse},
    "preference-messages": lambda pair: {
        "prompt": _turns(pair, "")[:1],
        "chosen": _turns(pair, pair.answer)[1:],
        "rejected": _turns(pair, pair.worse)[1:],
    },
    "kto": lambda pair: {
        "prompt": pair.question,
        "completion": pair.worse if pair.number % 3 == 0 else pair.answer,
        "label": pair.number % 3 != 0,
    },
    "hh": lambda pair: {"chosen": _hh(pair, pair.answer), "rejected": _hh(pair, pair.worse)},
    "spin": lambda pair: {"real": _turns(pair, pair.answer), "generated": _turns(pair, pair.worse)},
    "prompt-completion": lambda pair: {"prompt": pair.question, "completion": pair.answer},
    "own": lambda pair: {"ask": pair.question, "reply": pair.answer, "bad": pair.worse},
    "own-messages": lambda pair: {
        "dialog": [{"who": "customer", "said": pair.question}, {"who": "agent", "said": pair.answer}]
    },
    "oasst-tree": _tree,
}


def jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def array(path: Path, rows: Rows) -> None:
    path.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def packed(path: Path, rows: Rows) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def zstd(path: Path, rows: Rows) -> None:
    import pyarrow

    with pyarrow.output_stream(str(path), compression="zstd") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())


def table(path: Path, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def parquet(path: Path, rows: Rows) -> None:
    import pyarrow
    from pyarrow import parquet as files

    files.write_table(pyarrow.Table.from_pylist(rows), path)


def arrow(path: Path, rows: Rows) -> None:
    import pyarrow

    whole = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)


def saved(path: Path, rows: Rows) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).train_test_split(0.2, seed=0).save_to_disk(str(path))


def folder(path: Path, rows: Rows) -> None:
    path.mkdir()
    jsonl(path / "train.jsonl", rows[: len(rows) * 4 // 5])
    jsonl(path / "valid.jsonl", rows[len(rows) * 4 // 5 :])


@dataclass(frozen=True)
class Trial:
    """A file, and what is given beside it."""

    name: str
    shape: str
    write: Callable[[Path, Rows], None]
    options: tuple[str, ...] = ()


TRIALS = (
    Trial("alpaca.json", "alpaca", array),
    Trial("alpaca.csv", "alpaca", table),
    Trial("dolly.jsonl", "dolly", jsonl),
    Trial("sharegpt.json", "sharegpt", array),
    Trial("sharegpt.parquet", "sharegpt", parquet),
    Trial("messages.jsonl", "messages", jsonl),
    Trial("messages.arrow", "messages", arrow),
    Trial("questions.tsv", "question-answer", table),
    Trial("queries.ndjson", "query-response", jsonl),
    Trial("preference.jsonl", "preference", jsonl),
    Trial("preference-messages.parquet", "preference-messages", parquet),
    Trial("kto.jsonl", "kto", jsonl),
    Trial("trees.jsonl.gz", "oasst-tree", packed),
    Trial("flat.jsonl", "oasst-messages", jsonl),
    Trial("hh.JSONL.gz", "hh", packed),
    Trial("spin.parquet", "spin", parquet),
    Trial("completions.jsonl.zst", "prompt-completion", zstd),
    Trial("saved-to-disk", "messages", saved),
    Trial("train-and-valid", "sharegpt", folder),
    Trial("own.csv", "own", table, ("--columns", "prompt=ask,response=reply,rejected=bad")),
    Trial(
        "support.json",
        "own-messages",
        array,
        ("--columns", "messages=dialog,role=who,content=said,roles.user=customer,roles.assistant=agent"),
    ),
)


def rows_of(shape: str, pairs: list[Pair]) -> Rows:
    """The same dialogues in a shape."""
    if shape == "oasst-messages":
        return [row for pair in pairs for row in _flat(pair)]
    return [SHAPES[shape](pair) for pair in pairs]


def tried(trial: Trial, project: Path, data: Path, model: Path) -> list[str]:
    """Run one trial in the clone; the cells of its line."""
    name = trial.name.lower().replace(".", "-")
    command = ["init", "--data", str(data / trial.name), "--model", str(model), "--name", name, *trial.options]
    started = time.perf_counter()
    _run(project, "-m", "juicer", *command)
    _run(project, "-m", "juicer", "use", f"recipes/{name}.yaml")
    _run(project, "-m", "dvc", "repro", "-q", "curate")
    seconds = time.perf_counter() - started
    provenance, curation = (
        read_json(project / "data/raw/provenance.json"),
        read_json(project / "data/curated/curation.json"),
    )
    kept = curation["kept"]
    return [
        trial.name,
        " ".join(trial.options) or "-",
        provenance["format"],
        str(provenance["rows"]["read"]),
        str(provenance["rows"]["kept"]),
        f"{kept['train']} + {kept['validation']} + {kept['held_out']}",
        f"{seconds:.0f}",
    ]


def _run(project: Path, *words: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="names of files")
    parser.add_argument("--rows", type=int, default=300)
    arguments = parser.parse_args()
    pairs = pairs_of(arguments.rows)
    heads = ["file", "given beside it", "format", "rows", "demonstrations", "train + validation + held out", "s"]
    with tempfile.TemporaryDirectory() as temporary:
        project, data, model = (Path(temporary) / name for name in ("project", "data", "model"))
        subprocess.run(["git", "clone", "-q", str(ROOT), str(project)], check=True)
        data.mkdir()
        texts = [f"{pair.question} {pair.answer}" for pair in pairs]
        limits = TemplateSettings(name="model", max_prompt_tokens=256, max_response_tokens=256)
        write_random_model(CONFIG, texts, limits, TinySettings(), 0, model)
        print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads), flush=True)
        for trial in TRIALS:
            if arguments.only and trial.name not in arguments.only:
                continue
            trial.write(data / trial.name, rows_of(trial.shape, pairs))
            print("| " + " | ".join(tried(trial, project, data, model)) + " |", flush=True)


if __name__ == "__main__":
    main()
