"""How a command ends: a foreseeable failure is one readable line on standard error and an exit code."""

import errno
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from juicer.runtime.errors import Cancelled, InputError
from juicer.runtime.files import write_json


def guarded(
    work: Callable[[], None], *, debug: bool, name: str, report: Callable[[str], None] = lambda line: None
) -> int:
    """Run `work`; a foreseeable failure becomes one readable line on standard error and exit code 1.

    Args:
        debug: print the traceback too.
        name: of the command, for messages.
        report: called with the line, if there is one.

    Returns:
        The exit code: 0, 1, or 128 + the number of the signal that ended the work.
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
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 128 + signal.SIGPIPE
        where = f"{error.filename}: " if error.filename else ""
        do = " (free some space, then run again; nothing was published)" if error.errno == errno.ENOSPC else ""
        return fail(f"{where}{error.strerror or error}{do}")
    except Cancelled as cancelled:
        if "TORCHELASTIC_ERROR_FILE" not in os.environ:  # of several processes, the one that started them says it
            line = f"{name}: ended by {cancelled}; nothing was published{cancelled.saved}"
            report(line)
            print(line, file=sys.stderr, flush=True)
        return 128 + cancelled.number
    except KeyboardInterrupt:
        line = f"{name}: interrupted; nothing was published"
        report(line)
        print(line, file=sys.stderr)
        return 130
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return fail(f"{name}: {type(error).__name__}: {lines[0]} (--debug shows the traceback)")
    return 0


def _nobody_reads() -> bool:
    """Whether the reader of standard output has left, as `head` does; a pipe to another program may break too."""
    output, asked = sys.__stdout__, select.poll()
    if output is None:
        return False
    asked.register(output.fileno(), 0)
    left = any(event & select.POLLERR for _, event in asked.poll(0))
    if left:  # what is still buffered has nowhere to go, and Python would complain of that when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
    return left


def _fail(line: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if (told := os.environ.get("TORCHELASTIC_ERROR_FILE")) is not None:
        # One of several processes: all may fail alike, and the one that started them says it once.
        write_json(Path(told), {"message": {"message": line, "extraInfo": {"timestamp": int(time.time())}}})
        return 1
    print(f"error: {line}", file=sys.stderr, flush=True)
    return 1
