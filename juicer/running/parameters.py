"""DVC's reading of params.yaml, which DVC parses and searches anew several times for each stage.

With many rounds that file is long, and the time would grow with the square of the rounds. Nothing is taken for
unchanged: the file is read each time, and parsed unless it has the text that it had before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from juicer.runtime.files import value_at

MISSING = object()


class ParsedOnce:
    """DVC's `read_param_file`, which parses a text once, and finds plain keys without searching all of the values."""

    def __init__(self, original: Callable[..., Any]) -> None:
        """Leave what is not of the ordinary kind to `original`."""
        self._original = original
        self._text: str | None = None
        self._values: Any = None

    def __call__(
        self, disk: Any, path: str, keys: Sequence[str] | None = None, flatten: bool = False, **given: Any
    ) -> Any:
        """The values of some dotted keys in a file, by the key; those that are missing are left out.

        Args:
            disk: DVC's file system.
            flatten: whether the values are asked for by key; other questions are left to DVC.
        """
        if not keys or not flatten or given or not path.endswith(".yaml"):
            return self._original(disk, path, keys, flatten, **given)
        try:
            values = self._parsed(disk, path)
        except UnicodeDecodeError:
            return self._original(disk, path, keys, flatten)  # which has its own error for it
        copies, found = dict[int, Any](), dict[str, Any]()
        for key in keys:
            value = value_at(values, key, MISSING) if isinstance(values, Mapping) else MISSING
            if value is MISSING or any(letter in key for letter in "*?["):
                return self._original(disk, path, keys, flatten)
            # DVC gives each stage values of its own, and the same list under two keys of one stage as one object,
            # on which depends how it is written.
            found[key] = deepcopy(value, copies)
        return found

    def _parsed(self, disk: Any, path: str) -> Any:
        from dvc.utils.serialize import parse_yaml

        with disk.open(path, encoding="utf-8") as file:
            text = file.read()
        if text != self._text:
            self._values = parse_yaml(text, path)
            self._text = text
        return self._values


@contextmanager
def parsed_once() -> Iterator[None]:
    """Let DVC parse params.yaml once for each text that it has in the block."""
    import dvc.dependency.param as param

    original = param.read_param_file
    param.read_param_file = ParsedOnce(original)
    try:
        yield
    finally:
        param.read_param_file = original
