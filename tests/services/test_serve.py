"""`juicer serve` with transformers' own server, asked by the openai client and by plain HTTP."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from juicer.data.template import Template
from juicer.models.loading import load_template
from juicer.settings.data import TemplateSettings
from tests import serving_project
from tests.servers import free_port

PATIENCE = 1800
"""Seconds after which a test gives up; two programs import torch, one after the other."""
MESSAGES = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": " it is "},
    {"role": "user", "content": "how are you?"},
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving_project.make(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def port(project: Path) -> Iterator[int]:
    """The server of models/sft; an interrupt ends it, and no process of it is left."""
    port, said = free_port(), project / "said"
    with said.open("w") as file:
        process = subprocess.Popen(
            serving_project.juicer("serve", "sft", "--port", str(port), "--engine", "transformers"),
            cwd=project, env=serving_project.environment(), stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while "ready: " not in said.read_text():
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.5)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=PATIENCE)
    assert code == 0, said.read_text()
    assert said.read_text().endswith("the server has ended\n")
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert [each for each in (project / ".juicer").iterdir() if each.is_dir()] == [], "the copy is gone"


def test_the_openai_client_gets_a_response_of_the_tokens_that_the_model_was_trained_on(
    port: int, project: Path
) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=PATIENCE)
    answer = client.chat.completions.create(model="sft", messages=MESSAGES, max_tokens=12, seed=1)  # type: ignore[arg-type]
    template: Template = load_template(project / "models/sft", TemplateSettings())
    prompt = template.prompt([{**each, "content": each["content"].strip()} for each in MESSAGES])  # type: ignore[typeddict-item]
    assert answer.usage.prompt_tokens == len(prompt)
    assert 1 <= answer.usage.completion_tokens <= 12
    assert answer.choices[0].finish_reason in ("stop", "length")

    chunks = client.chat.completions.create(model="sft", messages=MESSAGES, max_tokens=12, seed=1, stream=True)  # type: ignore[arg-type]
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert len(parts) > 2
    # A random model may end within a character, which a stream has no other chunk to complete.
    assert "".join(parts).rstrip("\ufffd") == (answer.choices[0].message.content or "").rstrip("\ufffd")


def test_it_listens_on_loopback_only_and_serves_no_other_model(port: int) -> None:
    listening = {each.laddr.ip for each in psutil.net_connections("tcp") if each.laddr and each.laddr.port == port}
    assert listening == {"127.0.0.1"}
    body = {"model": "another", "messages": MESSAGES}
    address = f"http://127.0.0.1:{port}/v1/chat/completions"
    assert httpx.post(address, json=body, trust_env=False, timeout=PATIENCE).status_code == 400


def test_a_port_that_is_taken_is_refused_at_once(port: int, project: Path) -> None:
    done = subprocess.run(
        serving_project.juicer("serve", "sft", "--port", str(port), "--engine", "transformers"),
        cwd=project, env=serving_project.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"port {port} cannot be used: Address already in use (choose another: --port)" in done.stderr
