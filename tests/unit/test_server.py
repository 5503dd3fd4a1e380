"""What `juicer serve` chooses and refuses before a server starts; the servers themselves are in tests/services."""

import itertools
import json
import shlex
import socket
import sys
from pathlib import Path

import pytest

from juicer.runtime.errors import InputError
from juicer.sampling import vllm_environment
from juicer.serving import server
from juicer.serving.server import check_free, chosen, command, example
from juicer.settings.compute import ComputeSettings


def installed(monkeypatch: pytest.MonkeyPatch, *packages: str, vllm: Path | None = None) -> None:
    monkeypatch.setattr(server, "_has", lambda package: package in packages)
    monkeypatch.setattr(vllm_environment, "find_vllm", lambda: vllm)
    monkeypatch.setattr(server, "find_vllm", lambda: vllm)


def test_vllm_serves_where_it_is_and_transformers_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "openai", "fastapi", "uvicorn", vllm=Path("vllm/python"))
    assert (chosen("auto"), chosen("transformers")) == ("vllm", "transformers")
    installed(monkeypatch, "openai", "fastapi", "uvicorn")
    assert chosen("auto") == "transformers"


def test_what_is_missing_is_said_on_one_line_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "fastapi", "uvicorn")
    with pytest.raises(InputError) as refused:
        chosen("auto")
    said = "transformers' server needs openai, which is not installed (pip install -e '.[serving]')"
    assert str(refused.value) == said
    with pytest.raises(InputError, match=r"--engine is vllm, but there is no environment with vLLM \(run make vllm"):
        chosen("vllm")


def test_a_port_that_something_listens_at_is_refused() -> None:
    with socket.create_server((server.HOST, 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} cannot be used: .* \(choose another: --port\)"):
            check_free(port)
    check_free(port)


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_both_servers_listen_on_loopback_in_the_recipe_s_precision(engine: str, monkeypatch) -> None:
    installed(monkeypatch, vllm=Path("vllm/python"))
    words = command(engine, "irft-r2", 8123, ComputeSettings(device="cpu", precision="bf16"))
    given = dict(itertools.pairwise(words))
    assert (given["--host"], given["--port"], given["--dtype"]) == ("127.0.0.1", "8123", "bfloat16")
    assert words[0] == ("vllm/python" if engine == "vllm" else sys.executable)
    assert "irft-r2" in words
    assert "--trust-remote-code" not in words


def test_the_example_is_a_request_that_a_shell_and_a_server_understand() -> None:
    words = shlex.split(example("irft-r2", 8123))
    assert words[2] == "127.0.0.1:8123/v1/chat/completions"
    assert json.loads(words[-1])["model"] == "irft-r2"
