"""A prompt and a response as tokens: what every model here is given."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dialogue:
    """A prompt and a response to it, as tokens."""

    prompt: list[int]
    response: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)
