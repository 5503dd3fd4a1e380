"""The six benchmarks of the paper's table as tasks of lm-eval, and a local mirror of the data that they read.

A mirror contains one folder per dataset, with the dataset's name on the hub. lm-eval asks for "openai/gsm8k", and if
the working directory contains a folder of that name, `datasets` reads it instead of the hub.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from juicer.evaluation.documents import Document

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

COLUMNS = {
    "arc": ("arc_easy", "arc_challenge"),
    "truthfulqa": ("truthfulqa_mc1",),
    "winogrande": ("winogrande",),
    "gsm8k": ("gsm8k",),
    "hellaswag": ("hellaswag",),
    "mmlu": ("mmlu",),
}
"""The columns of the paper's table, each with the tasks or groups of lm-eval that it is the mean of."""
_FOLDERS = ("arc", "truthfulqa", "winogrande", "gsm8k", "hellaswag", "mmlu/default")
"""Folders in which lm-eval defines these tasks. Reading all of its tasks would take seconds."""
_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


@dataclass(frozen=True)
class Source:
    """The data of one task: a dataset of the hub, its configuration (None if it has only one) and the splits read."""

    dataset: str
    configuration: str | None
    splits: tuple[str, ...]

    def file(self, split: str) -> Path:
        """Path of a split, relative to the mirror."""
        return Path(self.dataset) / (self.configuration or "default") / f"{split}.jsonl"


class Mirror(Document):
    """mirror.json: where the data of a mirror come from."""

    revisions: dict[str, str]
    """Commit of each data set."""
    rows: dict[str, int]
    """Number of rows per file."""


def sources() -> list[Source]:
    """The data that the tasks of all columns read, without duplicates."""
    index = task_manager().task_index
    found: dict[Source, None] = {}
    for name in (leaf for tasks in COLUMNS.values() for task in tasks for leaf in tasks_under(task, index)):
        settings = index[name].cfg
        splits = dict.fromkeys(settings[key] for key in _SPLITS if settings.get(key))
        found[Source(settings["dataset_path"], settings.get("dataset_name"), tuple(splits))] = None
    return list(found)


def write_split(mirror: Path, source: Source, split: str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write one split of a dataset into a mirror; returns the path of the file."""
    path = mirror / source.file(split)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def write_cards(mirror: Path, known: Iterable[Source]) -> None:
    """Write a README.md into each folder of a mirror, by which `datasets` knows the file of each split."""
    cards: dict[str, list[str]] = {}
    for source in known:
        lines = cards.setdefault(source.dataset, ["---", "configs:"])
        lines += [f"- config_name: {source.configuration or 'default'}", "  data_files:"]
        for split in source.splits:
            path = source.file(split).relative_to(source.dataset).as_posix()
            lines += [f"  - split: {split}", f"    path: {path}"]
    for dataset, lines in cards.items():
        (mirror / dataset / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")


def missing_files(mirror: Path) -> list[Path]:
    """The files that the tasks need and that the mirror does not contain."""
    known = sources()
    wanted = [mirror / source.file(split) for source in known for split in source.splits]
    wanted += [mirror / dataset / "README.md" for dataset in dict.fromkeys(source.dataset for source in known)]
    return [path for path in wanted if not path.is_file()]


def task_manager() -> "TaskManager":
    """lm-eval's task manager, with the tasks of all columns and no others."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent
    return lm_eval.tasks.TaskManager(include_path=[folder / name for name in _FOLDERS], include_defaults=False)


def tasks_under(name: str, index: Mapping[str, Any]) -> list[str]:
    """The single tasks of a task, group or tag in lm-eval's index."""
    entry = index[name]
    children = entry.cfg["task"] if entry.kind.name == "GROUP" else sorted(entry.tags) if entry.cfg is None else []
    return [leaf for child in children for leaf in tasks_under(child, index)] or [name]
