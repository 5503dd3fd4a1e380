"""The error that a user is meant to read (what went wrong, where, what to do), and the end of a cancelled run."""

import difflib
import signal
from collections.abc import Iterable


class InputError(Exception):
    """Something the user gave us cannot be used.

    Attributes:
        what: what is wrong, in words.
        where: file, line, key or step it was found at, or "".
        do: what mends it, or "".
    """

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        self.what, self.where, self.do = what, where, do
        super().__init__(" ".join(str(self).split()))

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        do = f" ({self.do})" if self.do else ""
        return f"{where}{self.what}{do}"


class Cancelled(KeyboardInterrupt):
    """The run was told to end. Not an Exception, so that nothing takes it for a failure of its own."""

    def __init__(self, number: signal.Signals, saved: str = "") -> None:
        self.number, self.saved = number, saved
        super().__init__(number.name)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.4) -> str | None:
    """The known name that is most like `name`, for "did you mean"; None if none is much like it."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)
