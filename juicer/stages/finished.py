"""Work that finished but could not be published, because what it was made from had changed in the meantime.

It is kept in .juicer/finished/<stage>/ until the stage runs with the same parameters, inputs and code again, which
publishes it without repeating the work. One such result is kept per stage.
"""

from dataclasses import dataclass
from pathlib import Path

from juicer.runtime.errors import InputError
from juicer.runtime.files import read_json, remove, write_json
from juicer.stages.checkpoint import remove_checkpoints
from juicer.stages.hashes import md5_of

FOLDER = Path(".juicer/finished")
RECORD, OUTPUT, COSTS = "record.json", "output", "costs.json"


@dataclass(frozen=True)
class Finished:
    """A finished result that waits for its parameters, inputs and code to be back."""

    folder: Path

    @property
    def output(self) -> Path:
        """The output itself, a file or a folder."""
        return self.folder / OUTPUT

    @property
    def costs(self) -> Path:
        """The costs of making it, as the stage would have recorded them."""
        return self.folder / COSTS


def keep(stage: str, read: str, output: Path) -> Finished:
    """Move a finished output into the store. The stage needs its checkpoints no more.

    Args:
        read: digest of what the stage read.
        output: on the same disk as the store.
    """
    folder = FOLDER / stage
    remove(folder)
    folder.mkdir(parents=True)
    kept = Finished(folder)
    output.rename(kept.output)
    # Last: without it, nothing here counts.
    write_json(folder / RECORD, {"read": read, "output_md5": md5_of(kept.output, remember=True)})
    remove_checkpoints(stage)
    return kept


def find(stage: str, read: str) -> Finished | None:
    """The kept result of a stage that read exactly this; None if there is none, or if it is damaged."""
    kept = Finished(FOLDER / stage)
    try:
        record = read_json(kept.folder / RECORD)
        same = record == {"read": read, "output_md5": md5_of(kept.output, remember=True)}
    except (InputError, OSError):
        return None
    return kept if same else None
