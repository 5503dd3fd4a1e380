"""Words of a stage's command that stand for values of the recipe's graph.

DVC gives the commands of dvc.yaml to a shell, which would read any value in them. So they are constants, and the
program puts the values in, once params.yaml is known to be valid:

- `@key` is the key of a `foreach` stage: in the stage irft_train@r1, `models/irft/@key` is models/irft/r1;
- `@graph.irft.@key.previous` is the value under that key in params.yaml.

dvc.yaml lists the keys of the second kind as parameters of the stage, so dvc.lock has the value that each one had.
What is written together with its option, as in `--policy=@graph.base`, is taken as it is.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from juicer.runtime.errors import InputError

KEY = re.compile(r"@key(?!\w)")
REFERENCE = re.compile(r"@(graph(?:\.[\w-]+)+)")


def stage_named(address: str) -> str:
    """The name of a stage that DVC calls by its address: "irft_train@r1", or "folder/dvc.yaml:irft_train@r1"."""
    return address.rpartition(":")[2]


def reference(word: str, stage: str) -> str | None:
    """The key of params.yaml whose value the word stands for, "graph.irft.r1.previous"; None if it stands for itself.

    Raises:
        InputError: the word has `@key`, but the stage has no key.
    """
    found = REFERENCE.fullmatch(_with_key(word, stage))
    return found[1] if found else None


def resolved(words: Sequence[str], stage: str, value: Callable[[str], Any]) -> list[str]:
    """The words of a command with their values.

    A value is joined to the option before it, so that a value that begins with a dash is no option itself.

    Args:
        words: what follows the program's name.
        stage: the stage's name, with its key.
        value: looks up a key such as "graph.base"; raises KeyError if there is no such key.

    Raises:
        InputError: there is no such key, or the stage has none.
    """
    found: list[str] = []
    for word in words:
        key = reference(word, stage)
        if key is None:
            found.append(_with_key(word, stage))
            continue
        try:
            text = str(value(key))
        except KeyError as missing:
            do = f"check the name of the stage: --stage {stage}"
            raise InputError(f"there is no {key}, which {word} stands for", where="command line", do=do) from missing
        option = found.pop() if found and found[-1].startswith("--") else ""
        found.append(f"{option}={text}" if option else text)
    return found


def _with_key(word: str, stage: str) -> str:
    if word.startswith("--") or not KEY.search(word):
        return word
    name, _, key = stage.partition("@")
    if not key:
        what = f"{word} needs the key of the stage, and {name!r} has none"
        raise InputError(what, where="command line", do=f"name the stage with its key: --stage {name}@KEY")
    return KEY.sub(lambda _: key, word)
