"""Upper bounds of the settings that count something, each with the reason that its error gives.

They are far above what any real run needs. They catch a slip of the keyboard before a graph of millions of stages is
derived, or before a stage allocates what no machine has.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

SHOWN = 60
"""Longest value that an error repeats."""


@dataclass(frozen=True)
class AtMost:
    """Metadata of a number: its upper bound, and why there is one.

    Attributes:
        le: the bound, under the name that `juicer describe` reads.
        because: a clause for the error.
    """

    le: int
    because: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema of the number, with the bound."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: float) -> float:
        if value > self.le:
            raise ValueError(f"must be at most {self.le:,}, not {shortened(value)}: {self.because}")
        return value


def shortened(value: Any) -> str:
    """A value for an error: its repr on one line, without its middle if it is long."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 100:
        return f"an integer of {value.bit_length():,} bits"
    if isinstance(value, list | dict | set | tuple):
        return f"a {'mapping' if isinstance(value, dict) else 'list'}" if len(value) > 3 else _cut(repr(value))
    return _cut(repr(value[: 2 * SHOWN] if isinstance(value, str | bytes) else value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 15]}...{text[-10:]}"


Rounds = Annotated[int, AtMost(100, "each round is several stages, and DVC reads all stages for every command")]
Rows = Annotated[int, AtMost(10**9, "no machine reads so many rows")]
GeneratedRows = Annotated[int, AtMost(10**7, "they are generated on this machine, in memory")]
Batch = Annotated[int, AtMost(10**6, "a batch is held in memory")]
Samples = Annotated[int, AtMost(10_000, "each is a response of its own to every prompt")]
Steps = Annotated[int, AtMost(10**7, "the run would not end")]
Epochs = Annotated[float, AtMost(1000, "the run would not end")]
Passes = Annotated[int, AtMost(100, "the run would not end")]
ResponseTokens = Annotated[int, AtMost(10**13, "the run would not end")]
Tokens = Annotated[int, AtMost(2**20, "no model reads a longer text")]
PassTokens = Annotated[int, Field(ge=1), AtMost(2**24, "a pass is held in memory")]
Threads = Annotated[int, AtMost(1024, "no machine has more cores")]
Processes = Annotated[int, AtMost(4096, "each process needs a GPU")]
Seed = Annotated[int, AtMost(2**63 - 1, "a seed has 63 bits")]
SmallSeed = Annotated[int, AtMost(2**32 - 1, "lm-eval's seed has 32 bits")]
Fewshot = Annotated[int, AtMost(1000, "the examples have to fit into the model's context")]
Blocks = Annotated[int, AtMost(1024, "no model has more blocks")]
Rank = Annotated[int, AtMost(2**14, "no layer is wider")]
Scale = Annotated[int, AtMost(10**6, "the adapters would outweigh the model")]
Width = Annotated[int, AtMost(2**13, "a tiny model is trained from scratch on this machine")]
Layers = Annotated[int, AtMost(128, "a tiny model is trained from scratch on this machine")]
Heads = Annotated[int, AtMost(256, "a tiny model is trained from scratch on this machine")]
Vocabulary = Annotated[int, AtMost(2**18, "its tokenizer is trained on this machine")]
Shown = Annotated[int, AtMost(1000, "the report shows each on one page")]
Temperature = Annotated[float, AtMost(100, "tokens would be drawn uniformly")]
Weight = Annotated[float, AtMost(10**6, "the rest of the loss would not count")]
"""Bounded numbers, for the annotations of settings."""

TINY_PARAMETERS = 10**9
"""Largest tiny model."""


def check_tiny(hidden_size: int, layers: int, vocabulary: int = 0) -> None:
    """Raise ValueError for a tiny model that is not tiny."""
    parameters = 12 * layers * hidden_size**2 + 2 * vocabulary * hidden_size
    if parameters > TINY_PARAMETERS:
        raise ValueError(
            f"hidden_size, layers and vocabulary make about {parameters:,} parameters, more than the "
            f"{TINY_PARAMETERS:,} that are trained from scratch on one machine"
        )
