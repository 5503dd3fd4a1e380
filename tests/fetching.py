"""The stage `fetch` without a project: settings and files in, demonstrations and provenance out."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from juicer.data.demonstrations import Demonstration, read
from juicer.runtime.files import remove, temporary_beside
from juicer.settings.sources import FetchSettings
from juicer.stages.stage import Stage
from tasks import fetch


class Fetching(Stage):
    """The stage, without a project."""

    def __init__(self, settings: FetchSettings, out: Path) -> None:
        self.arguments = argparse.Namespace(out=out)
        self._settings = settings
        self.processes, self.is_main = argparse.Namespace(is_local_main=True), True  # type: ignore[assignment,misc]

    def read(self, key: str, settings: Any) -> Any:
        """The settings of the stage."""
        return self._settings

    @contextmanager
    def publish(self, path: Path) -> Iterator[Path]:
        """A folder that replaces the old one unless the block fails."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(path) as temporary:
            yield temporary
            remove(path)
            temporary.replace(path)

    def record(self, **figures: float) -> None:
        """Nothing is recorded."""


@dataclass(frozen=True)
class Fetched:
    """What the stage wrote and said."""

    rows: list[Demonstration]
    provenance: dict[str, Any]
    said: str


def fetched(folder: Path, **values: Any) -> Fetched:
    """Run the stage with these settings, and its output below `folder`."""
    out = folder / "raw"
    said = fetch.run(Fetching(FetchSettings.parse(values, "recipe: fetch"), out))
    provenance = json.loads((out / "provenance.json").read_text(encoding="utf-8"))
    return Fetched(list(read(out / "demonstrations.jsonl")), provenance, said)


def written(path: Path, rows: list[Any]) -> Path:
    """A file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
