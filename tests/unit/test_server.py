"""What `juicer serve` chooses and refuses before a server starts; the servers themselves are in tests/services."""

import itertools
import json
import shlex
import socket

import pytest

from juicer.runtime.errors import InputError
from juicer.serving import server
from juicer.serving.server import check_free, chosen, command, example
from juicer.settings.compute import ComputeSettings


def installed(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    monkeypatch.setattr(server, "_has", lambda package: package in packages)


def test_vllm_serves_where_it_is_installed_and_transformers_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "vllm", "openai", "fastapi", "uvicorn")
    assert (chosen("auto"), chosen("transformers")) == ("vllm", "transformers")
    installed(monkeypatch, "openai", "fastapi", "uvicorn")
    assert chosen("auto") == "transformers"


def test_what_is_missing_is_said_on_one_line_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "fastapi", "uvicorn")
    with pytest.raises(InputError) as refused:
        chosen("auto")
    said = "transformers' server needs openai, which is not installed (pip install -e '.[serving]')"
    assert str(refused.value) == said
    with pytest.raises(InputError, match="vLLM needs vllm, which is not installed"):
        chosen("vllm")


def test_a_port_that_something_listens_at_is_refused() -> None:
    with socket.create_server((server.HOST, 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} cannot be used: .* \(choose another: --port\)"):
            check_free(port)
    check_free(port)


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_both_servers_listen_on_loopback_in_the_recipe_s_precision(engine: str) -> None:
    words = command(engine, "irft-r2", 8123, ComputeSettings(device="cpu", precision="bf16"))
    given = dict(itertools.pairwise(words))
    assert (given["--host"], given["--port"], given["--dtype"]) == ("127.0.0.1", "8123", "bfloat16")
    assert "irft-r2" in words
    assert "--trust-remote-code" not in words


def test_the_example_is_a_request_that_a_shell_and_a_server_understand() -> None:
    words = shlex.split(example("irft-r2", 8123))
    assert words[2] == "127.0.0.1:8123/v1/chat/completions"
    assert json.loads(words[-1])["model"] == "irft-r2"
