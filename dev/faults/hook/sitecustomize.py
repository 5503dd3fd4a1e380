"""Ends a process at a chosen operation on a file. Python imports this module first where its folder is on PYTHONPATH.

The variable JUICER_FAULT holds the plan, as JSON (dev/faults/points.py writes it). The audit events of the
interpreter come just before an operation, so a process is ended between two of them as kill -9 would.
"""

import json
import os
import re
import signal
import sys
from typing import Any

OPERATIONS = {
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "sqlite3.connect",
}
WRITING = os.O_WRONLY | os.O_RDWR


def role() -> str:
    """What this process is in a run: front, dvc, helper, stage:NAME or other."""
    words = sys.orig_argv
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    if module.startswith("tasks."):
        return f"stage:{module.removeprefix('tasks.')}"
    return {"juicer": "front", "dvc": "dvc", "juicer.running": "dvc", "juicer.registry.tracker": "helper"}.get(
        module, "other"
    )


class Fault:
    """Counts the operations of this process that the plan is about, and ends it at the chosen one."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan, self._seen, self._busy = plan, 0, False
        self._path = re.compile(plan.get("path", ""))

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        """An audit hook."""
        if self._busy or not (event in OPERATIONS or (event == "open" and given[2] & WRITING)):
            return
        self._busy = True
        try:
            names = [os.fsdecode(each) for each in given[:2] if isinstance(each, str | bytes) and each]
            paths = names if event == "os.rename" else names[:1]
            self._at(event, " ".join(map(os.path.relpath, paths)))
        finally:
            self._busy = False

    def _at(self, event: str, text: str) -> None:
        mine = role()  # a fork of the warm parent becomes a stage
        if "log" in self._plan:
            self._note(self._plan["log"], f"{mine}\t{event}\t{text}\n")
        if mine != self._plan.get("role") or not self._path.search(text):
            return
        self._seen += 1
        if self._seen != self._plan["number"]:
            return
        if event == "open" and (leave := self._plan.get("leave")) is not None:
            self._note(text, leave, os.O_TRUNC)
        self._note(self._plan["hit"], f"{mine} {event} {text}\n")
        if self._plan["tree"]:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def _note(self, path: str, text: str, how: int = os.O_APPEND) -> None:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | how)
        os.write(number, text.encode())
        os.close(number)


if "JUICER_FAULT" in os.environ:
    sys.addaudithook(Fault(json.loads(os.environ["JUICER_FAULT"])))
