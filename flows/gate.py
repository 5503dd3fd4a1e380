"""The gate before Prefect's and MLflow's server: who may send them requests.

Neither server asks who calls it, and both run what they are told to. Without this, any page in a browser of this
machine and any of its users could start commands. The programs are

    python -m flows.gate prefect --host 127.0.0.1 --port 4200
    python -m flows.gate mlflow --host 127.0.0.1 --port 5000 ...       # the options of `mlflow server`

with the secret in JUICER_GATE_SECRET and the names that clients may call the server by, each with its port, in
JUICER_GATE_HOSTS, separated by commas. This module imports nothing of Juicer: docker/compose.yaml mounts it alone.
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import html
import json
import os
import sys
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

USER = "juicer"
"""The name that goes with the secret in HTTP Basic credentials."""
SECRET, HOSTS = "JUICER_GATE_SECRET", "JUICER_GATE_HOSTS"
HEALTH = {"/api/health", "/health"}
"""Open to all: they say that the server is there, and nothing else."""
TRAINING = """<script>
if (!localStorage.getItem("mlflow.workflowType_v1"))
  localStorage.setItem("mlflow.workflowType_v1", '"machine_learning"')
</script>"""
"""Has MLflow's pages begin with model training: runs and models, rather than traces of GenAI applications."""
LOG_IN = "log in first: open the address with ?key= that `juicer ui` has printed, or send HTTP Basic credentials\n"
SECONDS_TO_LOG_IN = 30.0


