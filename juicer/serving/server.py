"""An OpenAI-compatible endpoint on loopback: vLLM's server where it is installed, else transformers' own.

Both read the chat template and the sampling of a copy (`juicer.serving.portable`), so that a plain request is answered
as the recipe evaluates.
"""

import importlib.util
import os
import re
import socket
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from juicer.runtime.errors import InputError
from juicer.runtime.process_groups import run_in_group
from juicer.sampling.vllm_environment import check_vllm, find_vllm
from juicer.serving.named import LOCAL, Named
from juicer.serving.portable import write_copy
from juicer.settings.compute import ComputeSettings

Engine = Literal["auto", "vllm", "transformers"]
HOST = "127.0.0.1"
NEEDED = ("openai", "fastapi", "uvicorn")
"""Packages that transformers' server needs."""
_WORD = re.compile(r"[^\w.-]+")
"""What a name in requests has not; transformers reads @ as the beginning of a revision."""
_PAUSE = 0.5
"""Seconds between two questions whether the server is ready."""


def chosen(engine: Engine) -> str:
    """The engine: `auto` takes vLLM where it is installed.

    Raises:
        InputError: its environment, or a package that it needs, is not there.
    """
    if engine == "vllm" or (engine == "auto" and find_vllm() is not None):
        check_vllm("--engine", others="transformers")
        return "vllm"
    if missing := [each for each in NEEDED if not _has(each)]:
        what = f"transformers' server needs {', '.join(missing)}, which is not installed"
        raise InputError(what, do="pip install -e '.[serving]'")
    return "transformers"


def serve(named: Named, engine: Engine, port: int, compute: ComputeSettings, say: Callable[[str], None]) -> None:
    """Serve a model until the server ends or this process is interrupted; nothing of the server is left then.

    Args:
        compute: device and precision of the recipe.
        say: called with each line, the server's own included.

    Raises:
        InputError: a package is missing, the port is taken, the model cannot be copied, or the server fails.
    """
    name = chosen(engine)
    check_free(port)
    LOCAL.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=LOCAL, prefix="serving-") as scratch:
        folder = Path(scratch).resolve()
        word = _WORD.sub("-", named.name)
        write_copy(named, folder / word, link=True)
        say(f"{named.title} is loaded by {'vLLM' if name == 'vllm' else 'transformers'}...")
        ended = threading.Event()
        watcher = threading.Thread(target=_tell_when_ready, args=(word, port, ended, say), daemon=True)
        watcher.start()
        said: list[str] = []

        def line(text: str) -> None:
            said.append(text)
            del said[:-20]
            say(text)

        try:
            code = run_in_group(
                command(name, word, port, compute), line, folder=folder, environment=_environment(folder / "hub")
            )
        finally:
            ended.set()
            watcher.join()
        if code:
            errors = [text for text in said if "error" in text.lower()] or said or ["it said nothing"]
            raise InputError(f"the server ended with exit code {code}: {errors[-1].strip()}", where=f"{HOST}:{port}")


def command(engine: str, name: str, port: int, compute: ComputeSettings) -> list[str]:
    """The command line of an engine, for the folder with the model's copy.

    Args:
        name: the model's folder there, and its name in requests.
    """
    from juicer.models.loading import dtype_of

    kind = str(dtype_of(compute)).removeprefix("torch.")
    if engine == "vllm":
        python = str(check_vllm("--engine", others="transformers"))
        return [
            *(python, "-m", "vllm.entrypoints.openai.api_server", "--model", f"./{name}"),
            *("--served-model-name", name, "--host", HOST, "--port", str(port), "--dtype", kind),
        ]
    device = "cpu" if compute.device == "cpu" else "auto"
    return [
        *(sys.executable, "-m", "transformers.cli.transformers", "serve", name),
        *("--host", HOST, "--port", str(port), "--device", device, "--dtype", kind),
    ]


def example(name: str, port: int) -> str:
    """A request, for a shell."""
    body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "Hello"}}], "max_tokens": 100}}'
    return f"curl -s {HOST}:{port}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"


def check_free(port: int) -> None:
    """Raise InputError if something else listens at the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            what = f"port {port} cannot be used: {error.strerror}"
            raise InputError(what, where=HOST, do="choose another: --port") from error


def _environment(hub: Path) -> dict[str, str]:
    """Variables of the server: nothing is fetched, and a module of this folder never hides a library's.

    Args:
        hub: an empty cache of the hub: transformers' server lists the models of the one that it has, and fails without.
    """
    hub.mkdir()
    return {
        "HF_HUB_CACHE": str(hub),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


def _tell_when_ready(name: str, port: int, ended: threading.Event, say: Callable[[str], None]) -> None:
    while not ended.wait(_PAUSE):
        if is_ready(port):
            say(f"ready: http://{HOST}:{port}/v1, model {name}; Ctrl-C ends it. For example:\n  {example(name, port)}")
            return


def is_ready(port: int) -> bool:
    """Whether the server at a port says that it is well."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{HOST}:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
