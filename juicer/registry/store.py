"""A connection to MLflow's store: quiet, with few retries and one-line errors."""

import json
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from juicer.registry.database import prepare, sqlite_file
from juicer.registry.reach import unreachable
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml
from juicer.runtime.libraries import require
from juicer.settings.models import RegisterSettings

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from juicer.evaluation.results import ShownSample


SAMPLES = "samples.json"
METRICS_PER_REQUEST, PARAMS_PER_REQUEST, LONGEST_PARAM = 1000, 100, 6000
RESULTS = ("held_out/", "validation/", "leaderboard/")
"""What the metrics that an evaluation is made for begin with; others say what it cost."""
VARIABLE, TIMEOUT = "MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_TIMEOUT"
SECRET = re.compile(r"(password|passwd|pwd|passphrase|secret|token|api_?key)=[^&\s]*", re.IGNORECASE)
"""Query parameters of an address that may hold a password; their names may have a prefix."""


@contextmanager
def connect(uri: str) -> Iterator["MlflowClient"]:
    """A client of the store at `uri`; a SQLite store is created if it does not exist.

    Raises:
        InputError: MLflow cannot be reached or refuses, here or in the body.
    """
    # Do not wait minutes for a server, and send no telemetry.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault(TIMEOUT, "20")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    require("mlflow")
    shown = without_password(uri)
    if why := unreachable(uri):  # asked before MLflow is imported, which takes seconds
        do = "start it, or name another store: MLFLOW_TRACKING_URI or register.tracking_uri"
        raise InputError(f"MLflow's store cannot be reached: {without_password(why)}", where=shown, do=do)
    import mlflow
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if sqlite_file(uri):
            prepare(uri)
        before = os.environ.get(VARIABLE)
        # MLflow caches its connections by this address: a relative one would stay that of the first folder.
        mlflow.set_tracking_uri(absolute(uri))
        # It also sets the environment variable, so a process started in another folder would use this store.
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before
        yield mlflow.MlflowClient()
    except (MlflowException, RequestException) as error:
        raise InputError(f"MLflow refuses: {_first_line(error)}", where=shown) from error
    except ModuleNotFoundError as error:
        do = "pip install -e '.[team]'; for Postgres write postgresql+psycopg2://USER:PASSWORD@HOST/NAME"
        raise InputError(f"the store needs {error.name}, which is not installed", where=shown, do=do) from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise InputError(f"MLflow's store fails: {_first_line(error)}", where=shown) from error


def project_uri(params: Path = Path("params.yaml")) -> str:
    """The store of the active recipe: MLFLOW_TRACKING_URI, else the recipe's register.tracking_uri."""
    return os.environ.get(VARIABLE) or _settings(params).tracking_uri


def absolute(uri: str) -> str:
    """The URI of a store as a process in another folder needs it: a SQLite file by its whole path."""
    file = sqlite_file(uri)
    return f"sqlite:///{file.absolute()}" if file else uri


def project_model(params: Path = Path("params.yaml")) -> str:
    """The registered model of the active recipe."""
    return _settings(params).model_name or str(read_yaml(params)["name"])


def without_password(text: str) -> str:
    """The text without user and password of an address, and with *** for passwords in its query."""
    # A password may contain / and @, so everything up to the last @ is removed.
    return SECRET.sub(r"\1=***", re.sub(r"//\S*@", "//", text))


@contextmanager
def time_to_upload() -> Iterator[None]:
    """Let one request in the block take 10 minutes: a server may take long to store weights before it answers."""
    before = os.environ[TIMEOUT]
    os.environ[TIMEOUT] = str(max(600, int(before)))
    try:
        yield
    finally:
        os.environ[TIMEOUT] = before


def every_page(search: Any, **query: Any) -> Iterator[Any]:
    """All results of one of MLflow's paged searches."""
    token = None
    while True:
        page = search(**query, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def runs_of(uri: str, experiment: str) -> tuple[str, list[tuple[str, str, str]]]:
    """The experiment's id and its runs, oldest first: name, id and status. No runs if there is no such experiment.

    Raises:
        InputError: MLflow cannot be reached or refuses.
    """
    with connect(uri) as client:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return "", []
        number, order = str(found.experiment_id), ["attributes.start_time ASC"]
        runs = every_page(client.search_runs, experiment_ids=[number], order_by=order)
        return number, [(str(run.info.run_name), str(run.info.run_id), str(run.info.status)) for run in runs]


@dataclass(frozen=True)
class Measured:
    """What the metrics of an evaluation belong to, besides its run: MLflow's Models tab compares models by them."""

    logged_model: str
    """Id of the model that was evaluated."""
    data: tuple[str, str] | None = None
    """Path and md5 of the data that it was evaluated on."""


def log_points(
    client: "MlflowClient",
    run: str,
    points: Sequence[tuple[str, float, float, int]],
    measured: Measured | None = None,
) -> None:
    """Log any number of points.

    Args:
        points: name, value, seconds since the epoch, step.
        measured: what the results of an evaluation belong to besides the run.
    """
    from mlflow.entities import Metric

    of_model: dict[str, str] = {"model_id": measured.logged_model} if measured else {}
    if measured and measured.data:
        of_model["dataset_name"], of_model["dataset_digest"] = measured.data
    metrics = [
        Metric(name, value, int(1000 * at), step, **(of_model if name.startswith(RESULTS) else {}))
        for name, value, at, step in points
    ]
    for start in range(0, len(metrics), METRICS_PER_REQUEST):
        client.log_batch(run, metrics=metrics[start : start + METRICS_PER_REQUEST])


def log_params(client: "MlflowClient", run: str, values: dict[str, str]) -> None:
    """Log any number of parameters of any length."""
    from mlflow.entities import Param

    params = [Param(name, value[:LONGEST_PARAM]) for name, value in values.items()]
    for start in range(0, len(params), PARAMS_PER_REQUEST):
        client.log_batch(run, params=params[start : start + PARAMS_PER_REQUEST])


def log_samples(client: "MlflowClient", run: str, samples: "Sequence[ShownSample]") -> None:
    """Log samples as an MLflow table, in the format of `log_table`, which warns in MLflow 3.17 with pandas 3."""
    rows = [sample.as_json() for sample in samples]
    columns = list(rows[0])
    client.log_dict(run, {"columns": columns, "data": [[row[each] for each in columns] for row in rows]}, SAMPLES)
    client.set_tag(run, "mlflow.loggedArtifacts", json.dumps([{"path": SAMPLES, "type": "table"}]))


def _settings(params: Path) -> RegisterSettings:
    return RegisterSettings.parse(read_yaml(params).get("register") or {}, f"{params}: register")


def _first_line(error: Exception) -> str:
    return without_password(str(error).splitlines()[0])
