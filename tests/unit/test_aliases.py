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
from mlflow.exceptions import MlflowException

from juicer.registry.aliases import Aliases, Places
from juicer.runtime.errors import InputError

# MLflow's own use of SQLAlchemy.
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
    monkeypatch.setattr("juicer.registry.aliases.PATIENCE", 0.1)
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


def places(client: MlflowClient) -> Places:
    return {alias: str(number) for alias, number in client.get_registered_model("q").aliases.items()}


def moved(client: MlflowClient, champion: str) -> None:
    """As a promotion does."""
    aliases = Aliases(client, "q")
    with aliases.locked():
        now = aliases.now()
        earlier = [*aliases.earlier(), now["champion"]] if now else []
        aliases.move({"champion": champion} | ({"previous": now["champion"]} if now else {}), earlier)


def decision(client: MlflowClient) -> str:
    """A run that records a decision, as a promotion leaves it for the move."""
    return str(client.create_run("0", tags={"outcome": "not moved"}).info.run_id)


def test_earlier_champions_are_remembered_in_order_however_often_one_of_them_was_champion(client: MlflowClient) -> None:
    for number in ("3", "2", "3", "1"):
        moved(client, number)
    assert Aliases(client, "q").earlier() == ["3", "2", "3"]


def test_a_move_that_fails_leaves_the_earlier_champions_as_they_were(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in ("1", "2", "3"):
        moved(client, number)
    move = MlflowClient.set_registered_model_alias

    def failing(self: MlflowClient, name: str, alias: str, version: str) -> None:
        if (alias, version) == ("champion", "4"):
            raise MlflowException("gone")
        move(self, name, alias, version)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", failing)
    run, aliases = decision(client), Aliases(client, "q")
    with pytest.raises(InputError, match="champion has not moved"), aliases.locked():
        aliases.move({"champion": "4", "previous": "3"}, ["1", "2", "3"], run)
    assert places(client) == {"champion": "3", "previous": "2"}
    assert aliases.earlier() == ["1", "2"]
    record = client.get_run(run)
    assert (record.data.tags["outcome"], record.info.status) == ("not moved", "FAILED")
    assert "champion_after" not in record.data.tags


@pytest.mark.parametrize("away", ["set_registered_model_tag", "set_tag", "set_terminated"])
def test_a_store_that_goes_away_once_champion_has_moved_gets_list_and_record_from_the_next_mover(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    for number in ("1", "2"):
        moved(client, number)
    run, aliases, works = decision(client), Aliases(client, "q"), getattr(MlflowClient, away)

    def gone(self: MlflowClient, *given: str) -> None:
        if places(client)["champion"] == "3":
            raise MlflowException("gone")
        works(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr("juicer.registry.aliases.PAUSE", 0.0)
        patch.setattr(MlflowClient, away, gone)
        with pytest.raises(InputError, match="completes it if champion had moved"), aliases.locked():
            aliases.move({"champion": "3", "previous": "2"}, ["1", "2"], run)
    assert client.get_run(run).info.status == "RUNNING"
    with aliases.locked():
        assert aliases.earlier() == ["1", "2"]
    record = client.get_run(run)
    assert (record.data.tags["outcome"], record.info.status) == ("moved", "FINISHED")
    assert (record.data.tags["champion_after"], record.data.tags["previous_after"]) == ("3", "2")
    assert client.get_registered_model("q").tags.keys() == {"juicer.earlier_champions"}, "the journal is gone"


def test_a_record_that_somebody_deleted_holds_no_move_up(client: MlflowClient) -> None:
    run, aliases = decision(client), Aliases(client, "q")
    client.delete_run(run)
    with aliases.locked():
        aliases.move({"champion": "1"}, [], run)
    assert places(client) == {"champion": "1"}


def test_aliases_that_were_set_by_hand_leave_the_previous_champion_as_the_only_earlier_one(
    client: MlflowClient,
) -> None:
    for number in ("1", "2", "3"):
        moved(client, number)
    client.set_registered_model_alias("q", "previous", "4")
    assert Aliases(client, "q").earlier() == ["4"]


class Killed(BaseException):
    """Stands for the end of the process: nothing that the mover does on an error happens."""


def cut_short(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, at: str, after: Places, earlier: list[str]
) -> None:
    """Move the aliases, and be killed at one of the requests: to set champion, or to write the list."""

    def killed(self: MlflowClient, *given: str) -> None:
        if given[1] in ("champion", "juicer.earlier_champions"):
            raise Killed
        works(self, *given)

    works = getattr(MlflowClient, at)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, at, killed)
        aliases = Aliases(client, "q")
        with pytest.raises(Killed), aliases.locked():
            aliases.move(after, earlier)


def test_the_order_of_the_moves_alone_would_not_tell_how_a_move_ends_so_that_it_is_written_down_first(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promotion to 4 that is killed before the list, a rollback of 4 that is killed before champion: one state."""

    def history(*champions: str) -> None:
        for alias in ("champion", "previous"):
            client.delete_registered_model_alias("q", alias)
        client.delete_registered_model_tag("q", "juicer.earlier_champions")
        for number in champions:
            moved(client, number)

    def seen() -> tuple[Places, str]:
        return places(client), client.get_registered_model("q").tags["juicer.earlier_champions"]

    history("1", "2", "1")
    cut_short(client, monkeypatch, "set_registered_model_tag", {"champion": "4", "previous": "1"}, ["1", "2", "1"])
    promotion = seen()
    with Aliases(client, "q").locked():
        assert Aliases(client, "q").earlier() == ["1", "2", "1"]
    history("1", "2", "4")
    cut_short(client, monkeypatch, "set_registered_model_alias", {"champion": "2", "previous": "1"}, ["1"])
    assert seen() == promotion
    with Aliases(client, "q").locked():
        assert (places(client), Aliases(client, "q").earlier()) == ({"champion": "4", "previous": "2"}, ["1", "2"])


def test_deleted_versions_are_no_earlier_champions(client: MlflowClient) -> None:
    for number in ("2", "1", "2", "3", "4"):
        moved(client, number)
    client.delete_model_version("q", "1")
    assert Aliases(client, "q").earlier() == ["2", "3"]
