"""A prompt and a response as tokens, the input of every model of the project."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dialogue:
    """A prompt and a response to it, as tokens."""

    prompt: list[int]
    response: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)
