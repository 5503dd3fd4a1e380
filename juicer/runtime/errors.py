"""The one error that a user is meant to read: what went wrong, where, and what to do."""


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
