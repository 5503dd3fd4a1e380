"""The warm parent: a process that has imported the libraries, and forks a child for each stage. See `warm`.

It has one thread and imports libraries only. A child drops every module of the project that came with them, so that
the project's code is read from its files after the fork, as by an ordinary process: `juicer/stages/reading.py` compares
the times of files with the start of the process.

It ends when the process that started it has ended, and ignores the signals that a terminal or a flow sends to all: the
stages handle these, and somebody has to tell how they ended.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = (
    "torch",
    "torch._dynamo",
    "transformers",
    "safetensors.torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.gpt_neox.modeling_gpt_neox",
    "transformers.models.llama.modeling_llama",
    "trl.trainer.sft_trainer",
    "trl.trainer.rloo_trainer",
)
"""What the stages import, in the order in which they need it. One that is missing is left to the stage."""
OWN = ("juicer", "tasks", "flows")
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Parent:
    """Serves one process: forks a stage for each request, and tells its process id and how it ended."""

    def __init__(self, requests: socket.socket) -> None:
        """Serve what comes through `requests`: each message is a JSON object with a socket for the
        answers, and perhaps files for the output."""
        self._requests = requests
        self._answers = dict[int, tuple[int, socket.socket]]()
        """By the file descriptor of a running stage: its process id, and where to tell how it ended."""
        self._handlers = {number: signal.signal(number, signal.SIG_IGN) for number in IGNORED}

    def serve(self, wait: bool) -> bool:
        """Do what there is to do, and wait for it if `wait`; False if nobody will ask any more."""
        asked = self._requests.fileno()
        found, _, _ = select.select([asked, *self._answers], [], [], None if wait else 0)
        for ready in found:
            if ready != asked:
                self._end(ready)
        return asked not in found or self._begin()

    def _begin(self) -> bool:
        message, files, _, _ = socket.recv_fds(self._requests, 1 << 20, 3)
        if not message:
            return False
        answers = socket.socket(fileno=files[0])
        # A signal that comes before the child can handle it waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
        try:
            if (process := os.fork()) == 0:
                self._become(json.loads(message), answers, files[1:])
        except OSError:  # no memory; who asked sees the closed socket
            answers.close()
            return True
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
            for file in files[1:]:
                os.close(file)
        self._answers[os.pidfd_open(process)] = process, answers
        with contextlib.suppress(OSError):  # who asked has ended
            answers.sendall(f"{process}\n".encode())
        return True

    def _end(self, ended: int) -> None:
        process, answers = self._answers.pop(ended)
        _, status = os.waitpid(process, 0)
        os.close(ended)
        with contextlib.suppress(OSError), answers:
            answers.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())

    def _become(self, request: Mapping[str, Any], answers: socket.socket, output: Sequence[int]) -> NoReturn:
        """Be the stage."""
        code = 1
        try:
            for own, file in zip((1, 2), output, strict=False):
                os.dup2(file, own)
                os.close(file)
            self._requests.close()
            answers.close()
            for file, (_, other) in self._answers.items():
                os.close(file)
                other.close()
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
            code = _run(request["module"], request["arguments"], Path(request["folder"]), request["environment"])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


def _run(module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> int:
    """Run a module as `python -m` does, and return the exit code."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for name in [each for each in sys.modules if each.partition(".")[0] in OWN]:
        del sys.modules[name]
    importlib.invalidate_caches()
    sys.path[0] = str(folder)
    sys.argv = [module, *arguments]
    sys.orig_argv = [sys.executable, "-m", module, *arguments]
    set_title(sys.orig_argv)
    _place_bars(environment)
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        code = left.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code or 0)  # type: ignore[call-overload]


def _place_bars(environment: Mapping[str, str]) -> None:
    """Put progress bars on their line of the terminal: tqdm looks at its variables when it is imported only."""
    tqdm = sys.modules.get("tqdm.std")
    if tqdm is not None and (place := environment.get("TQDM_POSITION", "")).isdigit():
        wrapped = vars(tqdm.tqdm)["__init__"]
        getattr(wrapped, "keywords", {})["position"] = int(place)


def set_title(words: Sequence[str]) -> None:
    """Show these words as the command line of this process (`ps`, psutil), where its own is long enough."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        numbers = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        start, end = int(numbers[45]), int(numbers[46])
        text = " ".join(words).encode()[: end - start - 2]
        # Linux shows what stands before the first zero if the last byte of the place is none.
        ctypes.memmove(start, text.ljust(end - start - 1, b"\0") + b".", end - start)


def main() -> None:
    """Import the libraries, and serve meanwhile and afterwards. The arguments: a file descriptor, threads, device."""
    from juicer.settings.compute import ComputeSettings
    from juicer.stages.stage import set_environment

    number, threads, device, _ = sys.argv[1:]
    set_environment(ComputeSettings.parse({"threads": int(threads), "device": device}, "compute"))
    parent = Parent(socket.socket(fileno=int(number)))
    for name in LIBRARIES:
        if not parent.serve(wait=False):
            return
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what all children share stays unwritten by their collectors
    while parent.serve(wait=True):
        pass


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
