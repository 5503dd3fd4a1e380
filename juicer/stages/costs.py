"""What a stage cost, in .juicer/costs/STAGE.json: not a versioned output, because timings differ from run to run."""

from pathlib import Path
from typing import Self

from pydantic import ConfigDict, JsonValue

from juicer.evaluation.documents import Document, Number

COSTS = Path(".juicer/costs")


class StageCost(Document):
    """The cost of one run of a stage. What a stage counts beside these (tokens, steps, rows) is kept under its name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number]

    stage: str
    """For example irft_train@r1."""
    seconds: float | None = None
    """Wall-clock time."""
    cpu_seconds: float | None = None
    """Processor time of the process that ran the stage."""
    peak_memory_mb: float | None = None
    """Peak resident memory, in MiB."""
    peak_device_memory_mb: float | None = None
    """Peak memory in tensors on the GPU, in MiB; None where the stage used no GPU."""
    peak_device_reserved_mb: float | None = None
    """Peak memory that torch reserved on the GPU, in MiB."""
    device: str | None = None
    """The GPU, or those of the processes, in words; None where the stage used none."""
    deterministic: bool | None = None
    """Whether only operations were allowed that give the same bytes again; None where the stage used no GPU."""
    planned_device_memory_mb: float | None = None
    """What was planned for the peak of tensors, in MiB; None where no plan was made for this recipe."""
    memory_ratio: float | None = None
    """Planned over measured memory of the GPU: below 1 the stage took more than planned."""
    engine: str | None = None
    """What sampled: `torch`, or vLLM with its version; None for a stage that chooses none."""
    sampling_rows: int | None = None
    """Responses that our own sampler decoded at the same time, at most."""
    ended: float | None = None
    """When the stage ended, in seconds since the epoch."""
    output_md5: str | None = None
    """Of the output, if there is one: DVC may copy it afterwards, so its modification time does not identify it."""
    training_tokens_per_second: float | None = None
    """Response tokens trained on per second, for a stage that trains."""
    mfu: float | None = None
    """Model FLOPs utilisation, from 0 to 1, where the peak of the device is known."""

    @classmethod
    def create(cls, stage: str, counts: dict[str, int | float], **values: float | str) -> Self:
        """The cost of a run; `counts` are what the stage itself counted."""
        return cls.model_validate({"stage": stage, **values, **counts})

    @property
    def counts(self) -> dict[str, int | float]:
        """What the stage itself counted, in its order."""
        return self.__pydantic_extra__

    def count(self, name: str) -> int | float | None:
        """One of the counts; None if the stage does not count this."""
        return self.counts.get(name)

    def numbers(self) -> dict[str, int | float]:
        """All costs by name, in the order of the file; when the stage ended is none."""
        return {
            key: value
            for key, value in self.as_json().items()
            if isinstance(value, int | float) and not isinstance(value, bool) and key != "ended"
        }

    def as_json(self) -> dict[str, JsonValue]:
        """The content of the file: time and memory, then the counts, then what follows from both."""
        values = super().as_json()
        last = ("ended", "output_md5", "training_tokens_per_second", "mfu")
        head = {key: value for key, value in values.items() if key not in last and key not in self.counts}
        return {**head, **self.counts, **{key: values[key] for key in last if key in values}}
