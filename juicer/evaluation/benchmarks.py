"""The six benchmarks of the paper's table: which stock tasks of lm-eval they are, and a mirror of the data they read.

A mirror holds one folder per data set, named like the data set on the hub. lm-eval asks for "openai/gsm8k", and where
the working directory has a folder of that name, `datasets` reads it instead of asking the hub.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
"""The columns of the paper's table and the tasks or groups of lm-eval that each is the mean of."""
_FOLDERS = ("arc", "truthfulqa", "winogrande", "gsm8k", "hellaswag", "mmlu/default")
"""Where lm-eval defines these: reading only them takes no time, reading all of its tasks takes seconds."""
_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


@dataclass(frozen=True)
class Source:
    """The data of one task: a data set of the hub, its configuration (None: it has one only) and the splits read."""

    dataset: str
    configuration: str | None
    splits: tuple[str, ...]

    def file(self, split: str) -> Path:
        """Where a mirror keeps a split, relative to the mirror."""
        return Path(self.dataset) / (self.configuration or "default") / f"{split}.jsonl"


def sources() -> list[Source]:
    """The data that the tasks of all columns read, without repetition."""
    index = task_manager().task_index
    found: dict[Source, None] = {}
    for name in (leaf for tasks in COLUMNS.values() for task in tasks for leaf in tasks_under(task, index)):
        settings = index[name].cfg
        splits = dict.fromkeys(settings[key] for key in _SPLITS if settings.get(key))
        found[Source(settings["dataset_path"], settings.get("dataset_name"), tuple(splits))] = None
    return list(found)


def write_split(mirror: Path, source: Source, split: str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write one split of a data set into a mirror; returns the file."""
    path = mirror / source.file(split)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def write_cards(mirror: Path, known: Iterable[Source]) -> None:
    """Write what makes a mirror's folders data sets: a README.md in each that says which file is which split."""
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
    """The files that the tasks need and the mirror lacks."""
    known = sources()
    wanted = [mirror / source.file(split) for source in known for split in source.splits]
    wanted += [mirror / dataset / "README.md" for dataset in dict.fromkeys(source.dataset for source in known)]
    return [path for path in wanted if not path.is_file()]


def task_manager() -> "TaskManager":
    """lm-eval's own definitions of the tasks of all columns, and of no others."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent
    return lm_eval.tasks.TaskManager(include_path=[folder / name for name in _FOLDERS], include_defaults=False)


def tasks_under(name: str, index: Mapping[str, Any]) -> list[str]:
    """The tasks under a task, group or tag of lm-eval's index."""
    entry = index[name]
    children = entry.cfg["task"] if entry.kind.name == "GROUP" else sorted(entry.tags) if entry.cfg is None else []
    return [leaf for child in children for leaf in tasks_under(child, index)] or [name]
