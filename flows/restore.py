"""Bring back the exact weights, data and code of a registered version.

python -m flows.restore models:/quickstart/7
python -m flows.restore models:/quickstart@champion --into /tmp/champion --everything
"""

import argparse
import sys
from pathlib import Path

from juicer.registry.store import project_uri
from juicer.runtime.command import guarded


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.restore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version", help="models:/NAME/VERSION or models:/NAME@ALIAS")
    parser.add_argument("--into", type=Path, help="folder to make, default restored/NAME-VERSION")
    parser.add_argument(
        "--everything", action="store_true", help="also every model that led to it, to go on from there"
    )
    parser.add_argument("--commit", help="take the code from this commit, not from the one of the version")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args()

    def work() -> None:
        from juicer.registry.restore import restore
        from juicer.registry.versions import open_registry

        with open_registry(project_uri()) as registry:
            version = registry.find(given.version)
            into = given.into or Path("restored") / f"{version.name}-{version.number}"
            print(restore(registry, version, into, commit=given.commit, everything=given.everything))

    sys.exit(guarded(work, debug=given.debug, name="restore"))


if __name__ == "__main__":
    main()
