"""The CPU image, built here, and the flow `align` in containers of it through Prefect's docker work pool.

Takes ten minutes and some gigabytes, and what it tests seldom changes: `make test-docker` runs it, CI does not.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.docker_engine import Engine, NoEngine, engine
from tests.services.conftest import Services, worker
from tests.tiny_graph import call, commit, make

pytestmark = pytest.mark.skipif(
    "JUICER_TEST_DOCKER" not in os.environ, reason="takes minutes: make test-docker runs it"
)

IMAGE = "juicer-test:cpu"
OWNER = 1000
RUN = "io.prefect.flow-run-id"
"""Label by which the worker says what a container is for."""
STAGES = """
  broken:
    cmd: >-
      python -c "import sys; sys.exit('error: the input is broken')"
    always_changed: true
  hungry:
    cmd: python -c "print(len(b'1' * 2_000_000_000), 'bytes')"
    deps: [models/world]
    always_changed: true
"""
TINY = [
    "pretrain.policy={hidden_size: 32, layers: 1, heads: 2, documents: 400, vocabulary: 500}",
    "pretrain.scorer={hidden_size: 16, layers: 1, heads: 2, pairs: 100}",
]


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    try:
        with engine(tmp_path_factory.mktemp("docker")) as found:
            yield found
    except NoEngine as error:
        pytest.fail(f"no Docker engine: {error}", pytrace=False)


@pytest.fixture(scope="module")
def image(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of the image."""
    return docker.build(ROOT / "docker/cpu.Dockerfile", IMAGE, tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with its own graph and two more stages, in the hands of the image's user."""
    folder = make(tmp_path_factory.mktemp("checkout"))
    before, plots = (ROOT / "dvc.yaml").read_text().split("\n# The figures of the report once more")
    (folder / "dvc.yaml").write_text(before + STAGES + plots[plots.index("\n") :])
    commit(folder)
    if os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            shutil.chown(path, OWNER, OWNER)
    return folder


@pytest.fixture(scope="module")
def pool(services: Services, docker: Engine, image: str, checkout: Path, tmp_path_factory) -> Iterator[Services]:
    """A worker of the pool `docker`, and the deployment `align/docker` with the checkout mounted."""
    owner = checkout.stat()
    variables: dict[str, Any] = {
        "image": IMAGE, "image_pull_policy": "Never", "volumes": [f"{checkout}:/juicer"],
        "user": f"{owner.st_uid}:{owner.st_gid}", "auto_remove": False,
    }  # fmt: skip
    deploy = ["prefect", "--no-prompt", "deploy", "flows/align.py:align", "--name", "docker", "--pool", "docker"]
    call(services.folder, *deploy, "--job-variable", json.dumps(variables), **services.variables())
    home = tmp_path_factory.mktemp("worker")
    with worker(services, "docker", home, home, DOCKER_HOST=docker.host):
        yield services


def run(pool: Services, stage: str, **variables: str) -> str:
    """Run one stage in a container, with other variables of the pool; returns the flow run's id."""
    return pool.start("align/docker", variables, from_stage=stage, until_stage=stage)


def container(docker: Engine, flow_run: str) -> dict[str, Any]:
    """What the engine knows of a flow run's one container."""
    (found,) = docker("ps", "--all", "--quiet", "--filter", f"label={RUN}={flow_run}").split()
    return dict(json.loads(docker("inspect", found))[0])


def test_stages_run_in_a_container_of_the_image_that_was_built(pool, docker, image, checkout):
    flow_run = pool.start("align/docker", recipe="quickstart", overrides=TINY, until_stage="hungry")
    assert pool.ended(flow_run)["type"] == "COMPLETED", pool.logs(flow_run)
    results = {name: each["state"]["name"] for name, each in pool.stages(flow_run).items()}
    assert results == {"pretrain@world": "Ran", "hungry": "Ran"}

    used = container(docker, flow_run)
    assert used["Image"] == image
    assert used["Config"]["Labels"][RUN] == flow_run
    assert used["HostConfig"]["NetworkMode"] == "host"
    made = checkout / "models/world/policy/model.safetensors"
    assert made.stat().st_uid == checkout.stat().st_uid != 0
    # The same by hand, as docs/docker.md has it.
    by_hand = ["--user", used["Config"]["User"], "--volume", f"{checkout}:/juicer", IMAGE, "dvc", "status", "pretrain"]
    assert docker("run", "--rm", "--network", "host", *by_hand) == "Data and pipelines are up to date."


def test_an_image_that_is_not_there_crashes_the_run(pool, docker):
    flow_run = run(pool, "broken", image="juicer-test:missing")
    state = pool.ended(flow_run)
    assert state["type"] == "CRASHED"
    assert "No such image: juicer-test:missing" in state["message"]
    assert docker("ps", "--all", "--quiet", "--filter", f"label={RUN}={flow_run}") == ""


def test_a_stage_that_fails_fails_the_run_in_its_own_words(pool, docker):
    flow_run = run(pool, "broken")
    state = pool.ended(flow_run)
    assert state["type"] == "FAILED"
    assert "error: the input is broken" in state["message"]
    assert container(docker, flow_run)["State"]["ExitCode"] == 0  # so nobody may go by that


def test_a_stage_that_needs_more_memory_than_it_may_have_fails_the_run(pool, docker):
    flow_run = run(pool, "hungry", mem_limit="1500m")
    state = pool.ended(flow_run)
    assert state["type"] == "FAILED"
    assert "hungry failed" in state["message"] and "exited with 137" in state["message"]
    assert container(docker, flow_run)["HostConfig"]["Memory"] == 1500 * 1024**2
