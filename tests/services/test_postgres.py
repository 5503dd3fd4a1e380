"""MLflow on Postgres, as docker/compose.yaml has it: what is registered and promoted there, in a cluster of its own."""

import getpass
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from mlflow import MlflowClient

from juicer.registry.promote import promote, roll_back
from juicer.registry.versions import open_registry
from tests.servers import free_port
from tests.shared import copied
from tests.small_pipeline import ROOT, register

# MLflow's own use of SQLAlchemy, and of type hints; nothing we could mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
]


def program(name: str) -> str | None:
    """Where one of Postgres's programs is; Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@pytest.fixture
def uri() -> Iterator[str]:
    """A store in a Postgres of its own, on the loopback interface."""
    initdb, postgres = program("initdb"), program("postgres")
    missing = "Postgres" if initdb is None or postgres is None else "psycopg2" if find_spec("psycopg2") is None else ""
    if missing and "CI" not in os.environ:
        pytest.skip(f"{missing} is not installed here")
    assert initdb and postgres and not missing
    import psycopg2

    with tempfile.TemporaryDirectory() as folder:
        user = "nobody" if os.getuid() == 0 else getpass.getuser()  # Postgres refuses to run as root
        shutil.chown(folder, user)
        port = free_port()
        create = [initdb, "--pgdata", f"{folder}/data", "--username", "juicer", "--auth", "trust", "--no-sync"]
        subprocess.run(create, user=user, cwd=folder, check=True, capture_output=True)
        serve = [postgres, "-D", f"{folder}/data", "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-c", "fsync=off"]
        with Path(folder, "log").open("w") as log:
            process = subprocess.Popen(serve, user=user, cwd=folder, stdout=log, stderr=log)
        try:
            address = f"postgresql+psycopg2://juicer:secret@127.0.0.1:{port}/postgres"
            while True:
                try:
                    psycopg2.connect(address.replace("+psycopg2", "")).close()
                    break
                except psycopg2.OperationalError:
                    assert process.poll() is None, Path(folder, "log").read_text()
                    time.sleep(0.1)
            yield address
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait()


def test_what_is_registered_there_stays_the_same_and_can_be_promoted_and_rolled_back(
    uri: str, small_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(small_pipeline, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    said = register(tmp_path)
    assert "(8 runs and 3 versions are new)" in said
    assert "secret" not in said
    assert "(0 runs and 0 versions are new)" in register(tmp_path)

    client = MlflowClient(uri)
    with open_registry(uri) as registry:
        for number in ("3", "2"):
            promote(registry, registry.find(f"models:/quickstart/{number}"), ROOT / "mlflow/promotion.yaml")
        places = client.get_registered_model("quickstart").aliases
        assert {name: str(version) for name, version in places.items()} == {
            "challenger": "2", "champion": "2", "previous": "3",
        }  # fmt: skip
        roll_back(registry, "quickstart")
    assert str(client.get_registered_model("quickstart").aliases["champion"]) == "3"
