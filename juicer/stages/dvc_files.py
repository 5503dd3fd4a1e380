"""dvc.lock: which stage made each output, from which inputs, and their md5s."""

import hashlib
import io
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from juicer.runtime.files import md5_of_file, read_yaml
from juicer.stages.words import resolved

JUDGED_BY = ("seed", "template", "scorer", "evaluation")
"""Parameters that decide what an evaluation measures. The device is not among them: it changes the last digits only."""


@dataclass(frozen=True)
class DvcLock:
    """The content of a dvc.lock."""

    path: Path
    stages: dict[str, Any]
    producers: dict[str, str]
    """Maps each output path to the stage that makes it."""

    @classmethod
    def read(cls, path: Path) -> "DvcLock":
        """Read `path`.

        Raises:
            InputError: the file does not exist or is not YAML.
        """
        stages: dict[str, Any] = read_yaml(path).get("stages", {})
        return cls(path, stages, {out["path"]: name for name, stage in stages.items() for out in stage.get("outs", [])})

    def upstream(self, stage: str) -> list[str]:
        """The stage and all that it depends on, in the order of dvc.lock."""
        found, todo = set[str](), [stage]
        while todo:
            name = todo.pop()
            if name in found:
                continue
            found.add(name)
            for dependency in self.stages[name].get("deps", []):
                place = Path(dependency["path"])
                # A stage may depend on one file of another stage's output folder.
                todo += [self.producers[str(each)] for each in (place, *place.parents) if str(each) in self.producers]
        return [name for name in self.stages if name in found]

    def md5(self, path: str) -> str | None:
        """The md5 of an output, None if no stage makes it."""
        producer = self.producers.get(path)
        if producer is None:
            return None
        return next(str(out["md5"]) for out in self.stages[producer]["outs"] if out["path"] == path)

    def argument(self, stage: str, option: str) -> str | None:
        """The value of `option` in the stage's command, None if the command does not have it.

        What a word stands for (juicer/stages/words.py) is among the stage's parameters.
        """
        locked = self.stages[stage]
        values = {key: value for params in locked.get("params", {}).values() for key, value in params.items()}
        words = shlex.split(locked["cmd"])
        if option not in words[:-1]:
            return None
        return resolved([words[words.index(option) + 1]], stage, values.__getitem__)[0]

    def evaluated_on(self, stage: str) -> str:
        """One md5 for all that an evaluation stage judges by: prompts, scorer and parameters, but not the policy.

        Figures of two models can be compared if this is the same for both.
        """
        read = {dependency["path"]: dependency.get("md5") for dependency in self.stages[stage].get("deps", [])}
        judged = {option: read.get(self.argument(stage, option) or "") for option in ("--data", "--scorer")}
        for values in self.stages[stage].get("params", {}).values():
            judged |= {key: values[key] for key in JUDGED_BY if key in values}
        return hashlib.md5(json.dumps(judged, sort_keys=True).encode(), usedforsecurity=False).hexdigest()

    def part(self, stages: list[str]) -> str:
        """A dvc.lock of some of the stages, as text."""
        text = io.StringIO()
        yaml = YAML()
        yaml.default_flow_style = False
        yaml.dump({"schema": "2.0", "stages": {name: self.stages[name] for name in stages}}, text)
        return text.getvalue()


def md5_of(path: Path) -> str:
    """The md5 that DVC gives to a file, or to a folder (it ends in ".dir").

    In a DVC project, files that the project's .dvcignore lists are left out of a folder, as DVC leaves them out.

    Raises:
        OSError: there is nothing at `path`.
    """
    if not path.is_dir():
        return md5_of_file(path)
    from dvc.fs import LocalFileSystem
    from dvc.ignore import DvcIgnoreFilter
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB

    folder, disk = path.absolute(), LocalFileSystem()
    project = next((each for each in folder.parents if (each / ".dvc").is_dir()), folder)
    nowhere = HashFileDB(disk, str(project / ".dvc/tmp"))  # a dry run writes nothing there
    ignore = DvcIgnoreFilter(disk, str(project))
    _, _, built = build(nowhere, str(folder), disk, "md5", dry_run=True, ignore=ignore)
    return str(built.hash_info.value)
