"""Check that dvc.yaml lists the code and the parameters that each stage uses; --write brings the code up to date.

python -m dev.stage_dependencies            # say what is wrong, exit 1 if anything is
python -m dev.stage_dependencies --write    # rewrite the code dependencies in dvc.yaml; parameters are yours to write

A stage depends on its program in tasks/ and on the rooms of juicer/ that the program imports, at any depth. A room is
listed as its folder. A stage that costs GPU hours (`meta: {code: exact}`) lists a room as its folder only if it uses
every module in it, and otherwise the modules. Two kinds of code are not listed:

- Settings and recipes. params.yaml spells out every value, and DVC compares the values that a stage reads.
- What .dvcignore lists, because it can never change a result.
"""

import argparse
import ast
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pathspec
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 120
PACKAGES = ("juicer", "tasks")
VALIDATED = ("juicer/settings/", "juicer/recipe/")
"""Rooms whose values are in params.yaml."""


def module_of(command: str) -> str:
    """The module that a stage's command runs, as a path: tasks/sft.py."""
    found = re.search(r"python -m ([\w.]+)", command)
    if found is None:
        raise ValueError(f"no `python -m` in {command!r}")
    return found[1].replace(".", "/") + ".py"


def code_used(stage: dict[str, Any], root: Path = ROOT) -> list[str]:
    """The code dependencies that a stage of dvc.yaml should list, as sorted paths, its own program last."""
    program = module_of(stage["cmd"])
    modules = closure(program, root)
    exact = (stage.get("meta") or {}).get("code") == "exact"
    found = {_room_or_module(path, modules, exact, root) for path in modules if path.startswith("juicer/")}
    return [*sorted(found), *(path for path in modules if not path.startswith("juicer/"))]


def _room_or_module(path: str, used: Iterable[str], exact: bool, root: Path) -> str:
    room = "/".join(path.split("/")[:2])
    whole = set(_modules_of(room, root)) <= set(used)
    return path if not (root / room).is_dir() or (exact and not whole) else room


@cache
def _modules_of(room: str, root: Path) -> tuple[str, ...]:
    """The files of a room that DVC compares."""
    files = (path.relative_to(root).as_posix() for path in (root / room).rglob("*") if path.is_file())
    return tuple(path for path in files if not ignored(path, root))


@cache
def _ignored(root: Path) -> pathspec.PathSpec[Any]:
    place = root / ".dvcignore"
    return pathspec.PathSpec.from_lines("gitignore", place.read_text(encoding="utf-8").splitlines())


def ignored(path: str, root: Path = ROOT) -> bool:
    """Whether .dvcignore lists a file."""
    return _ignored(root).match_file(path)


@cache
def closure(module: str, root: Path = ROOT) -> tuple[str, ...]:
    """The module and all modules of juicer and tasks that it imports, at any depth, that can change a result.

    Imports inside functions count, those for type checking do not.
    """
    found, todo = set[str](), [module]
    while todo:
        path = todo.pop()
        if path in found or path.startswith(VALIDATED) or ignored(path, root):
            continue
        if not (root / path).is_file():
            raise FileNotFoundError(f"dvc.yaml runs {path}, which does not exist")
        found.add(path)
        todo += _imports(root / path, root)
    return tuple(sorted(found))


