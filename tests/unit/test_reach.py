"""A store that cannot be reached is told in one line and in seconds."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from juicer.registry import reach
from juicer.registry.reach import unreachable
from juicer.registry.store import connect
from juicer.runtime.errors import InputError


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "2")


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of what accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_accepts_and_never_answers_is_named_without_its_password(silent: str) -> None:
    with (
        pytest.raises(InputError, match=r"it accepts connections, but does not answer within 0 s \(start it") as error,
        connect(f"http://juicer:secret@{silent}"),
    ):
        pass
    assert "secret" not in str(error.value)


def test_a_database_that_accepts_and_never_answers_ends_by_its_time_out(silent: str) -> None:
    pytest.importorskip("psycopg2")
    assert "timeout expired" in unreachable(f"postgresql+psycopg2://juicer:secret@{silent}/store")


def test_a_name_that_is_never_resolved_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "SECONDS_IN_ALL", 0.1)
    monkeypatch.setattr(reach, "_ask_server", lambda uri: threading.Event().wait(60))
    assert unreachable("http://nowhere") == "no answer within 0 s"


def test_nothing_that_listens_is_told_as_the_system_says_it(silent: str) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert "refused" in unreachable(f"http://127.0.0.1:{bound.getsockname()[1]}")


@pytest.mark.parametrize("status", [200, 302, 401, 404, 503])
def test_any_answer_is_left_to_mlflow(status: int) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert unreachable(f"http://127.0.0.1:{server.server_port}/") == ""
        thread.join()


def test_stores_in_files_are_not_asked() -> None:
    assert [unreachable(uri) for uri in ("sqlite:///mlflow.db", "mlruns", "databricks")] == ["", "", ""]
