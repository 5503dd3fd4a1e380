"""A command that fails says so in one line on standard error."""

import signal
import sys

import pytest

from juicer.runtime.command import guarded
from juicer.runtime.errors import Cancelled, InputError


class Unbuffered:
    """A file that keeps what is written at once apart."""

    def __init__(self) -> None:
        self.writes = list[str]()

    def write(self, text: str) -> int:
        self.writes += [text] if text else []
        return len(text)

    def flush(self) -> None: ...


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("it failed", where="sft"), "error: sft: it failed\n"),
        (Cancelled(signal.SIGTERM), "sft: cancelled by SIGTERM; no output was written\n"),
        (KeyboardInterrupt(), "sft: interrupted; no output was written\n"),
    ],
)
def test_a_line_is_written_at_once_so_that_those_of_two_stages_stay_apart(
    error: BaseException, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        raise error

    written = Unbuffered()
    monkeypatch.setattr(sys, "stderr", written)
    assert guarded(work, debug=False, name="sft") != 0
    assert written.writes == [line]