def parameters(module: str, root: Path = ROOT) -> set[str]:
    """The keys that a stage reads: literals given to stage.read and stage.value in its modules of tasks."""
    keys = set()
    for path in closure(module, root):
        if not path.startswith(("tasks/", "juicer/stages/")):
            continue
        for node in ast.walk(_tree(root / path)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            called_on = node.func.value
            if node.func.attr in ("read", "value") and isinstance(called_on, ast.Name) and called_on.id == "stage":
                key = node.args[0] if node.args else None
                if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
                    raise ValueError(f"{path}:{node.lineno}: write the key as a literal, so that it can be checked")
                keys.add(key.value)
    return keys


def words_of(command: str) -> set[str]:
    """The keys of params.yaml that words of a command stand for, as `params` lists them (juicer/stages/words.py)."""
    words = (word for word in shlex.split(command) if word.startswith("@graph."))
    return {word.removeprefix("@").replace("@key", "${key}") for word in words}


def templates(graph: dict[str, Any]) -> dict[str, Any]:
    """The stages of dvc.yaml as written, `foreach` unwrapped."""
    return {name: stage.get("do", stage) for name, stage in graph["stages"].items()}


def is_code(path: Any) -> bool:
    """Whether a dependency is one of our modules or rooms."""
    return isinstance(path, str) and path.split("/")[0] in PACKAGES


def code_of(stage: dict[str, Any]) -> list[str]:
    """The code that a stage lists, in its order."""
    return [path for path in stage.get("deps", []) if is_code(path)]


def rewritten(text: str, root: Path = ROOT) -> str:
    """The text of dvc.yaml with the code dependencies brought up to date; all else stays as it was written."""
    lines, stages = text.splitlines(), templates(YAML().load(text))
    for stage in reversed(stages.values()):
        code = code_used(stage, root)
        if code_of(stage) == code:
            continue
        starts = sorted(stage.lc.key(key)[0] for key in stage)
        start = stage.lc.key("deps")[0] if "deps" in stage else starts[1]
        end = next(line for line in starts if line > start) if "deps" in stage else start
        while end > start and lines[end - 1].lstrip()[:1] in ("", "#"):
            end -= 1  # a comment above the next key belongs to that
        data = [each for each in stage.get("deps", []) if not is_code(each)]
        lines[start:end] = _layout(data, code, indent=stage.lc.key("cmd")[1])
    return "\n".join(lines) + "\n"


def _layout(data: Sequence[str], code: Sequence[str], indent: int) -> list[str]:
    """The lines of `deps:`, data first, code below."""
    quoted = [f'"{each}"' if "$" in each else each for each in data]
    lines, line = [" " * indent + "deps:"], " " * (indent + 2) + "["
    for items in (quoted, code):
        for item in items:
            if len(line) + len(item) + 2 > WIDTH:
                lines.append(line.rstrip())
                line = " " * (indent + 3)
            line += item + ", "
        if items is quoted and quoted:
            lines.append(line.rstrip())
            line = " " * (indent + 3)
    return [*lines, line.rstrip(", ") + "]"]


def faults(text: str, root: Path = ROOT) -> list[str]:
    """What dvc.yaml lists wrongly, a sentence per fault."""
    wrong = []
    for name, stage in templates(YAML(typ="safe").load(text)).items():
        program = module_of(stage["cmd"])
        used = sorted(parameters(program, root) | words_of(stage["cmd"]))
        listed = sorted(stage.get("params", []))
        if code_of(stage) != code_used(stage, root):
            wrong.append(f"{name}: deps does not list the code that {program} uses (--write corrects it)")
        if "${" in stage["cmd"]:
            wrong.append(f"{name}: cmd has a value that a shell would read; see juicer/stages/words.py")
        if listed != used:
            wrong.append(f"{name}: params lists {listed}, but {program} or its command reads {used}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dev.stage_dependencies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="rewrite the code dependencies in dvc.yaml")
    given = parser.parse_args()
    path = ROOT / "dvc.yaml"
    text = path.read_text(encoding="utf-8")
    if given.write and rewritten(text) != text:
        text = rewritten(text)
        path.write_text(text, encoding="utf-8")
        print("dvc.yaml: code dependencies written")
    wrong = faults(text)
    print("\n".join(wrong) if wrong else "dvc.yaml lists what the stages use")
    return int(bool(wrong))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _imports(path: Path, root: Path) -> list[str]:
    found: list[str] = []
    for node in _runtime(_tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found += _files(alias.name, root)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path}:{node.lineno}: write imports in full")
            found += _files(node.module or "", root)
            for alias in node.names:
                found += _files(f"{node.module}.{alias.name}", root)
    return found


def _runtime(node: ast.AST) -> list[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`."""
    found = [node]
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            found += _runtime(child)
    return found


def _files(name: str, root: Path) -> list[str]:
    """Files that `import name` runs: the packages above it, and itself. Nothing if it is not ours."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return []
    files = []
    for end in range(1, len(parts) + 1):
        place = "/".join(parts[:end])
        files += [each for each in (f"{place}.py", f"{place}/__init__.py") if (root / each).is_file()]
    return files


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
