"""What a stage reads (parameters, inputs, code): fixed when it starts, and compared before its output is published.

DVC reads all of it once more when the stage has ended and records that as what made the output. So a stage whose
parameters, inputs or code changed while it ran must not end well. Of the code DVC sees the list that the stage `code`
made (juicer/stages/code.py). So the modules that it names are compared with the list when a stage starts, and watched
like any other input.
"""

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict

from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml, value_at
from juicer.stages import code
from juicer.stages.dvc_files import DvcLock
from juicer.stages.hashes import files_in, md5_of
from juicer.stages.pipeline import Declared, declared

SECONDS = (0.25, 2.0)
"""Seconds between two looks at the files while a stage runs: at first, when it loads most of its modules, and later."""
Identity = tuple[int, int, int]
"""Inode, size and modification time of a file."""


class Reading(BaseModel):
    """What a stage read, by the names and hashes under which DVC records it."""

    model_config = ConfigDict(frozen=True)

    stage: str
    params: dict[str, Any]
    """By dotted key, as dvc.yaml lists them."""
    inputs: dict[str, str]
    """md5 of each input, data and code, by its path in dvc.yaml."""
    outputs: dict[str, str] = {}
    """md5 of each output that was made from that, by its path in dvc.yaml; none while the stage runs."""

    def differences(self, params: Mapping[str, Any], inputs: Mapping[str, str | None]) -> list[str]:
        """What is not as this stage read it, in words.

        Args:
            params: by dotted key.
            inputs: md5 by path, None for what is not there.
        """
        missing = object()
        found = [f"{key} (read: {value!r})" for key, value in self.params.items() if params.get(key, missing) != value]
        return [*found, *(path for path, md5 in self.inputs.items() if inputs.get(path) != md5)]

    def digest(self) -> str:
        """One hash for all that was read."""
        text = json.dumps([self.stage, self.params, self.inputs], sort_keys=True)
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Change:
    """What changed since a stage read it."""

    what: tuple[str, ...]
    """In words; empty if nothing changed."""
    doubtful: bool
    """Whether the work may have been done with something else than what the stage read at its start."""


