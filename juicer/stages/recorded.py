"""Whether DVC recorded what a stage read.

DVC looks at parameters, inputs and code once more after the stage has ended. What changes in that moment would be
recorded as what made the output. So a stage keeps what it read, until dvc.lock has been compared with it.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from juicer.runtime.errors import InputError
from juicer.runtime.files import replace_text
from juicer.stages.dvc_files import DvcLock
from juicer.stages.reading import Reading

FOLDER = Path(".juicer/read")


def expect(reading: Reading, outputs: Mapping[str, str]) -> None:
    """Keep what a stage read until `compare`.

    Args:
        outputs: md5 of what was made from it, by path.
    """
    if outputs:
        whole = reading.model_copy(update={"outputs": dict(outputs)})
        replace_text(FOLDER / f"{reading.stage}.json", whole.model_dump_json(indent=1) + "\n")


def compare(lock: DvcLock) -> dict[str, list[str]]:
    """The stages of which dvc.lock records something else than they read, with what that is, in words.

    A stage of which it records the same is not compared again.
    """
    wrong = dict[str, list[str]]()
    for path in sorted(FOLDER.glob("*.json")):
        try:
            reading = Reading.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            path.unlink(missing_ok=True)
            continue
        entry = lock.stages.get(reading.stage)
        made = {out["path"]: out.get("md5") for out in entry.get("outs", [])} if entry else {}
        if not reading.outputs.items() <= made.items():
            continue  # DVC has not recorded this output, or another one since
        assert entry is not None
        params = {key: value for values in entry.get("params", {}).values() for key, value in values.items()}
        inputs = {dependency["path"]: dependency.get("md5") for dependency in entry.get("deps", [])}
        if differences := reading.differences(params, inputs):
            wrong[reading.stage] = differences
        else:
            path.unlink(missing_ok=True)
    return wrong


def check(lock: DvcLock) -> None:
    """Raise InputError if dvc.lock records something else than a stage read."""
    for stage, differences in compare(lock).items():
        what = f"{stage} did not read what is recorded of it: {', '.join(differences)}"
        raise InputError(what, where=str(lock.path), do="juicer run removes the entry and runs the stage again")


def forget(stage: str) -> None:
    """Forget what a stage read, once its wrong entry is gone."""
    (FOLDER / f"{stage}.json").unlink(missing_ok=True)
