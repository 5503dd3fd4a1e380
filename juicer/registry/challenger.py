"""Print the registered version of the model that this checkout's summary calls champion: what .ci/promote promotes.

The alias challenger is set by the checkout that registered last, which may be another one.
"""

import argparse
import sys
from pathlib import Path

from juicer.registry.records import LOCK
from juicer.registry.store import project_model, project_uri
from juicer.registry.versions import open_registry
from juicer.reporting.contract import Summary
from juicer.runtime.command import guarded
from juicer.runtime.errors import InputError
from juicer.stages.dvc_files import DvcLock

SUMMARY = Path("metrics/summary.json")


def challenger() -> str:
    """models:/NAME/VERSION.

    Raises:
        InputError: there is no summary, or its champion is not registered.
    """
    summary = Summary.read(SUMMARY)
    name, chosen = project_model(), summary.champion.name
    md5 = DvcLock.read(Path(LOCK)).md5(summary.model(chosen).path)
    with open_registry(project_uri()) as registry:
        version = registry.find_by_md5(name, md5) if md5 else None
    if version is None:
        raise InputError(
            f"{chosen}, the champion of {SUMMARY}, is not registered as a version of {name}", do="dvc repro register"
        )
    return version.uri


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m juicer.registry.challenger", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args()
    sys.exit(guarded(lambda: print(challenger()), debug=given.debug, name="challenger"))


if __name__ == "__main__":
    main()
