"""The columns of a file as a command line names them: prompt=question,response=answer."""

from collections.abc import Sequence
from typing import Any

from juicer.runtime.errors import InputError
from juicer.settings.sources import ColumnsSettings

ROLES = "roles."


def columns_of(given: Sequence[str]) -> ColumnsSettings:
    """The columns that `--columns` names: pairs of a meaning and a column, between commas or in several options.

    `roles.user=customer` adds a name of a role, and may be given several times.

    Raises:
        InputError: a pair is none, or has a meaning that does not exist; names the nearest.
    """
    values: dict[str, Any] = {}
    for pair in (part.strip() for each in given for part in each.split(",")):
        key, equals, column = pair.partition("=")
        if not equals or not key or not column:
            do = "write prompt=COLUMN,response=COLUMN or messages=COLUMN"
            raise InputError(f"{pair!r} is not a column", where="--columns", do=do)
        if key.startswith(ROLES):
            values.setdefault("roles", {}).setdefault(key.removeprefix(ROLES), []).append(column)
        else:
            values[key] = column
    return ColumnsSettings.parse(values, "--columns")
