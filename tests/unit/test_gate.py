"""Who is let in to the servers of `juicer ui`; a small application stands in for them."""

import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from flows.gate import TRAINING, Gate

SECRET, HOST = "not-to-be-guessed", "127.0.0.1:4200"
OWN, OTHER = f"http://{HOST}", "http://127.0.0.1:9999"


async def page(request: Request) -> Response:
    return PlainTextResponse(f"inside {request.url.query}")


async def talk(websocket: WebSocket) -> None:
    """As Prefect's server: the first message is one to log in, and is not looked at."""
    await websocket.accept(subprotocol=next(iter(websocket.scope["subprotocols"]), None))
    try:
        await websocket.receive_text()
        await websocket.send_text("inside")
    except WebSocketDisconnect:
        return


@pytest.fixture
def client() -> TestClient:
    """A browser that has not logged in."""
    routes = [Route(path, page, methods=["GET", "POST"]) for path in ("/", "/runs", "/api/x", "/api/health")]
    application = Starlette(routes=[*routes, WebSocketRoute("/api/events/out", talk)])
    return TestClient(Gate(application, SECRET, [HOST]), base_url=OWN)


def log_in(client: TestClient, path: str = "/") -> Any:
    return client.get(path, params={"key": SECRET})


def test_nobody_is_let_in_without_the_secret_and_is_told_where_it_is(client: TestClient) -> None:
    for method, path in (("GET", "/"), ("POST", "/api/x"), ("GET", "/?key=guessed"), ("GET", "/api/healthy")):
        answer = client.request(method, path)
        assert answer.status_code == 401
        assert answer.text.startswith("log in first: open the address with ?key= that `juicer ui` has printed")


def test_whether_the_server_is_there_is_no_secret(client: TestClient) -> None:
    assert client.get("/api/health", headers={"Host": "any"}).text == "inside "
    assert client.post("/api/health").status_code == 401


def test_the_printed_address_logs_a_browser_in_and_is_left_for_one_without_the_key(client: TestClient) -> None:
    answer = client.get("/runs", params={"key": SECRET, "page": "2"})
    assert answer.text.endswith('content="0;url=/runs?page=2">')
    assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
    assert SECRET not in answer.text + str(answer.headers)
    assert client.get("/runs?page=2").text == "inside page=2"
    assert client.post("/api/x", headers={"Origin": OWN}).status_code == 200


def test_the_page_that_logs_in_leads_to_no_other_server(client: TestClient) -> None:
    assert 'url=/evil.example/%22">' in log_in(client, f'{OWN}//evil.example/"').text


def test_programs_are_let_in_by_basic_credentials(client: TestClient) -> None:
    assert client.post("/api/x", auth=("juicer", SECRET)).status_code == 200
    assert client.post("/api/x", auth=("juicer", "guessed")).status_code == 401
    assert client.post("/api/x", auth=("somebody", SECRET)).status_code == 401
    for wrong in ("Basic", "Basic ä", "Bearer x", "Basic \udc80"):
        assert client.post("/api/x", headers={"Authorization": wrong.encode("utf-8", "replace")}).status_code == 401


@pytest.mark.parametrize("origin", [OTHER, "http://localhost:4200", "https://evil.example", "null", ""])
def test_a_page_of_another_origin_is_refused_with_the_cookie_and_with_the_credentials(client, origin):
    log_in(client)
    assert client.post("/api/x", headers={"Origin": origin}).status_code == 403
    assert client.post("/api/x", headers={"Origin": origin}, auth=("juicer", SECRET)).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_origin_can_link_to_here_but_use_nothing_of_it(client: TestClient, site: str) -> None:
    log_in(client)
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/api/x", headers=headers).status_code == 403
    assert client.get("/", headers=headers | {"Sec-Fetch-Mode": "navigate"}).status_code == 200
    assert client.post("/api/x", headers=headers | {"Sec-Fetch-Mode": "navigate"}).status_code == 403


@pytest.mark.parametrize("host", ["evil.example:4200", "127.0.0.1", "127.0.0.1:9999", "localhost:4200", ""])
def test_a_name_that_somebody_has_pointed_here_is_refused(client: TestClient, host: str) -> None:
    answer = client.get("/", headers={"Host": host, "Origin": f"http://{host}"}, auth=("juicer", SECRET))
    assert (answer.status_code, answer.text) == (403, f"this server is not called so; it is {HOST}\n")


def test_the_cookie_of_one_server_is_none_of_another_with_the_same_secret(client: TestClient) -> None:
    cookie = log_in(client).headers["set-cookie"].split(";")[0]
    other = TestClient(Gate(client.app, SECRET, ["127.0.0.1:5000"]), base_url="http://127.0.0.1:5000")
    assert cookie.startswith("juicer_4200=")
    for stolen in (cookie, cookie.replace("4200", "5000")):
        assert other.get("/", headers={"Cookie": stolen}).status_code == 401


def said(client: TestClient, token: object, protocols: list[str] | None = None, **headers: str) -> str:
    """What a WebSocket answers to a first message."""
    path, protocols = "/api/events/out", ["prefect"] if protocols is None else protocols
    # The test client's own way to say the host: of Starlette's, the header is that of the address.
    with client.websocket_connect(f"ws://{HOST}{path}", subprotocols=protocols, headers=headers) as websocket:
        websocket.send_text(json.dumps({"type": "auth", "token": token}))
        return websocket.receive_text()


def test_a_websocket_of_a_program_is_let_in_by_its_first_message(client: TestClient) -> None:
    assert said(client, f"juicer:{SECRET}") == "inside"
    for wrong in ("guessed", "", None, 3):
        with pytest.raises(WebSocketDisconnect):
            said(client, wrong)
    with pytest.raises(WebSocketDisconnect):
        said(client, f"juicer:{SECRET}", protocols=[])


def test_a_websocket_of_a_page_needs_the_cookie_and_our_origin(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect):
        said(client, f"juicer:{SECRET}", Origin=OWN)
    log_in(client)
    assert said(client, None, Origin=OWN) == "inside"
    with pytest.raises(WebSocketDisconnect):
        said(client, None, Origin=OTHER)


@pytest.mark.parametrize(("secret", "hosts"), [("", [HOST]), (SECRET, []), (SECRET, [" "])])
def test_there_is_no_gate_without_a_secret_or_without_a_host(client, secret, hosts):
    with pytest.raises(ValueError, match="a gate needs a secret"):
        Gate(client.app, secret, hosts)


# MLflow's own use of SQLAlchemy.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_mlflow_still_starts_its_processes_where_the_gate_takes_hold() -> None:
    from mlflow import server

    assert server._build_uvicorn_command("", "h", 1, 1, "a:b", None, True)[-2:] == ["--factory", "a:b"]


def test_the_page_that_logs_a_browser_in_may_say_more_than_go_on() -> None:
    application = Starlette(routes=[Route("/", page)])
    welcomed = TestClient(Gate(application, SECRET, [HOST], "<i>welcome</i>"), base_url=OWN)
    assert "<i>welcome</i>" in welcomed.get(f"/?key={SECRET}").text
    assert "welcome" not in welcomed.get("/").text


def test_mlflows_pages_begin_with_model_training_unless_the_user_chose_something_else() -> None:
    assert 'localStorage.setItem("mlflow.workflowType_v1", \'"machine_learning"\')' in TRAINING
    assert TRAINING.index("if (!localStorage.getItem") < TRAINING.index("localStorage.setItem")
