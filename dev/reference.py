"""Compare a run of the quickstart with the reference run, output by output; or make it the reference.

python -m dev.reference              # after make repro: does this machine reproduce every output, bit for bit?
python -m dev.reference --update     # in a fresh clone, after make repro: record that run with the change of code

The reference is dev/quickstart.json, and not dvc.lock, so that nobody's run rewrites a file that the next `git pull`
brings. A project's own dvc.lock is the record of its own runs: whoever works in a team commits it. The two are written
differently, or git would take one for the other renamed, and merge a team's record into the reference.
"""

import argparse
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from juicer.recipe.checks import validate
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_json, read_yaml, replace_text
from juicer.stages.dvc_files import LOCK
from juicer.stages.pipeline import declared_stages

REFERENCE = Path(__file__).with_name("quickstart.json")


def stages_of(reference: Path = REFERENCE) -> dict[str, Any]:
    """The entries of the reference run by stage, as dvc.lock has them."""
    stages: dict[str, Any] = read_json(reference)
    return stages


def as_lock(reference: Path = REFERENCE) -> str:
    """The text of the dvc.lock that DVC wrote in the reference run."""
    from dvc.utils.serialize._yaml import _get_yaml

    text = io.StringIO()
    _get_yaml().dump({"schema": "2.0", "stages": stages_of(reference)}, text)
    return text.getvalue()


def differences(reference: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """What differs between the entries of two runs, a line per stage, with whether the stage was given the same."""
    said = []
    for name, entry in reference.items():
        if name not in own:
            said.append(f"{name}: not run here")
            continue
        other = own[name]
        mine, theirs = _files(other, "outs"), _files(entry, "outs")
        if changed := [path for path in theirs if mine.get(path) != theirs[path]]:
            same = _files(other, "deps") == _files(entry, "deps") and other.get("params") == entry.get("params")
            why = "from the same inputs" if same else "from other inputs, parameters or code"
            said.append(f"{name}: other bytes of {', '.join(changed)}, {why}")
    return said


def _files(entry: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {each["path"]: each.get("md5") for each in entry.get(kind, [])}


def compare(lock: Path, reference: Path = REFERENCE) -> tuple[int, list[str]]:
    """The number of stages of the reference, and what differs.

    Raises:
        InputError: there is no run to compare.
    """
    if not lock.is_file():
        raise InputError("there is no run here", where=str(lock), do="make repro")
    known = stages_of(reference)
    return len(known), differences(known, read_yaml(lock).get("stages", {}))


def update(lock: Path, params: Path, reference: Path = REFERENCE) -> str:
    """Make the run in `lock` the reference: its entries of the active recipe's stages.

    Raises:
        InputError: the active recipe is not the quickstart, or a stage has not run.
    """
    values = read_yaml(params)
    if validate(values, str(params)).name != "quickstart":
        raise InputError("the reference is a run of the quickstart", where=str(params), do="juicer run quickstart")
    own, wanted = read_yaml(lock).get("stages", {}), declared_stages(values)
    if missing := [name for name in wanted if name not in own]:
        raise InputError(f"these stages have not run: {', '.join(missing)}", where=str(lock), do="juicer run")
    stages = {name: entry for name, entry in own.items() if name in wanted}
    replace_text(reference, json.dumps(stages, indent=1, ensure_ascii=False) + "\n")
    return f"{reference.name}: {len(wanted)} stages"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dev.reference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--update", action="store_true", help="make this run the reference")
    if parser.parse_args().update:
        print(update(LOCK, Path("params.yaml")))
        return 0
    stages, said = compare(LOCK)
    print("\n".join(said) if said else f"all {stages} stages have the bytes of the reference run")
    return int(bool(said))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
