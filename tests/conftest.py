"""What every test runs under: few threads, no network, and a fresh project folder for those that want one."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.shared import made_once

# Before any test imports torch or a Hugging Face library.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
# A stage that takes longer than a minute, as on a busy machine, starts a process with MLflow, which makes it longer.
os.environ["JUICER_LIVE_SECONDS"] = "3600"
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
    os.environ.pop(name, None)

# A shell ignores it in what it starts in the background, and who is started while it is ignored cannot be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ["services", "pipeline", "unit"]
"""Of the tests, in the order in which several workers take them: the longest first, so that none ends alone."""
SHARING = {f"tests/services/test_{name}.py" for name in ("align", "gpu", "machines")}
"""Files whose tests share running services."""
MEMORY = 3 * 2**30
"""Bytes that a worker and all that its tests start take at most."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many workers `-n auto` means: one for each core, as far as the free memory allows."""
    return max(1, min(len(os.sched_getaffinity(0)), psutil.virtual_memory().available // MEMORY))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker whole files, in the order of FOLDERS, and one of them all that share the services."""
    from xdist.scheduler import LoadFileScheduling

    class ByWhatIsShared(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "services" if file in SHARING else file

    config.option.loadscopereorder = False
    return ByWhatIsShared(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests for several workers."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: FOLDERS.index(item.path.parent.name))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(autouse=True)
def no_store_for_the_next_test() -> Iterator[None]:
    """MLflow writes the store that it is told into the environment, where the next test would find it."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


@contextmanager
def signals_restored() -> Iterator[None]:
    """A stage that ran in this process keeps its signals: the first one that came would end the process 15 s later."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def no_handlers_for_the_next_test() -> Iterator[None]:
    """Signals are handled as before, whatever a test ran in this process."""
    with signals_restored():
        yield


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project's files (code, graph, recipes, DVC settings; no data), made the working directory."""
    for name in ("juicer", "tasks", "recipes"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, made once: that takes longer than all else that these tests do."""

    def make(folder: Path) -> None:
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()

    return made_once(tmp_path_factory, "empty-store", make) / "mlflow.db"


@pytest.fixture(scope="session")
def small_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline of tests/small_pipeline.py, which has run; change a copy of it."""
    from tests.small_pipeline import make_project

    return made_once(tmp_path_factory, "small-pipeline", make_project)


@pytest.fixture(scope="session")
def finished_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline of tests/finished_pipeline.py, which has run; change a copy of it."""
    from tests.finished_pipeline import make_finished

    return made_once(tmp_path_factory, "finished-pipeline", make_finished)