class Watch:
    """Watches what a stage reads, from its start until its output is published."""

    def __init__(self, reading: Reading, params: Path, modules: Mapping[str, str] = MappingProxyType({})) -> None:
        """Watch the files behind `reading`, whose parameters are those of the file `params`.

        Args:
            modules: md5 of each file that a list of code among the inputs names, by its path.
        """
        self.reading, self._params = reading, params
        self._modules = {path: md5 for path, md5 in modules.items() if path not in reading.inputs}
        self._read = {**reading.inputs, **self._modules}
        """md5 of all that is watched, by its path."""
        self._before = dict(_identities(self._read))
        self._text: bytes | None = None
        self._now: dict[str, Any] = {}
        """The parameters in the file of parameters when it held this text."""
        self._loaded = loaded_modules()
        """Modules that were loaded before they could have changed; all other files may be read at any time."""
        self._ended = threading.Event()

    @classmethod
    def begin(cls, stage: str, listed: Declared, params: Path, values: Mapping[str, Any]) -> "Watch":
        """Fix what the stage reads.

        Args:
            listed: what dvc.yaml lists for the stage.
            params: the file of the parameters.
            values: its content, as the stage has read it.

        Raises:
            InputError: an input is missing, its code is not what the stage `code` listed, or changed as this process
                started.
        """
        inputs = {}
        for path in listed.inputs:
            try:
                inputs[path] = md5_of(Path(path), remember=True)
            except FileNotFoundError as error:
                raise InputError("no such input", where=path, do="make it: juicer run") from error
        modules = _modules(filter(code.is_list, listed.inputs))
        read = {key: value_at(values, key, None) for key in listed.parameters}
        watch = cls(Reading(stage=stage, params=read, inputs=inputs), params, modules)
        watch._check_loaded()
        return watch

    def follow(self) -> None:
        """Look at the files from time to time, in a thread; warn once if something changed."""
        threading.Thread(target=self._follow, daemon=True).start()

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()

    def change(self) -> Change:
        """What has changed since the start."""
        touched = self._touched()
        now: dict[str, str | None] = dict(self._read)
        for path in self._read:
            if any(file.is_relative_to(path) for file in touched):
                now[path] = md5_of(Path(path)) if Path(path).exists() else None
        what = self.reading.differences(self._values(), now)
        what += [path for path, md5 in self._modules.items() if now[path] != md5]
        changed = [Path(path) for path, md5 in now.items() if md5 != self._read[path]]
        doubtful = touched - self._loaded
        back = sorted(str(file) for file in doubtful if not any(file.is_relative_to(path) for path in changed))
        return Change((*what, *(f"{file} (changed and changed back)" for file in back)), bool(doubtful))

    def _values(self) -> dict[str, Any]:
        """The parameters as they are now; parsed only if the file has changed since the last look."""
        try:
            text = self._params.read_bytes()
            if text != self._text:
                now = read_yaml(self._params)
                self._now = {key: value_at(now, key, None) for key in self.reading.params}
                self._text = text
        except (InputError, OSError):
            self._now, self._text = {}, None
        return self._now

    def _touched(self) -> set[Path]:
        """Files of the inputs that were replaced, written, added or removed since the start."""
        now = dict(_identities(self._read))
        return {file for file in {*now, *self._before} if now.get(file) != self._before.get(file)}

    def _check_loaded(self) -> None:
        started = process_started()
        late = [str(file) for file in self._loaded & set(self._before) if file.stat().st_ctime > started]
        if late:
            raise InputError("the file changed while this stage started", where=min(late), do="run it again")

    def _follow(self) -> None:
        seconds, longest = SECONDS
        while not self._ended.wait(seconds):
            seconds = min(2 * seconds, longest)
            loaded, touched = loaded_modules(), self._touched()
            self._loaded |= loaded - touched
            if (touched or self._values() != self.reading.params) and (what := self.change().what):
                print(
                    f"warning: {self.reading.stage} runs with what it read at its start, but this has changed: "
                    f"{', '.join(what)}; its output will be published only if that is changed back",
                    file=sys.stderr,
                    flush=True,
                )
                return


def check_made(inputs: Mapping[str, str], lock: DvcLock) -> None:
    """Check that inputs are what other stages made, according to dvc.lock.

    Args:
        inputs: md5 by path.

    Raises:
        InputError: one is not: an object of DVC's cache is damaged, or an output was changed by hand.
    """
    stages = declared()
    for path, md5 in inputs.items():
        maker, expected = lock.producers.get(path), lock.md5(path)
        # dvc.lock keeps stages that dvc.yaml no longer has.
        if maker and maker.partition("@")[0] in stages and md5 != expected:
            what = f"its md5 is {md5}, but {maker} made {expected}: it was changed by hand or is damaged in DVC's cache"
            raise InputError(what, where=path, do="juicer run makes it again")


def loaded_modules() -> set[Path]:
    """The files of the project's modules that this process has loaded, relative to the project."""
    here, found = Path.cwd(), set[Path]()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and Path(file).is_relative_to(here):
            found.add(Path(file).relative_to(here))
    return found


def _modules(lists: Iterable[str]) -> dict[str, str]:
    """What lists of code name, which has to be there as it was listed."""
    modules = {path: md5 for each in lists for path, md5 in code.read_list(Path(each)).items()}
    if changed := code.changed(modules):
        what = "the code changed since the stage `code` listed it"
        raise InputError(what, where=changed[0], do="juicer run lists it again")
    return modules


def process_started() -> float:
    """When this process started, in seconds since the epoch, more exactly than to the second as psutil knows it."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except OSError:  # not Linux
        return psutil.Process().create_time()
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def _identities(inputs: Iterable[str]) -> Iterator[tuple[Path, Identity]]:
    for path in inputs:
        for file in files_in(Path(path)):
            with suppress(FileNotFoundError):
                found = file.stat()
                yield file, (found.st_ino, found.st_size, found.st_mtime_ns)
