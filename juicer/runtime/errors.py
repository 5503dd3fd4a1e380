"""The error that users read (what is wrong, where, what to do), and the exception of a cancelled run."""

import difflib
import re
import signal
from collections.abc import Iterable

LONGEST = 1000
"""Longest part of an error, in characters."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class InputError(Exception):
    """Wrong input, or another failure that the user can correct.

    Attributes:
        what: what is wrong, as a clause.
        where: the file, line, parameter or step with the mistake, or "".
        do: what corrects it, as an instruction, or "".
    """

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        self.what, self.where, self.do = _one_line(what), _one_line(where), _one_line(do)
        super().__init__(" ".join(str(self).split()))

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        do = f" ({self.do})" if self.do else ""
        return f"{where}{self.what}{do}"


def _one_line(text: str) -> str:
    """The text without line breaks and other control characters, which a message may repeat from a bad file."""
    line = _CONTROL.sub(" ", text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 4 :]}"


class Cancelled(KeyboardInterrupt):
    """The run was cancelled by a signal. Not an Exception, so that no `except Exception` handles it as a failure."""

    def __init__(self, number: signal.Signals, saved: str = "") -> None:
        self.number, self.saved = number, saved
        super().__init__(number.name)


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.4) -> str:
    """What to do about a name that does not exist, for `InputError.do`.

    Args:
        name: as the user wrote it.
        known: the names that exist.
        cutoff: how similar the suggested name must be, from 0 to 1 (difflib's ratio).

    Returns:
        "did you mean 'x'?"; if no name is similar, "choose from: x, y"; "" if there are no names.
    """
    names = list(known)
    if similar := difflib.get_close_matches(name, names, n=1, cutoff=cutoff):
        return f"did you mean {similar[0]!r}?"
    return f"choose from: {', '.join(names)}" if names else ""
