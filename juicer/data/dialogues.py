"""Dialogues as token ids: a prompt with a response, and samples of a policy, which training never retokenises."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from juicer.runtime.errors import InputError


@dataclass(frozen=True)
class Dialogue:
    """A prompt and a response to it, as tokens."""

    prompt: list[int]
    response: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True)
class Sample:
    """One response y' ~ pi(.|x)."""

    id: str
    """Id of the demonstration whose prompt was answered."""
    index: int
    """Number of the sample for this prompt, from 0."""
    prompt: list[int]
    """Prompt tokens, as the policy read them."""
    response: list[int]
    """Response tokens; the last one is one of the template's ends if and only if `ended`."""
    ended: bool
    """Whether the policy generated an end; otherwise the response was cut off at the limit."""
    log_probability: float
    """Sum over response tokens of log pi(token | before), in nats, at temperature 1."""
    earlier: int = 0
    """How many rounds ago it was sampled; 0 for a sample of the round's own policy."""


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for sample in samples:
            values = asdict(sample)
            if not sample.earlier:
                del values["earlier"]
            file.write(json.dumps(values, allow_nan=False) + "\n")


def read_samples(path: Path) -> list[Sample]:
    """Read samples.

    Raises:
        InputError: the file does not exist, or a line is not a sample; gives its number.
    """
    if not path.is_file():
        raise InputError("no such file", where=str(path), do="run the stage that makes it: dvc repro")
    samples = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                samples.append(Sample(**json.loads(line)))
            except (json.JSONDecodeError, TypeError) as error:
                raise InputError(f"not a sample: {error}", where=f"{path}:{number}") from error
    return samples
