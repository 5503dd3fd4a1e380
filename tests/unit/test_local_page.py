"""The server of a local page: loopback, the token, the host's name, and what it answers to bad requests."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import JsonValue

from juicer.runtime.errors import InputError
from juicer.runtime.local_page import HOST, LONGEST_BODY, TOKEN_HEADER, LocalPage, Request

HTML = "<!doctype html><title>a page</title><script>go()</script>"


def double(request: Request) -> JsonValue:
    """The action of the tests."""
    value = request.get("value")
    if not isinstance(value, int):
        raise InputError("value is not a number", do="send one")
    return {"value": 2 * value}


def count(request: Request) -> Iterator[JsonValue]:
    """An action whose answer comes in parts, and fails after the second one."""
    yield {"part": 1}
    yield {"part": 2}
    raise InputError("the model stopped")


def broken(request: Request) -> Iterator[JsonValue]:
    """An action with a fault of its own."""
    yield {"part": 1}
    raise TypeError("not a text")


def full(request: Request) -> JsonValue:
    """An action for which there is no space left."""
    raise OSError(28, "No space left on device")


@pytest.fixture
def page() -> Iterator[LocalPage]:
    """A page that answers."""
    served = LocalPage(HTML, {"double": double, "count": count, "full": full, "broken": broken})
    thread = served.start()
    yield served
    served.close()
    thread.join(timeout=10)
    assert not thread.is_alive()


def ask(
    page: LocalPage, method: str, path: str, body: bytes = b"{}", **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    """Status, content and headers of an answer."""
    connection = http.client.HTTPConnection(HOST, page.port, timeout=10)
    given = {each.replace("_", "-"): value for each, value in headers.items()}
    connection.request(method, path, body if method == "POST" else None, given)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, answer.headers


def act(page: LocalPage, name: str, values: Any) -> tuple[int, str]:
    """What an action answers to who has the token."""
    status, text, _ = ask(page, "POST", f"/{name}", json.dumps(values).encode(), **{TOKEN_HEADER: page.token})
    return status, text


def test_the_page_is_shown_to_who_has_the_token_and_to_nobody_else(page: LocalPage) -> None:
    status, text, headers = ask(page, "GET", page.url.partition(str(page.port))[2])
    assert (status, text) == (200, HTML)
    assert "script-src 'sha256-" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    for path in ("/", "/?token=", "/?token=wrong", f"/?token={page.token}x"):
        assert ask(page, "GET", path)[0] == 403
    assert ask(page, "GET", f"/double?token={page.token}")[0] == 404


def test_it_listens_on_loopback_only(page: LocalPage) -> None:
    assert page._server.server_address[0] == "127.0.0.1"


def test_an_action_answers_who_has_the_token(page: LocalPage) -> None:
    assert act(page, "double", {"value": 21}) == (200, '{"value": 42}')
    assert ask(page, "POST", "/double", b'{"value": 1}')[0] == 403
    assert act(page, "else", {})[0] == 404


def test_another_host_s_name_is_refused_even_with_the_token(page: LocalPage) -> None:
    for host in ("evil.example", f"evil.example:{page.port}", "127.0.0.1"):
        assert ask(page, "GET", f"/?token={page.token}", Host=host)[0] == 404
        assert ask(page, "POST", "/double", b'{"value": 1}', Host=host, **{TOKEN_HEADER: page.token})[0] == 403


def test_a_mistake_of_the_page_is_answered_with_what_is_wrong(page: LocalPage) -> None:
    status, text = act(page, "double", {"value": "x"})
    assert status == 400 and json.loads(text) == {"error": "value is not a number (send one)"}
    assert act(page, "double", [1])[0] == 400
    assert ask(page, "POST", "/double", b"{", **{TOKEN_HEADER: page.token})[0] == 400
    assert act(page, "full", {}) == (507, '{"error": "No space left on device"}')


def test_a_request_that_is_too_long_is_not_read(page: LocalPage) -> None:
    headers = {TOKEN_HEADER: page.token, "Content-Length": str(LONGEST_BODY + 1)}
    assert ask(page, "POST", "/double", b"{}", **headers)[0] == 413


def test_an_answer_in_parts_comes_line_by_line_and_ends_with_its_error(page: LocalPage) -> None:
    status, text = act(page, "count", {})
    assert status == 200
    assert [json.loads(line) for line in text.splitlines()] == [
        {"part": 1}, {"part": 2}, {"error": "the model stopped"},
    ]  # fmt: skip
    text = act(page, "broken", {})[1]
    assert [json.loads(line) for line in text.splitlines()] == [
        {"part": 1}, {"error": "juicer: TypeError: not a text"},
    ]  # fmt: skip


def test_a_port_that_is_taken_is_an_error_of_one_line(page: LocalPage) -> None:
    with pytest.raises(InputError, match=f"port {page.port} cannot be used"):
        LocalPage(HTML, {}, page.port)
