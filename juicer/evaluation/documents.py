"""JSON documents with a schema: a file is parsed once, into a typed model, and written back with the same bytes."""

import math
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, JsonValue, PlainValidator, ValidationError

from juicer.runtime.errors import InputError
from juicer.runtime.files import read_json

_LONGEST = 60
"""Characters of a wrong value that an error message shows."""


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("should be a number")
    return value


Number = Annotated[int | float, PlainValidator(_number)]
"""A finite number of either kind, which is written as it was read: 1 stays 1 and 1.0 stays 1.0."""


class Document(BaseModel):
    """A JSON object whose keys and types are known.

    Fields are declared in the order in which the file has them. A field with a default may be missing from the file;
    it is then missing from what `as_json` returns, too.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def parse(cls, values: object, where: str) -> Self:
        """Validate what was read from JSON.

        Args:
            values: the content of the file.
            where: the name of the file in an error message.

        Raises:
            InputError: names the file and the first key that is wrong.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _explained(error, where) from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and validate a JSON file.

        Raises:
            InputError: the file is missing, is not JSON, or does not have this schema.
        """
        return cls.parse(read_json(path), str(path))

    def as_json(self) -> dict[str, JsonValue]:
        """The content of the file: the fields that were given, in the order of their declaration."""
        return self.model_dump(exclude_unset=True)

    def numbers(self) -> dict[str, int | float]:
        """The fields that hold a number, by name."""
        return {key: value for key, value in self if isinstance(value, int | float) and not isinstance(value, bool)}


def _explained(error: ValidationError, where: str) -> InputError:
    problems = error.errors(include_url=False)
    problem = problems[0]
    key = ".".join(str(part) for part in problem["loc"])
    more = f" (and {len(problems) - 1} more errors)" if len(problems) > 1 else ""
    return InputError(_sentence(problem, key) + more, where=where, do="run the stage that makes it: dvc repro")


def _sentence(problem: Any, key: str) -> str:
    """What is wrong, for example "held_out.prompts should be a valid integer, but it is 'ten'"."""
    if problem["type"] == "missing":
        return f"the key {key!r} is missing"
    if problem["type"] == "extra_forbidden":
        return f"the key {key!r} is unknown"
    given = repr(problem["input"])
    given = given if len(given) <= _LONGEST else f"{given[:_LONGEST]}…"
    if problem["type"] == "model_type":
        return f"{key or 'the file'} should be a JSON object, but it is {given}"
    message = problem["msg"].removeprefix("Input ").removeprefix("Value error, ")
    if problem["type"] == "value_error" and isinstance(problem["input"], dict):  # a rule about several keys
        return f"{key}: {message}" if key else message
    return f"{key or 'the file'}: {message}, but it is {given}"
