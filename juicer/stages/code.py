"""The code that each stage program uses: its modules and what they import, at any depth, each with its md5.

The stage `code` writes one such list per program of tasks/, and every other stage depends on its own list in place of
the modules. So an edit runs `code` again and then only the stages whose program uses the module. Left out are

- settings and recipes: params.yaml spells out every value, and DVC compares the values that a stage reads;
- what .dvcignore names, because it can never change a result;
- imports for type checking.
"""

import ast
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from juicer.runtime.errors import InputError
from juicer.runtime.files import md5_of_file, read_json, replace_text
from juicer.stages.hashes import files_in, ignored_in

STAGE, FOLDER = "code", Path("code")
"""The stage, and the folder of the lists that it makes."""
PACKAGES, PROGRAMS = ("juicer", "tasks"), "tasks"
VALIDATED = ("juicer/settings/", "juicer/recipe/")
"""Rooms whose values are in params.yaml."""
IMPORTS = Path(".juicer/imports.json")
"""What each module imports, by the md5 of its text: parsing all modules takes most of a second."""
VERSION = "1"
"""Of the rules by which imports are found in a module; another one makes the remembered imports void."""


def list_of(program: str) -> str:
    """The path of a program's list: code/sft.json for tasks/sft.py."""
    return (FOLDER / f"{Path(program).stem}.json").as_posix()


def is_list(path: str) -> bool:
    """Whether an input of a stage is a list of code."""
    return Path(path).parent == FOLDER and path.endswith(".json")


def read_list(path: Path) -> dict[str, str]:
    """The md5 of each file that a list names, by its path in the project.

    Raises:
        InputError: the file is missing or no such list.
    """
    values = read_json(path)
    if not isinstance(values, dict) or not all(isinstance(md5, str) for md5 in values.values()):
        raise InputError("this is no list of code", where=str(path), do="make it again: dvc repro --force code")
    return values


def changed(files: dict[str, str], root: Path = Path()) -> list[str]:
    """The files of a list that are missing in a project, or not as listed."""
    return [path for path, md5 in files.items() if not (root / path).is_file() or md5_of_file(root / path) != md5]


class Sources:
    """The modules of a project. Each file is read once, so an object is good for one look."""

    def __init__(self, root: Path = Path(), *, remember: bool = True) -> None:
        """Look at the project in `root`.

        Args:
            remember: keep what modules import from one look to the next, in the project's .juicer/.
        """
        self._root = root
        self._memory = root / IMPORTS if remember else None
        self._ignored = ignored_in(root)
        self._known = self._recalled()
        self._found = dict[str, Sequence[str]]()
        self._places = dict[str, Sequence[str]]()
        self._md5s = dict[str, str]()

    def programs(self) -> list[str]:
        """The stage programs, as paths."""
        paths = (path.relative_to(self._root).as_posix() for path in (self._root / PROGRAMS).glob("*.py"))
        return sorted(path for path in paths if not self._ignored.match_file(path))

    def lists(self) -> dict[str, str]:
        """The text of each program's list, by its path."""
        found = {list_of(program): text_of(self.files(program)) for program in self.programs()}
        self._remember()
        return found

    def files(self, program: str) -> dict[str, str]:
        """The md5 of each file that a program uses, by its path: modules, and what lies beside them in a room."""
        modules = self.closure(program)
        rooms = {"/".join(path.split("/")[:2]) for path in modules if path.count("/") > 1}
        beside = (path for room in rooms for path in self._resources(room))
        return {path: self._md5(path) for path in sorted({*modules, *beside})}

    def closure(self, module: str) -> tuple[str, ...]:
        """The module and all modules of the project that it imports, at any depth, that can change a result.

        Imports inside functions count, those for type checking do not.

        Raises:
            InputError: the module is missing, one cannot be parsed or imports another by a relative name.
        """
        if not (self._root / module).is_file():
            raise InputError("there is no such module", where=module)
        found, todo = set[str](), [module]
        while todo:
            path = todo.pop()
            if path not in found:
                found.add(path)
                todo += self._imports(path)
        return tuple(sorted(found))

    def _md5(self, path: str) -> str:
        if path not in self._md5s:
            self._md5s[path] = md5_of_file(self._root / path)
        return self._md5s[path]

    def _resources(self, room: str) -> list[str]:
        files = (file.relative_to(self._root).as_posix() for file in files_in(self._root / room))
        return [path for path in files if not path.endswith(".py") and not self._ignored.match_file(path)]

    def _imports(self, path: str) -> Sequence[str]:
        """The files of the project that a module imports and that can change a result."""
        if path not in self._found:
            md5 = self._md5(path)
            if md5 not in self._known:
                self._known[md5] = sorted(set(_names(path, (self._root / path).read_text(encoding="utf-8"))))
            self._found[path] = [file for name in self._known[md5] for file in self._files(name)]
        return self._found[path]

    def _files(self, name: str) -> Sequence[str]:
        """Files that `import name` runs and that can change a result: the packages above it, and itself."""
        if name not in self._places:
            above, _, _ = name.rpartition(".")
            place = name.replace(".", "/")
            own = [path for path in (f"{place}.py", f"{place}/__init__.py") if self._counts(path)]
            self._places[name] = [*(self._files(above) if above else ()), *own]
        return self._places[name]

    def _counts(self, path: str) -> bool:
        if path.startswith(VALIDATED) or not (self._root / path).is_file():
            return False
        return not self._ignored.match_file(path)

    def _recalled(self) -> dict[str, list[str]]:
        with suppress(OSError, ValueError, TypeError, KeyError):
            if self._memory is not None:
                kept = json.loads(self._memory.read_text(encoding="utf-8"))
                return dict(kept["imports"]) if kept["version"] == VERSION else {}
        return {}

    def _remember(self) -> None:
        used = {self._md5(path): self._known[self._md5(path)] for path in self._found}
        if self._memory is not None and used != self._recalled():
            replace_text(self._memory, json.dumps({"version": VERSION, "imports": used}))


def text_of(files: dict[str, str]) -> str:
    """A list as it is written."""
    return json.dumps(files, indent=1, sort_keys=True) + "\n"


def _names(path: str, text: str) -> Iterator[str]:
    """The names of the project's modules, and of what may be one, in the imports of a module."""
    try:
        tree = ast.parse(text, path)
    except SyntaxError as error:
        raise InputError(f"this is not Python: {error.msg}", where=f"{path}:{error.lineno}") from error
    for node in _statements(tree):
        names = list[str]()
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise InputError("a relative import", where=f"{path}:{node.lineno}", do="write imports in full")
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def _statements(node: Any) -> Iterator[ast.AST]:
    """All statements below a node but those under `if TYPE_CHECKING:`; an import is a statement."""
    hidden = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        below = getattr(node, part, None)
        if isinstance(below, list) and not (hidden and part == "body"):
            for child in below:
                yield child
                yield from _statements(child)
