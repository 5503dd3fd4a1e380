"""Whether MLflow's store answers at all, asked once before MLflow would ask again and again for minutes."""

import os
import threading
from concurrent.futures import Future

SECONDS_TO_CONNECT, SECONDS_TO_ANSWER, SECONDS_IN_ALL = 5.0, 8.0, 10.0
QUESTION = "/api/2.0/mlflow/experiments/search"
"""A cheap request that reads MLflow's database; /health answers where that hangs."""
DATABASES = ("postgresql", "mysql", "mssql", "oracle")


def unreachable(uri: str) -> str:
    """Why a server or a database gives no answer within 10 s, or refuses the connection, in words that may hold a
    password; empty if it answers, and for stores in files, which are not asked."""
    if uri.startswith(("http://", "https://")):
        ask = _ask_server
    elif uri.startswith(DATABASES):
        ask = _ask_database
    else:
        return ""
    answer = Future[str]()

    def work() -> None:
        try:
            answer.set_result(ask(uri))
        except BaseException as error:
            answer.set_exception(error)

    # Resolving a name, and some databases, have no time-out; such a thread does not keep the process alive.
    threading.Thread(target=work, daemon=True).start()
    try:
        return answer.result(SECONDS_IN_ALL)
    except TimeoutError:
        return f"no answer within {SECONDS_IN_ALL:.0f} s"


def _ask_server(uri: str) -> str:
    """Why the server cannot be reached; any answer, be it a refusal, is for MLflow's client to judge."""
    import requests

    token, user = os.environ.get("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        requests.get(
            uri.rstrip("/") + QUESTION,
            params={"max_results": 1},
            headers=headers,
            auth=(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
            timeout=(SECONDS_TO_CONNECT, SECONDS_TO_ANSWER),
            allow_redirects=False,
        )
    except requests.exceptions.SSLError:
        return ""  # it answers; MLflow has settings of its own for certificates
    except requests.ReadTimeout:
        return f"it accepts connections, but does not answer within {SECONDS_TO_ANSWER:.0f} s"
    except requests.ConnectTimeout:
        return f"no connection within {SECONDS_TO_CONNECT:.0f} s"
    except requests.ConnectionError as error:
        return _cause(error)
    except requests.RequestException:
        return ""
    return ""


def _ask_database(uri: str) -> str:
    """Why no connection can be opened; a driver that is missing is for MLflow's client to report."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    os.environ.setdefault("PGCONNECT_TIMEOUT", f"{SECONDS_TO_CONNECT:.0f}")
    try:
        engine = create_engine(uri)
    except (ImportError, SQLAlchemyError):
        return ""
    try:
        engine.connect().close()
    except SQLAlchemyError as error:
        return _cause(error)
    finally:
        engine.dispose()
    return ""


def _cause(error: BaseException) -> str:
    """What the system said, which the libraries wrap in errors of their own."""
    inner = getattr(error, "orig", None) or error.__cause__ or error.__context__
    return _cause(inner) if inner else str(error).partition("\n")[0]
