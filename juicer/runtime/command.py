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


def guarded(work: Callable[[], None], *, debug: bool, name: str) -> int:
    """Run `work`; a foreseeable failure becomes one readable line on standard error and exit code 1."""
    try:
        work()
        sys.stdout.flush()
    except InputError as error:
        return _fail(str(error), debug)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 128 + signal.SIGPIPE
        where = f"{error.filename}: " if error.filename else ""
        do = " (free some space, then run again; nothing was published)" if error.errno == errno.ENOSPC else ""
        return _fail(f"{where}{error.strerror or error}{do}", debug)
    except Cancelled as cancelled:
        if "TORCHELASTIC_ERROR_FILE" not in os.environ:  # of several processes, the one that started them says it
            line = f"{name}: ended by {cancelled}; nothing was published{cancelled.saved}"
            print(line, file=sys.stderr, flush=True)
        return 128 + cancelled.number
    except KeyboardInterrupt:
        print(f"{name}: interrupted; nothing was published", file=sys.stderr)
        return 130
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return _fail(f"{name}: {type(error).__name__}: {lines[0]} (--debug shows the traceback)", debug)
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
