"""What a Prefect server needs besides the deployments: work pools, the limit on GPUs, automations.

python -m flows.setup --gpus 2        # on the server that PREFECT_API_URL names; `juicer ui` does it for its own
"""

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows.execute import GPU
from flows.remote import POOL
from flows.server import check_server
from juicer.runtime.command import guarded
from juicer.runtime.files import read_json, read_yaml
from juicer.stages.gpus import gpus_of_machine

AUTOMATIONS = Path(__file__).with_name("automations.yaml")
DOCKER_POOL = Path(__file__).resolve().parents[1] / "docker" / "work-pool.json"
GPUS_HELP = (
    "GPUs that stages may hold at the same time; left out, the server's limit stays, at first those of this machine"
)


def set_up(gpus: int | None = None) -> int:
    """Create what is missing on the server and keep what users changed there. Returns the limit on GPUs.

    Args:
        gpus: how many GPUs stages may hold at the same time, on all workers together; None keeps the server's limit,
            which is at first the number of GPUs of this machine, or 1.
    """
    with get_client(sync_client=True) as client:
        for name in ("process", POOL):
            ensure_pool(client, name, "process", ProcessWorker.get_default_base_job_template())
        ensure_pool(client, "docker", "docker", read_json(DOCKER_POOL))
        for wanted in read_yaml(AUTOMATIONS)["automations"]:
            ensure_automation(client, AutomationCore.model_validate(wanted))
        return ensure_limit(client, gpus)


def ensure_pool(client: SyncPrefectClient, name: str, kind: str, template: dict[str, Any]) -> None:
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))


def ensure_limit(client: SyncPrefectClient, gpus: int | None) -> int:
    if gpus is None:
        with suppress(ObjectNotFound):
            return client.read_global_concurrency_limit_by_name(GPU).limit
        gpus = max(1, len(gpus_of_machine()))
    client.upsert_global_concurrency_limit_by_name(GPU, gpus)
    return gpus


def ensure_automation(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    """Update an automation. One that is up to date is left alone: an update would reset the runs that it tracks."""
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        return
    wanted.enabled = found[0].enabled
    if AutomationCore.model_validate(found[0].model_dump()) != wanted:
        client.update_automation(found[0].id, wanted)


def schedule_state(deployment: str, slug: str) -> dict[str, bool]:
    """A step of prefect.yaml: whether a deployment's schedule is active on the server; a new one is not."""
    with get_client(sync_client=True) as client, suppress(ObjectNotFound):
        found = client.read_deployment_by_name(deployment).schedules
        return {"active": any(each.slug == slug and each.active for each in found)}
    return {"active": False}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.setup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", type=int, help=GPUS_HELP)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args()

    def work() -> None:
        check_server()
        limit = set_up(given.gpus)
        print(f"work pools process, {POOL} and docker, limit {GPU} = {limit}, automations: ready")

    sys.exit(guarded(work, debug=given.debug, name="setup"))


if __name__ == "__main__":
    main()
