"""Moving the aliases on a real store, with a mover that dies or a store that goes away at a chosen moment."""

import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from mlflow import MlflowClient

from irl.errors import InputError
from tasks.aliases import Aliases

# MLflow's own use of SQLAlchemy; nothing we could mend.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture
def client(empty_store: Path, tmp_path: Path) -> MlflowClient:
    """A store with a registered model of four versions."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    client.create_registered_model("q")
    for _ in range(4):
        client.create_model_version("q", str(tmp_path))
    return client


def test_of_two_movers_that_find_the_lock_of_a_dead_one_only_one_takes_it(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.aliases.PATIENCE", 0.1)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    client.create_registered_model("q.aliases-moving", {"holder": f"{socket.gethostname()}:{dead.pid}:x"})
    quick, slow, held = Aliases(client, "q"), Aliases(client, "q"), ExitStack()
    look = slow._holder

    def overtaken() -> str | None:
        monkeypatch.setattr(slow, "_holder", look)
        seen = look()
        held.enter_context(quick.locked())
        return seen

    monkeypatch.setattr(slow, "_holder", overtaken)
    with held, pytest.raises(InputError, match=f"{os.getpid()} has been moving the aliases"), slow.locked():
        pass
    with slow.locked():
        pass
