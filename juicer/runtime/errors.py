"""The error that users read (what is wrong, where, what to do), and the exception of a cancelled run."""

import difflib
import signal
from collections.abc import Iterable


class InputError(Exception):
    """Wrong input, or another failure that the user can correct.

    Attributes:
        what: what is wrong, as a clause.
        where: the file, line, parameter or step with the mistake, or "".
        do: what corrects it, as an instruction, or "".
    """

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        self.what, self.where, self.do = what, where, do
        super().__init__(" ".join(str(self).split()))

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        do = f" ({self.do})" if self.do else ""
        return f"{where}{self.what}{do}"


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
