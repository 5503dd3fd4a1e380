"""Say which registered version is the model that this checkout's summary calls champion: what .ci/promote promotes.

The alias challenger is where the checkout that registered last has pointed it, which may be another one.
"""

import argparse
import sys
from pathlib import Path

from irl.errors import InputError
from tasks.lock import Lock
from tasks.mlflow_store import project_model, project_uri
from tasks.records import LOCK
from tasks.stage import guarded, read_json
from tasks.versions import open_registry

SUMMARY = Path("metrics/summary.json")


def challenger() -> str:
    """models:/NAME/VERSION.

    Raises:
        InputError: there is no summary, or its champion is not registered.
    """
    summary = read_json(SUMMARY)
    name, chosen = project_model(), summary["champion"]["name"]
    path = next(model["path"] for model in summary["models"] if model["name"] == chosen)
    md5 = Lock.read(Path(LOCK)).md5(path)
    with open_registry(project_uri()) as registry:
        version = registry.find_by_md5(name, md5) if md5 else None
    if version is None:
        raise InputError(f"{chosen}, the champion of {SUMMARY}, is no version of {name}", do="dvc repro register")
    return version.uri


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.challenger", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args()
    sys.exit(guarded(lambda: print(challenger()), debug=given.debug, name="challenger"))


if __name__ == "__main__":
    main()
