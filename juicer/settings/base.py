"""The base of all settings: frozen and strict; an unknown key is an error that suggests the key that was meant."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from juicer.runtime.errors import InputError, did_you_mean
from juicer.settings.bounds import shortened

S = TypeVar("S", bound="Settings")
ALTERNATIVE = "="
"""First character of the tag of an alternative in a union, which is no part of a key."""


class Settings(BaseModel):
    """Settings of one part of a recipe."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def parse(cls: type[S], values: Any, where: str) -> S:
        """Validate `values` (a mapping read from YAML).

        Args:
            values: the mapping.
            where: the name of the mapping in an error, for example "params.yaml: sft".

        Raises:
            InputError: names the first wrong key and what is wrong; for an unknown key, the most similar known one.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _explain(cls, error, where) from error


def _explain(model: type[BaseModel], error: ValidationError, where: str) -> InputError:
    problems = error.errors(include_url=False)
    for problem in problems:
        problem["loc"] = tuple(part for part in problem["loc"] if not str(part).startswith(ALTERNATIVE))
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    keys = [problem for problem in problems if problem["type"] == "invalid_key"]
    problem = (unknown or keys or problems)[0]
    key = ".".join(_named(part) for part in problem["loc"])
    others = f"; {len(problems) - 1} more" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, problem["loc"][:-1])
        hint = did_you_mean(str(problem["loc"][-1]), known)
        return InputError(f"unknown parameter {key!r}{others}", where=where, do=hint)
    if problem["type"] == "invalid_key":
        return InputError(f"the key {key} is not text{others}", where=where, do="put it between quotes")
    if problem["type"] == "missing":
        return InputError(f"parameter {key!r} is missing{others}", where=where, do=f"add {key}: ...")
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if problem["type"] == "value_error" else f", not {shortened(problem['input'])}"
    at = f"parameter {key!r}: " if key else ""
    return InputError(f"{at}{message[0].lower()}{message[1:]}{given}{others}", where=where)


def _named(part: Any) -> str:
    """A part of a key, on one line and not longer than a key can be."""
    return part if isinstance(part, str) and part.isprintable() and len(part) <= 60 else shortened(part)


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        if isinstance(part, int):  # a place in a list of sections
            continue
        field = _fields(model).get(part)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return list(_fields(model))


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model by their names in a recipe."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _model_in(argument)) is not None:
            return found
    return None
