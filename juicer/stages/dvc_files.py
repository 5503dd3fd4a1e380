"""dvc.lock: which stage made each output, from which inputs, and their md5s."""

import hashlib
import io
import json
import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from juicer.recipe.graph import ABSENT
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml, replace_text
from juicer.runtime.yaml_text import parse_yaml
from juicer.stages.git import git
from juicer.stages.lock_entries import HEAD, Entries
from juicer.stages.words import resolved

LOCK, KEPT = Path("dvc.lock"), Path(".juicer/dvc.lock")
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
SECONDS_TO_WRITE = 5.0
"""How long DVC takes at most to write dvc.lock."""
JUDGED_BY = ("seed", "template", "scorer", "judge", "evaluation")
"""Parameters that decide what an evaluation measures. The device is not among them: it changes the last digits only."""


@dataclass(frozen=True)
class DvcLock:
    """The content of a dvc.lock."""

    path: Path
    stages: Mapping[str, Any]
    producers: dict[str, str]
    """Maps each output path to the stage that makes it."""

    @classmethod
    def read(cls, path: Path) -> "DvcLock":
        """Read `path`.

        Raises:
            InputError: the file does not exist or is not YAML.
        """
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        stages: Mapping[str, Any] | None = Entries.of(text)
        return cls._with(path, read_yaml(path).get("stages", {}) if stages is None else stages)

    @classmethod
    def of(cls, text: str, path: Path) -> "DvcLock":
        """Read a text, such as that of another commit.

        Args:
            path: where the text is from, for errors.

        Raises:
            InputError: the text is not YAML.
        """
        stages: Mapping[str, Any] | None = Entries.of(text)
        return cls._with(path, (parse_yaml(text, str(path)) or {}).get("stages", {}) if stages is None else stages)

    @classmethod
    def _with(cls, path: Path, stages: Mapping[str, Any]) -> "DvcLock":
        return cls(path, stages, {out: name for name in stages for out, _ in _files_of(stages, name, "outs")})

    @classmethod
    def read_beside_dvc(cls, path: Path = LOCK) -> "DvcLock":
        """As `read`, while a DVC that runs another stage may be writing the file, which it does in place.

        A file that is missing has no stages.
        """
        deadline = time.monotonic() + SECONDS_TO_WRITE
        while path.is_file():
            try:
                return cls.read(path)
            except InputError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        return cls(path, {}, {})

    def upstream(self, stage: str) -> list[str]:
        """The stage and all that it depends on, in the order of dvc.lock."""
        found, todo = set[str](), [stage]
        while todo:
            name = todo.pop()
            if name in found:
                continue
            found.add(name)
            for path, _ in _files_of(self.stages, name, "deps"):
                place = Path(path)
                # A stage may depend on one file of another stage's output folder.
                todo += [self.producers[str(each)] for each in (place, *place.parents) if str(each) in self.producers]
        return [name for name in self.stages if name in found]

    def md5(self, path: str) -> str | None:
        """The md5 of an output, None if no stage makes it."""
        producer = self.producers.get(path)
        if producer is None:
            return None
        return next(str(md5) for out, md5 in _files_of(self.stages, producer, "outs") if out == path)

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
        judge = self.argument(stage, "--judge")
        if has_judge := judge not in (None, ABSENT):
            judged["--judge"] = read.get(judge or "") or ""
        for values in self.stages[stage].get("params", {}).values():
            judged |= {key: values[key] for key in JUDGED_BY if key in values and (key != "judge" or has_judge)}
        return hashlib.md5(json.dumps(judged, sort_keys=True).encode(), usedforsecurity=False).hexdigest()

    def part(self, stages: list[str]) -> str:
        """A dvc.lock of some of the stages, as text."""
        if isinstance(self.stages, Entries) and stages:
            return HEAD + "".join(map(self.stages.text, stages))
        text = io.StringIO()
        yaml = YAML()
        yaml.default_flow_style = False
        yaml.dump({"schema": "2.0", "stages": {name: self.stages[name] for name in stages}}, text)
        return text.getvalue()


def keep_lock() -> None:
    """Keep a copy of dvc.lock, which DVC writes in place, if it is whole."""
    if LOCK.is_file():
        text = LOCK.read_text(encoding="utf-8")
        if _is_whole(text) and not (KEPT.is_file() and KEPT.read_text(encoding="utf-8") == text):
            replace_text(KEPT, text)


def mend_lock() -> str | None:
    """Bring back dvc.lock if a kill or a full disk left it empty or cut short; returns what was done, in words.

    Stages that have finished since the copy was made run again, or come back from DVC's run cache.
    """
    if not LOCK.is_file() or _is_whole(LOCK.read_text(encoding="utf-8", errors="replace")):
        return None
    if KEPT.is_file() and _is_whole(text := KEPT.read_text(encoding="utf-8")):
        replace_text(LOCK, text)
        return f"{LOCK} was cut short; it is as it was when the last stage began"
    try:
        replace_text(LOCK, git("show", f"HEAD:{LOCK}") + "\n")
    except InputError:
        LOCK.unlink()
        return f"{LOCK} was cut short and there is no copy; what DVC's run cache has of it comes back"
    return f"{LOCK} was cut short; it is as in the last commit"


def _files_of(stages: Mapping[str, Any], name: str, kind: str) -> list[tuple[str, str | None]]:
    """Path and md5 of each of a stage's `deps` or `outs`."""
    if isinstance(stages, Entries):
        return stages.files(name, kind)
    return [(file["path"], file.get("md5")) for file in stages[name].get(kind, [])]


def _is_whole(text: str) -> bool:
    if (entries := Entries.of(text)) is not None:
        return all(_has_md5s(entries, name) for name in entries)
    try:
        values = YAML(typ="safe").load(text)
    except YAMLError:
        return False
    if not isinstance(values, dict) or "schema" not in values or not isinstance(values.get("stages", {}), dict):
        return False
    stages = values.get("stages", {})
    return all(isinstance(stage, dict) and "cmd" in stage and _has_md5s(stages, name) for name, stage in stages.items())


def _has_md5s(stages: Mapping[str, Any], name: str) -> bool:
    try:
        files = [file for kind in ("deps", "outs") for file in _files_of(stages, name, kind)]
    except (AttributeError, KeyError, TypeError, YAMLError):
        return False
    return all(MD5.fullmatch(str(md5)) for _, md5 in files)
