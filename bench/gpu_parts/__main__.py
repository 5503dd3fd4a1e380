"""Measures one part in a process of its own, and reports each result at once: `python -m bench.gpu_parts PART ...`.

Events go as JSON lines to the file descriptor that the starter names, so what libraries print does not mix with them.
"""

import argparse
import gc
import importlib
import json
import logging
import os
import signal
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

BROKEN = 3
"""Exit code: CUDA does not work in this process any more."""
TAIL = 2500
"""Characters of a traceback that are kept."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_parts", description=__doc__)
    parser.add_argument("part", help="a part of bench.gpu_parts.PARTS, or `environment`")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--kit", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--skip", type=json.loads, default=[], help="names, as a JSON list")
    parser.add_argument("--events", type=int, default=1, help="file descriptor")
    given = parser.parse_args()
    _end_with_starter()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with os.fdopen(given.events, "w", buffering=1, encoding="utf-8") as events:

        def say(**event: Any) -> None:
            events.write(json.dumps(event, allow_nan=False) + "\n")

        if given.part == "environment":
            from bench.gpu_parts.common import environment

            say(environment=environment())
            return
        code = _measure(given, say)
    os._exit(code)  # libraries that are taken down in a broken process may hang


def _end_with_starter() -> None:
    """End this process and its children when its standard input closes, because its parent has ended."""

    def watch() -> None:
        os.read(0, 1)
        os.killpg(0, signal.SIGKILL)

    if not os.isatty(0) and os.getpid() == os.getpgid(0):
        threading.Thread(target=watch, daemon=True).start()


def _measure(given: argparse.Namespace, say: Any) -> int:
    from bench.gpu_parts.common import Context, works

    context = Context(given.tiny, given.kit, given.work)
    todo = importlib.import_module(f"bench.gpu_parts.{given.part}").measurements(context)
    say(names=list(todo))
    for name, measure in todo.items():
        if name in given.skip:
            continue
        say(start=name)
        begun = time.perf_counter()
        try:
            values = measure()
        except Exception as error:
            lines = [f"{type(error).__name__}: {line}" for line in str(error).strip().splitlines()[:1]]
            told = "".join(traceback.format_exception(error))[-TAIL:]
            say(failed=name, error=(lines or [type(error).__name__])[0][:500], traceback=told)
            del error
        else:
            seconds = round(time.perf_counter() - begun, 2)
            try:
                say(done=name, values=values, seconds=seconds)
            except ValueError:
                say(failed=name, error="a figure is NaN or infinite", traceback=repr(values)[-TAIL:])
        gc.collect()
        if not works(context.device):
            return BROKEN
    return 0


if __name__ == "__main__":
    main()
