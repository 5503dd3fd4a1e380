"""Receive MLflow's registry webhooks: verify the signature and emit a Prefect event, whose triggers do the rest.

JUICER_WEBHOOK_SECRET=... python -m flows.webhook                 # listen on 127.0.0.1:8090
JUICER_WEBHOOK_SECRET=... python -m flows.webhook --subscribe     # and subscribe to MLflow's webhooks

A request is refused with 401 if its HMAC signature is wrong, its time is more than five minutes off, or it is a replay.
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.client.orchestration import get_client
from prefect.events import Event, Resource
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flows.server import check_server
from juicer.registry.store import project_uri
from juicer.runtime.command import guarded
from juicer.runtime.errors import InputError

if TYPE_CHECKING:
    import uvicorn

SECRET = "JUICER_WEBHOOK_SECRET"  # noqa: S105 - the name of the variable
TOLERANCE = 300.0
"""Seconds that a request's time may be off; deliveries are remembered for twice as long, to refuse replays."""
LARGEST = 1 << 20
"""Maximum size of a request, in bytes."""
SECONDS_TO_READ = 10.0
"""How long a client may take to send a request."""
CONNECTIONS = 32
"""How many clients may be connected at the same time; others get 503."""
log = logging.getLogger("flows.webhook")


class Refused(Exception):
    """A request whose signature, time or delivery id is not accepted."""


class TooLarge(Exception):
    """A request of more than `LARGEST` bytes."""


class Changed(BaseModel):
    """The part of a webhook's data that an event needs."""

    name: str
    version: str
    alias: str | None = None


class Call(BaseModel):
    """The body of a webhook, as MLflow sends it."""

    entity: str
    action: str
    data: Changed


class Deliveries:
    """The accepted deliveries, in a file, so that a restarted receiver still refuses replays."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._do("CREATE TABLE IF NOT EXISTS deliveries (id TEXT PRIMARY KEY, taken REAL)")

    def take(self, delivery: str, now: float) -> bool:
        """Record a delivery; returns whether it is new."""
        self._do("DELETE FROM deliveries WHERE taken < ?", now - 2 * TOLERANCE)
        return self._do("INSERT OR IGNORE INTO deliveries VALUES (?, ?)", delivery, now) == 1

    def give_back(self, delivery: str) -> None:
        """Forget a delivery that Prefect did not accept, so that MLflow can send it again."""
        self._do("DELETE FROM deliveries WHERE id = ?", delivery)

    def _do(self, statement: str, *values: Any) -> int:
        with closing(sqlite3.connect(self._path)) as store, store:
            return store.execute(statement, values).rowcount


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> str:
    """Check a request's signature and time; returns the id of the delivery.

    Args:
        secret: the secret that MLflow signs this webhook with.
        now: seconds since the epoch.

    Raises:
        Refused: a header is missing, the time is too far off, or the signature is wrong.
    """
    delivery, moment, signature = (
        headers.get(f"x-mlflow-{name}", "") for name in ("delivery-id", "timestamp", "signature")
    )
    if not (delivery and moment.isdecimal() and signature):
        raise Refused("no delivery id, time or signature")
    signed = f"{delivery}.{moment}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise Refused("wrong signature")
    if abs(now - int(moment)) > TOLERANCE:
        raise Refused(f"sent {now - int(moment):.0f} s ago")
    return delivery


def event_of(body: bytes) -> Event:
    """The Prefect event for a webhook.

    Raises:
        ValidationError: the webhook is not about a version.
    """
    call = Call.model_validate_json(body)
    version = f"{call.data.name}.{call.data.version}"
    resource = {"prefect.resource.id": f"mlflow.model-version.{version}", "prefect.resource.name": version}
    reference = f"models:/{call.data.name}/{call.data.version}"
    return Event(
        event=f"mlflow.{call.entity}.{call.action}",
        resource=Resource(resource),
        payload={"model": reference, "alias": call.data.alias},
    )


async def read(request: Request) -> bytes:
    """The body of a request, whatever size it says it has.

    Raises:
        TooLarge: it is larger than `LARGEST`.
        TimeoutError: it is not there after `SECONDS_TO_READ`.
    """
    body = bytearray()
    async with asyncio.timeout(SECONDS_TO_READ):
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST:
                raise TooLarge
    return bytes(body)


def receiver(secret: str, deliveries: Deliveries) -> Starlette:
    """The web application: POST / for webhooks, GET /health."""

    async def receive(request: Request) -> Response:
        who = request.client.host if request.client else "somebody"
        # Closed, because the rest of such a request may still be on its way.
        closed = {"Connection": "close"}
        try:
            body = await read(request)
        except TooLarge:
            return PlainTextResponse("too large", 413, headers=closed)
        except TimeoutError:
            return PlainTextResponse("too slow", 408, headers=closed)
        except ClientDisconnect:
            return PlainTextResponse("gone", 400, headers=closed)
        try:
            delivery = verify(secret, request.headers, body, time.time())
            if not deliveries.take(delivery, time.time()):
                raise Refused(f"delivery {delivery} was here before")
        except Refused as reason:
            log.warning("refused a call of %s: %s", who, reason)
            return PlainTextResponse("refused", 401)
        try:
            event = event_of(body)
        except ValidationError:
            log.warning("delivery %s is about no version", delivery)
            return PlainTextResponse("not about a version", 422)
        try:
            await tell(event)
        except Exception as error:
            deliveries.give_back(delivery)
            log.error("Prefect did not take delivery %s: %s", delivery, error)
            return PlainTextResponse("Prefect does not answer", 503)
        log.info("%s: %s", event.event, event.payload["model"])
        return PlainTextResponse("taken", 202)

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/", receive, methods=["POST"]), Route("/health", health)])


async def tell(event: Event) -> None:
    """Hand an event to the Prefect server; returns when it has it."""
    async with get_client() as client:
        await client.request("POST", "/events", json=[event.model_dump(mode="json")])


def settings(application: Starlette, host: str, port: int) -> "uvicorn.Config":
    """A server with bounds on what clients can make it hold."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        """HTTP in which no client keeps a connection without a request; uvicorn itself waits for ever for the first."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > 2 * CONNECTIONS:  # those above CONNECTIONS are told 503 when they ask
                transport.abort()
            else:
                self.loop.call_later(SECONDS_TO_READ, self._end_if_idle)

        def _end_if_idle(self) -> None:
            if self.transport.is_closing():
                return
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()
            else:
                self.loop.call_later(SECONDS_TO_READ, self._end_if_idle)

    return uvicorn.Config(
        application,
        host=host,
        port=port,
        http=Protocol,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=5,
        limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=16 * 1024,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.webhook", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on, default %(default)s")
    parser.add_argument("--port", type=int, default=8090, help="default %(default)s")
    parser.add_argument("--subscribe", metavar="URL", nargs="?", const="", help="have MLflow call it, or URL")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args()

    def work() -> None:
        import uvicorn

        secret = os.environ.get(SECRET)
        if not secret:
            do = "give it the secret that MLflow signs with, and keep it secret"
            raise InputError("is not set", where=SECRET, do=do)
        check_server()
        if given.subscribe is not None:
            from juicer.registry.versions import open_registry

            with open_registry(project_uri()) as registry:
                registry.subscribe(given.subscribe or f"http://{given.host}:{given.port}/", secret)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        application = receiver(secret, Deliveries(Path(".juicer/deliveries.db")))
        asyncio.run(uvicorn.Server(settings(application, given.host, given.port)).serve())

    sys.exit(guarded(work, debug=given.debug, name="webhook"))


if __name__ == "__main__":
    main()
