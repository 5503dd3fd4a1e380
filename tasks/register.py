"""Record the active recipe in MLflow: a run per training and evaluating stage, a registered version per round.

It ensures rather than adds: everything is keyed by the md5 that DVC has for it, so a second call adds nothing, and
a stage that was restored from DVC's cache is recorded like one that ran. No weights are copied.
"""

import argparse
from pathlib import Path

from juicer.reporting.contract import Summary
from juicer.settings.models import RegisterSettings
from juicer.stages.stage import Stage, main


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--summary", type=Path, required=True, help="the summary of the report: metrics/summary.json")
    parser.add_argument("--lock", type=Path, default=Path("dvc.lock"), help="DVC's lock file, default dvc.lock")


def run(stage: Stage) -> str:
    from juicer.registry.ensure import ensure
    from juicer.registry.records import check_recorded, collect
    from juicer.registry.store import project_uri
    from juicer.stages.dvc_files import DvcLock

    given, settings, recipe = stage.arguments, stage.read("register", RegisterSettings), stage.value("name")
    wanted = collect(Summary.read(given.summary), given.summary, given.lock, recipe, given.params)
    check_recorded(wanted, DvcLock.read(given.lock))
    return ensure(wanted, project_uri(given.params), settings.experiment or recipe, settings.model_name or recipe)


if __name__ == "__main__":
    main(run, arguments, __doc__)