class Gate:
    """Passes on the requests that are allowed, and answers the others itself with 401 or 403.

    Allowed is a request for one of `hosts` (another name may be a page's own domain that it has pointed here), that a
    page of the same origin or no page has sent, with the secret: as HTTP Basic credentials, as the cookie that a page
    gets with `?key=SECRET`, or in the first message of a WebSocket, where Prefect's clients have it.

    Args:
        application: the server.
        secret: what those who may come in know.
        hosts: names, each with its port, that the server is reached by.
        welcome: HTML of the page that logs a browser in.
    """

    def __init__(self, application: ASGIApp, secret: str, hosts: Iterable[str], welcome: str = "") -> None:
        self._application, self._secret, self._page = application, secret, welcome
        self._hosts = frozenset(host.strip().lower() for host in hosts) - {""}
        if not secret or not self._hosts:
            raise ValueError("a gate needs a secret, and the names of its server")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope.get("method") == "GET" and scope["path"] in HEALTH):
            await self._application(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if reason := self._stranger(scope, headers, host):
            await refuse(403, reason, scope, receive, send)
        elif scope["type"] == "http" and (key := key_of(scope)) and equal(key, self._secret):
            await self._welcome(scope, host)(scope, receive, send)
        elif self._known(headers, host):
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket" and "origin" not in headers and "prefect" in scope["subprotocols"]:
            await FirstMessage(self._application, f"{USER}:{self._secret}")(scope, receive, send)
        else:
            await refuse(401, LOG_IN, scope, receive, send)

    def _stranger(self, scope: Scope, headers: Headers, host: str) -> str:
        """Why a request cannot be from a client or a page of this server; nothing if it can."""
        if host not in self._hosts:
            return f"this server is not called so; it is {' or '.join(sorted(self._hosts))}\n"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            return "pages of other origins may not use this server\n"
        # Requests without an Origin, such as images and scripts; browsers tell where they are from, too. One may
        # follow a link to here.
        follows = scope.get("method") == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not follows:
            return "pages of other origins may not use this server\n"
        return ""

    def _known(self, headers: Headers, host: str) -> bool:
        """Whether a request has the cookie or the credentials."""
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            expected = base64.b64encode(f"{USER}:{self._secret}".encode()).decode()
            return equal(given.strip(), expected)
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(cookie_name(host))
        except CookieError:
            return False
        return cookie is not None and equal(cookie.value, self._cookie(host))

    def _cookie(self, host: str) -> str:
        """What the cookie says: not the secret itself, because servers on other ports of the host get it too."""
        return hmac.new(self._secret.encode(), host.encode(), hashlib.sha256).hexdigest()

    def _welcome(self, scope: Scope, host: str) -> HTMLResponse:
        """A page that sets the cookie and goes on without the key.

        No redirect: the browser would take it as part of following a link from elsewhere, and not send the cookie.
        """
        rest = urlencode([(name, value) for name, value in parse_qsl(query(scope)) if name != "key"])
        address = "/" + quote(scope["path"].lstrip("/")) + (f"?{rest}" if rest else "")
        scope["query_string"] = rest.encode()  # what a server writes to its log
        answer = HTMLResponse(
            f'<!doctype html>{self._page}<meta http-equiv="refresh" content="0;url={html.escape(address)}">',
            headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"},
        )
        answer.set_cookie(cookie_name(host), self._cookie(host), httponly=True, samesite="strict")
        return answer


class FirstMessage:
    """A WebSocket of Prefect's clients, whose first message has to have the credentials; before, nothing is sent."""

    def __init__(self, application: ASGIApp, credentials: str) -> None:
        self._application, self._credentials = application, credentials

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        let_in = False

        async def checked_receive() -> Message:
            nonlocal let_in
            if let_in:
                return await receive()
            async with asyncio.timeout(SECONDS_TO_LOG_IN):
                message = await receive()
            if message["type"] == "websocket.receive":
                let_in = equal(token_of(message), self._credentials)
                if not let_in:
                    await send({"type": "websocket.close", "code": 1008, "reason": "wrong credentials"})
                    return {"type": "websocket.disconnect", "code": 1008}
            return message

        async def checked_send(message: Message) -> None:
            if let_in or message["type"] in ("websocket.accept", "websocket.close"):
                await send(message)

        await self._application(scope, checked_receive, checked_send)


def query(scope: Scope) -> str:
    """The part of the address behind the question mark."""
    return bytes(scope["query_string"]).decode("latin-1")


def key_of(scope: Scope) -> str:
    """The key in the address of a page; empty if there is none."""
    return dict(parse_qsl(query(scope))).get("key", "") if scope["method"] == "GET" else ""


def token_of(message: Message) -> str:
    """The credentials in the first message of a Prefect client; empty if it is another one."""
    try:
        said: Any = json.loads(message.get("text") or message.get("bytes") or "")
    except ValueError:
        return ""
    return str(said.get("token") or "") if isinstance(said, dict) and said.get("type") == "auth" else ""


def cookie_name(host: str) -> str:
    """One for each port, because browsers keep the cookies of all ports of a host together."""
    return f"juicer_{host.rpartition(':')[2] if ':' in host else 'http'}"


def equal(given: str, expected: str) -> bool:
    """Whether two texts are the same, in a time that does not tell how much of them is."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


async def refuse(status: int, reason: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request, or close a WebSocket that is not open yet, which the client sees as 403."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason.strip()[:120]})
        return
    await PlainTextResponse(reason, status, headers={"Cache-Control": "no-store"})(scope, receive, send)


def gate(application: ASGIApp, welcome: str = "") -> Gate:
    """A gate with the secret and the hosts of the environment."""
    missing = [name for name in (SECRET, HOSTS) if not os.environ.get(name)]
    if missing:
        sys.exit(f"error: {' and '.join(missing)} is not set")
    return Gate(application, os.environ[SECRET], os.environ[HOSTS].split(","), welcome)


def mlflow_application() -> Gate:
    """MLflow's server behind the gate; for uvicorn in the processes of `mlflow server`."""
    from mlflow.server.fastapi_app import app

    return gate(app, TRAINING)


def serve_prefect(host: str, port: int) -> None:
    """What `prefect server start` does, behind the gate."""
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    settings = get_current_settings().server
    uvicorn.run(
        gate(create_app(final=True)),
        host=host,
        port=port,
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
        access_log=False,
    )


def serve_mlflow(arguments: list[str]) -> None:
    """`mlflow server` with these arguments, behind the gate.

    MLflow takes other applications only from installed packages, which flows/ is not; so the command that it starts
    its processes with gets ours.
    """
    from mlflow import server
    from mlflow.cli import cli

    build = server._build_uvicorn_command

    def gated(options: str | None, host: str, port: int, workers: int, *_: object, **__: object) -> list[str]:
        command = build(options, host, port, workers, f"{__spec__.name}:{mlflow_application.__name__}", is_factory=True)
        return list(command)

    server._build_uvicorn_command = gated  # type: ignore[assignment]
    cli(["server", "--uvicorn-opts", "--no-access-log", *arguments], prog_name="mlflow")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    servers = parser.add_subparsers(dest="server", required=True)
    prefect = servers.add_parser("prefect", help="Prefect's server")
    prefect.add_argument("--host", default="127.0.0.1", help="address to listen on, default %(default)s")
    prefect.add_argument("--port", type=int, default=4200, help="default %(default)s")
    servers.add_parser("mlflow", help="MLflow's server, with the options of `mlflow server`", add_help=False)
    given, more = parser.parse_known_args()
    if given.server == "mlflow":
        serve_mlflow(more)
    elif more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    else:
        serve_prefect(given.host, given.port)


if __name__ == "__main__":
    main()
