"""What DVC does once per stage when it loads dvc.yaml, and the runner once."""

from types import SimpleNamespace
from typing import Any

import pytest
from dvc.fs import get_cloud_fs
from dvc.repo.reproduce import get_subgraph, plan_repro
from networkx import DiGraph

from juicer.running.loading import Collected, FileSystems, Subgraphs


class Counted:
    """DVC's `get_cloud_fs`, counted."""

    def __init__(self) -> None:
        self.asked = list[str]()

    def __call__(self, config: Any, **given: Any) -> Any:
        self.asked.append(given["url"])
        return get_cloud_fs(config, **given)


CONFIG = {"core": {"checksum_jobs": 3}}


@pytest.mark.parametrize("path", ["data/curated", "models/irft/r1/", "/tmp/a b", "dätä/ü.json", "../outside"])
def test_a_local_path_has_the_file_system_that_dvc_gives_it(path):
    found = FileSystems(get_cloud_fs)
    found(CONFIG, url="first")
    assert found(CONFIG, url=path) == get_cloud_fs(CONFIG, url=path)


def test_dvc_is_asked_once_for_local_paths_of_one_configuration():
    counted = Counted()
    found = FileSystems(counted)
    for path in ("a", "b", "c"):
        found(CONFIG, url=path)
    assert counted.asked == ["a"]
    found({"core": {}}, url="d")
    assert counted.asked == ["a", "d"]


def test_settings_of_one_path_are_not_those_of_another():
    found = FileSystems(get_cloud_fs)
    found(CONFIG, url="a")[1]["changed"] = True
    assert "changed" not in found(CONFIG, url="b")[1]


def test_dvc_is_asked_for_remote_paths_and_other_settings():
    counted = Counted()
    found = FileSystems(counted)
    found(CONFIG, url="a")
    found(CONFIG, url="http://host/b")
    found(CONFIG, url="c", jobs=2)
    assert counted.asked == ["a", "http://host/b", "c"]


def test_all_stages_come_from_the_index_in_its_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = [SimpleNamespace(path=str(tmp_path / name)) for name in ("dvc.yaml", "other/dvc.yaml", "dvc.yaml")]
    repo = SimpleNamespace(index=SimpleNamespace(stages=stages))
    collected = Collected(lambda *given, **named: pytest.fail("DVC loaded dvc.yaml again"))
    assert collected(repo, ["dvc.yaml"], recursive=False, glob=False) == [stages[0], stages[2]]


@pytest.mark.parametrize(("targets", "options"), [(["sft"], {}), (["dvc.yaml"], {"glob": True})])
def test_targets_of_the_user_are_left_to_dvc(targets, options):
    asked = list[Any]()
    collected = Collected(lambda repo, targets, **named: asked.append(targets) or [])
    collected(SimpleNamespace(), targets, **options)
    assert asked == [targets]


GRAPH = DiGraph([("report", "b"), ("report", "c"), ("b", "a"), ("c", "a"), ("alone", "d")])


@pytest.mark.parametrize("nodes", [list(GRAPH), ["report"], ["alone", "b"], None, []])
def test_a_subgraph_gives_the_order_that_dvc_gives(nodes):
    found = Subgraphs(get_subgraph)(GRAPH, nodes, pipeline=False, downstream=False)
    expected = get_subgraph(GRAPH, nodes)
    assert list(found) == list(expected)
    assert plan_repro(found) == plan_repro(expected)


def test_what_depends_on_a_stage_is_left_to_dvc():
    found = Subgraphs(get_subgraph)(GRAPH, ["a"], pipeline=False, downstream=True)
    assert set(found) == {"a", "b", "c", "report"}
