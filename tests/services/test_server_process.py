"""How `juicer serve` starts, watches and ends a server, with a small one in the place of the engines."""

import _thread
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from juicer.runtime.errors import InputError
from juicer.serving import server
from juicer.serving.named import Named
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from tests.servers import free_port

SMALL = """
import http.server, pathlib, subprocess, sys
assert pathlib.Path(sys.argv[1], "model.safetensors").exists()
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("a line of the server", flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Named:
    """A model whose copy is one file; its name has what a request's must not have."""

    def write_copy(named: Named, into: Path, *, link: bool) -> None:
        into.mkdir()
        (into / "model.safetensors").touch()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "chosen", lambda engine: "transformers")
    monkeypatch.setattr(server, "write_copy", write_copy)
    return Named("my model@3", "my model", tmp_path, {}, TemplateSettings())


def test_a_server_is_announced_when_it_answers_and_an_interrupt_ends_all_its_processes(
    model: Named, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port, said, children = free_port(), list[str](), list[psutil.Process]()
    before = psutil.Process().children(recursive=True)

    def command(engine: str, name: str, port: int, compute: ComputeSettings) -> list[str]:
        return [sys.executable, "-c", SMALL, name, str(port)]

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("ready: "):
            assert httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
            children.extend(each for each in psutil.Process().children(recursive=True) if each not in before)
            _thread.interrupt_main()

    monkeypatch.setattr(server, "command", command)
    with pytest.raises(KeyboardInterrupt):
        server.serve(model, "auto", port, ComputeSettings(), say)
    assert said[0] == "my model is loaded by transformers..."
    assert "a line of the server" in said
    assert f"ready: http://127.0.0.1:{port}/v1, model my-model-3; Ctrl-C ends it." in said[-1]
    assert len(children) == 2
    assert not [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert list((tmp_path / ".juicer").iterdir()) == []


def test_a_server_that_fails_says_why_in_one_line(model: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "print('loading'); print('ValueError: no such architecture'); print('bye'); raise SystemExit(3)"
    monkeypatch.setattr(server, "command", lambda *words: [sys.executable, "-c", program])
    with pytest.raises(InputError, match="the server ended with exit code 3: ValueError: no such architecture"):
        server.serve(model, "auto", free_port(), ComputeSettings(), lambda line: None)
