"""Values in nested mappings under dotted keys, as recipes, dvc.yaml and the command line write them: `irft.rounds`."""

from collections.abc import Mapping
from typing import Any

_REQUIRED = object()


def value_at(values: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> Any:
    """The value under the dotted `key`, for example `values["irft"]["rounds"]` under "irft.rounds".

    Raises:
        KeyError: there is no such value, and no default was given; names the whole key.
    """
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            if default is _REQUIRED:
                raise KeyError(key)
            return default
        found = found[part]
    return found
