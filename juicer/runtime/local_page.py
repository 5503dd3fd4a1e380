"""A page of plain HTML for the person at this machine: a server on loopback that answers only who has its token."""

import base64
import hashlib
import hmac
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import JsonValue

from juicer.runtime.errors import InputError

HOST = "127.0.0.1"
LONGEST_BODY = 2**20
"""Bytes of a request that are read at most."""
TOKEN_HEADER = "X-Juicer-Token"  # noqa: S105 -- the header's name
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)

Request = Mapping[str, JsonValue]
Action = Callable[[Request], "JsonValue | Iterator[JsonValue]"]
"""What the page asks for by POST /NAME: takes and returns JSON. An iterator is sent line by line as it comes."""


class LocalPage:
    """A page and the actions behind it.

    The browser gets the page with a token in its address, and its scripts send the token with every request. Requests
    that name another host are refused, so that no foreign page can reach the server by a name that resolves to it.
    """

    def __init__(self, html: str, actions: Mapping[str, Action], port: int = 0) -> None:
        """
        Args:
            html: the page; its scripts stand between plain <script> tags, and nothing else is run or fetched.
            actions: by name.
            port: 0 takes a free one.

        Raises:
            InputError: the port is taken.
        """
        self.token = secrets.token_urlsafe(24)
        self.html, self.actions = html, actions
        try:
            self._server = ThreadingHTTPServer((HOST, port), _handler(self))
        except OSError as error:
            raise InputError(f"port {port} cannot be used: {error.strerror}", do="choose another --port") from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The address with the token, for the browser."""
        return f"http://{HOST}:{self.port}/?token={self.token}"

    def serve(self) -> None:
        """Answer until `close` is called, or until the program is interrupted."""
        try:
            self._server.serve_forever(poll_interval=0.2)
        finally:
            self._server.server_close()

    def start(self) -> threading.Thread:
        """Answer in a thread of its own."""
        thread = threading.Thread(target=self.serve, name="page", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """End `serve`."""
        self._server.shutdown()

    def admits(self, token: str) -> bool:
        """Whether this is the token."""
        return hmac.compare_digest(token.encode(), self.token.encode())

    def policy(self) -> str:
        """The Content-Security-Policy: the page's own scripts and styles, and requests to this server."""
        digests = (hashlib.sha256(script.encode()).digest() for script in _SCRIPT.findall(self.html))
        scripts = " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests) or "'none'"
        return (
            f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )


def _handler(page: LocalPage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if not self._is_local() or address.path != "/":
                self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")
            elif not page.admits("".join(parse_qs(address.query).get("token", [""])[:1])):
                self._refuse(HTTPStatus.FORBIDDEN, "open the address that was printed; it has the token")
            else:
                self._answer(HTTPStatus.OK, page.html.encode(), "text/html; charset=utf-8")

        def do_POST(self) -> None:
            action = page.actions.get(urlsplit(self.path).path.removeprefix("/"))
            if not self._is_local() or not page.admits(self.headers.get(TOKEN_HEADER, "")):
                self._refuse(HTTPStatus.FORBIDDEN, "the token is missing or wrong")
            elif action is None:
                self._refuse(HTTPStatus.NOT_FOUND, "there is no such action")
            elif (request := self._body()) is not None:
                self._act(action, request)

        def _is_local(self) -> bool:
            return self.headers.get("Host") in {f"{HOST}:{page.port}", f"localhost:{page.port}"}

        def _body(self) -> dict[str, JsonValue] | None:
            """The JSON object that was sent; None after a refusal."""
            length = self.headers.get("Content-Length", "")
            if not length.isdigit() or int(length) > LONGEST_BODY:
                self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request has at most {LONGEST_BODY:,} bytes")
                return None
            try:
                values = json.loads(self.rfile.read(int(length)) or b"{}")
            except ValueError:
                values = None
            if not isinstance(values, dict):
                self._refuse(HTTPStatus.BAD_REQUEST, "a request is a JSON object")
                return None
            return values

        def _act(self, action: Action, request: Request) -> None:
            try:
                found = action(request)
            except InputError as error:
                self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            except OSError as error:
                self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, error.strerror or str(error))
            else:
                if isinstance(found, Iterator):
                    self._stream(found)
                else:
                    self._answer(HTTPStatus.OK, json.dumps(found).encode(), "application/json")

        def _stream(self, parts: Iterator[JsonValue]) -> None:
            """Send JSON lines as they come; an error is the last of them."""
            self.send_response(HTTPStatus.OK)
            self._common("application/x-ndjson")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for part in _with_error(parts):
                    line = json.dumps(part).encode() + b"\n"
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")
            except ConnectionError:  # the page was closed
                self.close_connection = True

        def _refuse(self, status: HTTPStatus, why: str) -> None:
            self.close_connection = True  # what else was sent may not have been read
            self._answer(status, json.dumps({"error": why}).encode(), "application/json")

        def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
            self.send_response(status)
            self._common(kind)
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def _common(self, kind: str) -> None:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Security-Policy", page.policy())
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Cache-Control", "no-store")

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are not logged: their address has the token."""

    return Handler


def _with_error(parts: Iterator[JsonValue]) -> Iterator[JsonValue]:
    try:
        yield from parts
    except InputError as error:
        yield {"error": str(error)}
    except Exception as error:  # the page waits for a last line, whatever went wrong
        yield {"error": f"juicer: {type(error).__name__}: {error}"}
