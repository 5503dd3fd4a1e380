"""What a Prefect server has to know besides the deployments: work pools, the limit on GPUs, automations.

python -m flows.setup --gpus 2        # on the server that PREFECT_API_URL names; `make ui` does it for its own
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.workers.process import ProcessWorker

from flows.errand import POOL
from flows.run import GPU
from flows.server import check_server
from tasks.stage import guarded, read_json, read_yaml

AUTOMATIONS = Path(__file__).with_name("automations.yaml")
DOCKER_POOL = Path(__file__).resolve().parents[1] / "docker" / "work-pool.json"


def set_up(gpus: int) -> None:
    """Create what is missing on the server and bring the rest up to date.

    Args:
        gpus: how many stages may hold a GPU at the same time, on all workers together.
    """
    with get_client(sync_client=True) as client:
        for name in ("process", POOL):
            ensure_pool(client, name, "process", ProcessWorker.get_default_base_job_template())
        ensure_pool(client, "docker", "docker", read_json(DOCKER_POOL))
        client.upsert_global_concurrency_limit_by_name(GPU, gpus)
        for wanted in read_yaml(AUTOMATIONS)["automations"]:
            for old in client.read_automations_by_name(wanted["name"]):
                client.delete_automation(old.id)
            Automation.model_validate(wanted).create()


def ensure_pool(client: SyncPrefectClient, name: str, kind: str, template: dict[str, Any]) -> None:
    client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template), overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.setup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", type=int, default=1, help="stages that may hold a GPU at the same time, default 1")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args()

    def work() -> None:
        check_server()
        set_up(given.gpus)
        print(f"work pools process, {POOL} and docker, limit {GPU} = {given.gpus}, automations: ready")

    sys.exit(guarded(work, debug=given.debug, name="setup"))


if __name__ == "__main__":
    main()
