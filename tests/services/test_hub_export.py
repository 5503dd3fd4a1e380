"""`juicer export --to hub` against a stand-in for the hub, which takes what the real one takes."""

import base64
import hashlib
import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests import serving_project

SECRET = "hf_only-for-this-test"


@dataclass
class Hub:
    """What the stand-in has been told."""

    address: str = ""
    private: bool | None = None
    """Of the repository; None while there is none."""
    files: dict[str, bytes] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    """Large files, by their SHA-256."""
    tokens: set[str] = field(default_factory=set)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the answer to a request."""
        if method == "PUT":
            self.stored[path.rpartition("/")[2]] = body
            return 200, {}
        values = json.loads(body) if body and "/commit/" not in path else {}
        if path == "/api/repos/create":
            if self.private is not None:
                return 409, {"error": "You already created this model repo", "url": f"{self.address}/me/kites"}
            self.private = values.get("visibility") == "private" or bool(values.get("private"))
            return 200, {"url": f"{self.address}/me/kites", "name": "me/kites"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            modes = [{"path": each["path"], "shouldIgnore": False} for each in values["files"]]
            for each in modes:
                each["uploadMode"] = "lfs" if each["path"].endswith(".safetensors") else "regular"
            return 200, {"files": modes}
        if path.endswith("/info/lfs/objects/batch"):
            found = [
                {**each, "actions": {"upload": {"href": f"{self.address}/store/{each['oid']}"}}}
                for each in values["objects"]
            ]
            return 200, {"objects": found, "transfer": "basic"}
        if "/commit/" in path:
            self.commit([json.loads(line) for line in body.splitlines()])
            return 200, {"commitUrl": f"{self.address}/me/kites/commit/{'a' * 40}", "commitOid": "a" * 40}
        if path.startswith("/api/models/me/kites"):
            return 200, {"_id": "1", "id": "me/kites", "modelId": "me/kites", "private": self.private, "siblings": []}
        return 404, {"error": f"nothing at {path}"}

    def commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.stored[value["oid"]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The stand-in, on a port of its own."""
    known = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            known.tokens.add(token)
            status, values = known.answer(self.command, self.path, body)
            if token != SECRET and not self.path.startswith("/store/"):
                status, values = 401, {"error": "Invalid credentials"}
            content = json.dumps(values).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status == 401:
                self.send_header("X-Error-Message", "Invalid credentials in Authorization header")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = respond

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are not logged."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield known
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving_project.make(tmp_path_factory.mktemp("project"))


def export(project: Path, hub: Hub, *words: str, token: str = SECRET) -> "subprocess.CompletedProcess[str]":
    home = str(project / "home")
    own = {"HF_ENDPOINT": hub.address, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HOME": home, "HOME": home}
    return subprocess.run(
        serving_project.juicer("export", "sft", "--to", "hub", "--repo", "me/kites", *words),
        cwd=project, env=serving_project.environment(**own), capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_model_is_uploaded_whole_into_a_private_repository(project: Path, hub: Hub) -> None:
    done = export(project, hub)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert hub.private is True
    weights = (project / "models/sft/model.safetensors").read_bytes()
    assert hub.files["model.safetensors"] == weights
    assert list(hub.stored) == [hashlib.sha256(weights).hexdigest()]
    assert "Assistant:" in hub.files["chat_template.jinja"].decode()
    assert hub.files["README.md"].decode().startswith("---\nlibrary_name: transformers\n")
    assert f"sft (models/sft) is in me/kites: {hub.address}/me/kites/commit/" in done.stdout
    assert SECRET not in done.stdout


def test_nothing_is_uploaded_into_a_public_repository_unless_that_is_asked_for(project: Path, hub: Hub) -> None:
    hub.private = False
    done = export(project, hub)
    assert done.returncode == 1
    assert "error: me/kites: the repository is public (upload it where everybody may read it: --public" in done.stderr
    assert hub.files == {}


def test_a_token_that_the_hub_refuses_is_an_error_of_one_line_without_the_token(project: Path, hub: Hub) -> None:
    done = export(project, hub, token="hf_wrong")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "the hub refuses: " in done.stderr and "check HF_TOKEN" in done.stderr
    assert "hf_wrong" not in done.stderr
    assert hub.files == {}
