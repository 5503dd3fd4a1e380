"""Programs that tests wait for: forked from a process that has imported their libraries, which takes most of the time.

The code of the project is imported after the fork, from where the process is told to find it.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
OWN = ("juicer", "tasks", "flows", "tests")
TRAINING = [
    "torch", "torch._dynamo", "transformers", "transformers.models.gpt_neox.modeling_gpt_neox", "safetensors.torch",
    "transformers.models.llama.modeling_llama", "trl.trainer.sft_trainer", "trl.trainer.rloo_trainer",
]  # fmt: skip
LIBRARIES = {
    "dvc": ["dvc.cli", "dvc.repo", "dvc.commands.repro", "dvc.stage.run", "dvc_data.index"],
    "tasks.curate": TRAINING,
    "tasks.leaderboard": TRAINING,
    "tasks.pretrain": TRAINING,
    "tasks.sft": TRAINING,
}
"""What a program needs; imported when the first that needs it is started."""


def run(
    folder: Path, module: str, *arguments: str, environment: Mapping[str, str], check: bool = True
) -> subprocess.CompletedProcess[str]:
    """What `python -m MODULE ARGUMENTS` does and prints in a folder.

    Args:
        environment: all of its environment variables. Libraries that read theirs on import have those of the tests.
        check: it has to succeed.
    """
    command = [sys.executable, "-m", module, *arguments]
    request = {"module": module, "arguments": arguments, "folder": str(folder), "environment": dict(environment)}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        server = _server()
        server.send(len(message := json.dumps(request).encode()).to_bytes(4, "little"))
        socket.send_fds(server, [message[:1]], [output.fileno(), errors.fileno()])
        server.sendall(message[1:])
        answer = server.recv(16)
        assert answer, "the process that forks them has ended"
        output.seek(0)
        errors.seek(0)
        done = subprocess.CompletedProcess(command, int(answer), output.read(), errors.read())
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def environment(code: Path, **more: str) -> dict[str, str]:
    """The variables of a process that uses the code in the folder `code`, and whose shells find this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(code), **more}


@cache
def _server() -> socket.socket:
    """The process that forks, which ends with this one."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "tests.python", str(theirs.fileno())]
        process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait()

    return ours


def _serve(requests: socket.socket) -> None:
    """Run one program after the other, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the tests end this process
    base = [path for path in sys.path if Path(path or ".").resolve() != ROOT]
    while size := requests.recv(4):
        length = int.from_bytes(size, "little")
        message, files, _, _ = socket.recv_fds(requests, 1, 2)
        while len(message) < length:
            message += requests.recv(length - len(message))
        request = json.loads(message)
        module = request["module"]
        for name in LIBRARIES.get(module, []):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        gc.collect()
        gc.freeze()  # what all of them share stays unwritten by their collectors
        if (process := os.fork()) == 0:
            requests.close()
            _become(request, files, base)
        for file in files:
            os.close(file)
        _, status = os.waitpid(process, 0)
        requests.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: Mapping[str, Any], files: list[int], base: list[str]) -> NoReturn:
    """Be the program."""
    code: object = 1
    try:
        for number, file in enumerate(files, start=1):
            os.dup2(file, number)
            os.close(file)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        for name in [each for each in sys.modules if each.partition(".")[0] in OWN]:
            del sys.modules[name]
        importlib.invalidate_caches()
        there = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        sys.path[:] = [request["folder"], *there, *base]
        sys.argv = [request["module"], *request["arguments"]]
        code = 0
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as left:
        code = left.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code or 0))  # type: ignore[call-overload]


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        _serve(asked)
    os._exit(0)
