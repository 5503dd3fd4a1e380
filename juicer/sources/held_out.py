"""Which files and rows a source itself holds out from training: the words that say so, in names and in a column."""

import re

WORDS = ("test", "valid", "validation", "val", "dev", "eval", "evaluation", "heldout")
TRAINED = ("train", "training")
_SUFFIXES = re.compile(r"(\.(jsonl|ndjson|json|csv|tsv|parquet|arrow|gz|zst))+$")
_NUMBER = re.compile(r"\d+|of|part|shard|split")


def held_out_word(name: str) -> str | None:
    """The word of a path's names that says that the file is held out; None if there is none.

    The word stands first or last in the name of the file or of a folder, next to numbers perhaps: `test/0000.parquet`,
    `hh-test-2.jsonl.gz`, `valid.jsonl`. It is no part of another word (`latest.jsonl`), and not in the middle of others
    (`unit-test-questions.jsonl`).
    """
    for part in name.split("/"):
        stem = _SUFFIXES.sub("", part.lower())
        words = [word for word in re.split(r"[^a-z0-9]+", _joined(stem)) if not _NUMBER.fullmatch(word)]
        for word in (*words[:1], *words[-1:]):
            if word in WORDS:
                return word
    return None


def is_held_out(split: object) -> bool | None:
    """What the value of a column `split` says; None if it says nothing that is known."""
    if not isinstance(split, str):
        return None
    word = _joined(split.strip())
    return True if word in WORDS else False if word in TRAINED else None


def _joined(text: str) -> str:
    """Lower case, with `held-out` as one word."""
    return re.sub(r"held[-_ ]out", "heldout", text.lower())
