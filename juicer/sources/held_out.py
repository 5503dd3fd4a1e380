"""Which files and rows a source itself holds out from training: the words that say so, in names and in a column."""

import re

from juicer.sources.suffixes import stem_of

WORDS = (
    *("test", "testing", "valid", "validation", "val", "dev", "development"),
    *("eval", "evaluation", "heldout", "holdout"),
)
TRAINED = ("train", "training")
_NO_WORD = re.compile(r"\d+|of|part|shard|split")


def held_out_word(name: str) -> str | None:
    """The word of a path that says that the file is held out; None if there is none.

    The word stands first or last in the name of the file or of a folder, next to numbers perhaps: `test/0000.parquet`,
    `hh-test-2.jsonl.gz`, `valid.jsonl`, `test_sft-00000-of-00001.parquet`. It is no part of another word
    (`latest.jsonl`), and not in the middle of others (`unit-test-questions.jsonl`). Of the names with a word,
    the nearest decides: `test/sub/0000.parquet` is held out, and `test/train.jsonl` is trained on.
    """
    *folders, file = name.split("/")
    for part in (stem_of(file), *reversed(folders)):
        word = _word(part)
        if word is not None:
            return None if word in TRAINED else word
    return None


def is_held_out(split: object) -> bool | None:
    """What the value of a column `split`, or the name of a split, says; None if it says nothing that is known.

    As in names of files, a word may stand next to others: `test_sft` is held out, and `train_sft` is not.
    """
    word = _word(split.strip()) if isinstance(split, str) else None
    return None if word is None else word not in TRAINED


def _word(text: str) -> str | None:
    """The known word that stands first or last; one for held-out rows, if the other is for training (`train-dev`)."""
    joined = re.sub(r"h(e|o)ld[-_ ]out", r"h\1ldout", text.lower())
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[^a-z0-9]+", joined)]
    words = [word for word in words if word and not _NO_WORD.fullmatch(word)]
    ends = (*words[:1], *words[-1:])
    return next((word for known in (WORDS, TRAINED) for word in ends if word in known), None)
