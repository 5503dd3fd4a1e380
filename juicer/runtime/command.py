"""Runs a command so that an expected failure ends in one readable line on standard error and an exit code."""

import errno
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from juicer.runtime.errors import Cancelled, InputError
from juicer.runtime.files import write_json


def guarded(
    work: Callable[[], None], *, debug: bool, name: str, report: Callable[[str], None] = lambda line: None
) -> int:
    """Run `work` and return the exit code.

    An expected failure is reported in one line on standard error.

    Args:
        work: the command.
        debug: whether the traceback is printed too.
        name: the command's name in messages.
        report: called with the line, if there is one.

    Returns:
        0 for success, 1 for a failure, 130 for Ctrl-C, 128 + the signal's number if the run was cancelled.
    """

    def fail(line: str) -> int:
        report(line)
        return _fail(line, debug)

    try:
        work()
        sys.stdout.flush()
    except InputError as error:
        return fail(str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _output_closed():
            return 128 + signal.SIGPIPE
        where = f"{error.filename}: " if error.filename else ""
        do = " (free some disk space and rerun; no output was written)" if error.errno == errno.ENOSPC else ""
        return fail(f"{where}{error.strerror or error}{do}")
    except Cancelled as cancelled:
        if "TORCHELASTIC_ERROR_FILE" not in os.environ:  # of several processes, the launcher reports it
            line = f"{name}: cancelled by {cancelled}; no output was written{cancelled.saved}"
            report(line)
            print_line(line, sys.stderr)
        return 128 + cancelled.number
    except KeyboardInterrupt:
        line = f"{name}: interrupted; no output was written"
        report(line)
        print_line(line, sys.stderr)
        return 130
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return fail(f"{name}: {type(error).__name__}: {lines[0]} (--debug shows the traceback)")
    return 0


def print_line(line: str, file: TextIO | None = None) -> None:
    """Print a line at once, so that those of two processes do not run into each other where output is not buffered.

    Args:
        file: where to; None means standard output.
    """
    print(f"{line}\n", end="", file=file, flush=True)


def _output_closed() -> bool:
    """Whether the reader of standard output has closed the pipe, as `head` does. Other pipes may break too."""
    output, asked = sys.__stdout__, select.poll()
    if output is None:
        return False
    asked.register(output.fileno(), 0)
    left = any(event & select.POLLERR for _, event in asked.poll(0))
    if left:  # Python would report an error at exit, when it flushes what is still buffered
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
    return left


def _fail(line: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if (told := os.environ.get("TORCHELASTIC_ERROR_FILE")) is not None:
        # One of several processes, which may all fail alike: the launcher reports the failure once.
        write_json(Path(told), {"message": {"message": line, "extraInfo": {"timestamp": int(time.time())}}})
        return 1
    print_line(f"error: {line}", sys.stderr)
    return 1
