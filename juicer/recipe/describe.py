"""Describes every parameter of a recipe, for `juicer describe`: name, type, limits, default and meaning.

The meanings are the docstrings of the settings.
"""

import json
import types
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from juicer.runtime.errors import InputError, did_you_mean

SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def describe(model: type[BaseModel], defaults: BaseModel | None = None, prefix: str = "") -> Iterator[str]:
    """Lines that describe all parameters of `model`.

    Args:
        defaults: the section's default value in the section above, if it has one; takes precedence over the defaults
            of the class.
        prefix: dotted name of the section, with a dot at the end.
    """
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        default = field.get_default(call_default_factory=True) if defaults is None else getattr(defaults, name)
        if inner := _section(field.annotation):
            needed = "optional" if default is None or isinstance(default, BaseModel) else "required"
            yield f"[{key}] {needed}. {(inner.__doc__ or '').strip().splitlines()[0]}"
            yield from describe(inner, default if isinstance(default, BaseModel) else None, f"{key}.")
        else:
            shown = "required" if default is PydanticUndefined else f"default {json.dumps(default)}"
            yield f"{key}: {_kind(field)}, {shown}"
            yield f"    {' '.join((field.description or '').split())}"


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all parameters under `model`, sections included."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        yield key
        if inner := _section(field.annotation):
            yield from keys(inner, f"{key}.")


def under(key: str, model: type[BaseModel]) -> Iterator[str]:
    """The lines of `describe` about one parameter, or about all of a section.

    Raises:
        InputError: no such parameter; names the nearest.
    """
    known = list(keys(model))
    if key not in known:
        raise InputError(f"no parameter or section is called {key!r}", where="recipe", do=did_you_mean(key, known))
    shown = False
    for line in describe(model):
        if not line.startswith(" "):
            named = line.removeprefix("[").split(":")[0].split("]")[0]
            shown = named == key or named.startswith(f"{key}.")
        if shown:
            yield line


def _section(annotation: Any) -> type[BaseModel] | None:
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _kind(field: FieldInfo) -> str:
    return " ".join([_type(field.annotation), *_limits(field.metadata)])


def _limits(metadata: Iterable[Any]) -> list[str]:
    return [
        f"{sign} {getattr(limit, name)}"
        for limit in metadata
        for name, sign in SIGNS.items()
        if getattr(limit, name, None) is not None
    ]


def _type(annotation: Any) -> str:
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " | ".join(str(each) for each in arguments)
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(_type(each) for each in arguments)
    if get_origin(annotation) is Annotated:
        limits = [each for metadata in arguments[1:] for each in getattr(metadata, "metadata", [metadata])]
        return " ".join([_type(arguments[0]), *_limits(limits)])
    if get_origin(annotation) is list:
        inner = _type(arguments[0])
        return f"list of ({inner})" if " | " in inner else f"list of {inner}"
    if get_origin(annotation) is dict:
        return f"section of names with {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"{{{', '.join(annotation.model_fields)}}}"
    names = {str: "text", int: "integer", float: "number", bool: "true | false", type(None): "null"}
    return names.get(annotation, str(annotation))
