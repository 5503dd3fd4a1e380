"""Who may call the receiver, and what becomes of a call; a list stands in for the Prefect server."""

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import uvicorn
from prefect.events import Event
from starlette.testclient import TestClient

from flows import webhook
from flows.webhook import Deliveries, receiver

SECRET = "not to be guessed"
BODY = json.dumps(
    {"entity": "model_version", "action": "created", "data": {"name": "quickstart", "version": "3", "source": "x"}}
).encode()


def headers(body: bytes = BODY, secret: str = SECRET, delivery: str = "one", age: float = 0) -> dict[str, str]:
    """As MLflow signs a call."""
    moment = str(int(time.time() - age))
    signed = f"{delivery}.{moment}.".encode() + body
    signature = base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
    return {
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": moment,
        "X-MLflow-Signature": f"v1,{signature}",
    }


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What Prefect was told."""
    told: list[Event] = []

    async def tell(event: Event) -> None:
        told.append(event)

    monkeypatch.setattr(webhook, "tell", tell)
    return told


@pytest.fixture
def client(tmp_path: Path, events: list[Event]) -> TestClient:
    """A client of the receiver."""
    return TestClient(receiver(SECRET, Deliveries(tmp_path / "deliveries.db")))


def test_a_signed_call_becomes_an_event_that_names_the_version(client: TestClient, events: list[Event]) -> None:
    assert client.post("/", content=BODY, headers=headers()).status_code == 202
    (event,) = events
    assert event.event == "mlflow.model_version.created"
    assert event.resource.id == "mlflow.model-version.quickstart.3"
    assert event.payload == {"model": "models:/quickstart/3", "alias": None}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: headers(secret="guessed"),
        lambda: headers(body=BODY.replace(b"3", b"4")),
        lambda: headers(age=3600),
        lambda: headers(age=-3600),
        lambda: {**headers(), "X-MLflow-Delivery-Id": "another"},
        lambda: {**headers(), "X-MLflow-Timestamp": "soon"},
        dict,
    ],
    ids=["secret", "body", "old", "from the future", "delivery id", "no time", "unsigned"],
)
def test_a_forged_call_is_refused_and_logged_and_nobody_is_told(
    client: TestClient, events: list[Event], wrong: Callable[[], dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    # Signed here, not when pytest collects: an hour may lie between, and each call is to be wrong in one thing only.
    assert client.post("/", content=BODY, headers=wrong()).status_code == 401
    assert events == []
    assert "refused a call of testclient" in caplog.text


def test_a_replay_is_refused_even_by_a_receiver_that_started_again(
    client: TestClient, events: list[Event], tmp_path: Path
) -> None:
    signed = headers()
    assert client.post("/", content=BODY, headers=signed).status_code == 202
    assert client.post("/", content=BODY, headers=signed).status_code == 401
    again = TestClient(receiver(SECRET, Deliveries(tmp_path / "deliveries.db")))
    assert again.post("/", content=BODY, headers=signed).status_code == 401
    assert len(events) == 1


def test_a_call_that_prefect_did_not_take_may_come_again(
    client: TestClient, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(event: Event) -> None:
        raise ConnectionError("nobody there")

    signed = headers()
    with monkeypatch.context() as patch:
        patch.setattr(webhook, "tell", away)
        assert client.post("/", content=BODY, headers=signed).status_code == 503
    assert client.post("/", content=BODY, headers=signed).status_code == 202
    assert len(events) == 1


def test_a_signed_call_about_something_else_is_no_event(client: TestClient, events: list[Event]) -> None:
    body = b'{"entity": "registered_model", "action": "created", "data": {"name": "quickstart"}}'
    assert client.post("/", content=body, headers=headers(body)).status_code == 422
    assert events == []


def test_a_call_that_is_too_large_is_refused_whatever_size_it_says(client: TestClient, events: list[Event]) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 10_000

    for content in (b"x" * (1 << 21), chunks()):
        answer = client.post("/", content=content, headers=headers())
        assert (answer.status_code, answer.headers["connection"]) == (413, "close")
    assert events == []


@pytest.fixture
def bounded(tmp_path: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a receiver with the bounds of the real one, but smaller ones."""
    monkeypatch.setattr(webhook, "SECONDS_TO_READ", 0.5)
    monkeypatch.setattr(webhook, "CONNECTIONS", 4)
    application = receiver(SECRET, Deliveries(tmp_path / "deliveries.db"))
    server = uvicorn.Server(webhook.settings(application, "127.0.0.1", 0))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def answer_to(port: int, sent: bytes) -> bytes:
    """What comes back until the connection ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(sent)
        return b"".join(iter(lambda: client.recv(4096), b""))


@pytest.mark.parametrize("sent", [b"", b"POST / HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half a head"])
def test_a_client_that_never_asks_is_cut_off(bounded: int, sent: bytes) -> None:
    assert answer_to(bounded, sent) == b""


def test_a_client_that_never_ends_its_request_is_cut_off(bounded: int) -> None:
    slow = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx"
    assert answer_to(bounded, slow).startswith(b"HTTP/1.1 408")


def test_more_clients_than_there_may_be_are_cut_off(bounded: int) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", bounded), timeout=20)) for _ in range(9)]
        started = time.monotonic()
        with suppress(ConnectionResetError):
            assert clients[-1].recv(1) == b""
        assert time.monotonic() - started < 0.5
