"""Which modules and parameters each stage of dvc.yaml uses, read from its source; --write brings dvc.yaml up to date.

python tests/dependencies.py            # say what is wrong, exit 1 if anything is
python tests/dependencies.py --write    # rewrite the code dependencies in dvc.yaml; parameters are for you to write
"""

import argparse
import ast
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 120
PACKAGES = ("juicer", "tasks")
# What can refuse, end, interrupt or show a stage but never change its result. (stage.py loads the validation by name.)
# A dependency more is not free: DVC writes the whole of dvc.lock anew after every stage.
EXCLUDED = {
    "juicer/runtime/devices.py",
    "juicer/runtime/errors.py",
    "juicer/runtime/events.py",
    "juicer/stages/cancellation.py",
    "juicer/stages/checkpoint.py",
    "juicer/stages/gpus.py",
    "juicer/stages/live.py",
    "juicer/recipe/activation.py",
    "juicer/stages/speed.py",
}


def module_of(command: str) -> str:
    """The module that a stage's command runs, as a path: tasks/sft.py."""
    found = re.search(r"python -m ([\w.]+)", command)
    if found is None:
        raise ValueError(f"no `python -m` in {command!r}")
    return found[1].replace(".", "/") + ".py"


@cache
def closure(module: str, root: Path = ROOT) -> tuple[str, ...]:
    """The module and all modules of juicer and tasks that it imports, at any depth, as sorted paths.

    Imports inside functions count, those for type checking do not. A package whose __init__ holds nothing but a
    docstring is left out.
    """
    found, todo = set[str](), [module]
    while todo:
        path = todo.pop()
        if path in found or path in EXCLUDED:
            continue
        if not (root / path).is_file():
            raise FileNotFoundError(f"dvc.yaml runs {path}, which does not exist")
        found.add(path)
        todo += _imports(root / path, root)
    return tuple(sorted(path for path in found if path == module or not _only_docstring(root / path)))


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
                    raise ValueError(f"{path}:{node.lineno}: the key is no literal, so nobody can see what is read")
                keys.add(key.value)
    return keys


def templates(graph: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml as written, `foreach` unwrapped."""
    return {name: stage.get("do", stage) for name, stage in graph["stages"].items()}


def is_code(path: Any) -> bool:
    """Whether a dependency is one of our modules."""
    return isinstance(path, str) and path.split("/")[0] in PACKAGES and path.endswith(".py")


def code_of(stage: dict[str, Any]) -> list[str]:
    """The modules that a stage lists, in its order."""
    return [path for path in stage.get("deps", []) if is_code(path)]


def rewritten(text: str, root: Path = ROOT) -> str:
    """The text of dvc.yaml with the code dependencies brought up to date; all else stays as it was written."""
    lines, stages = text.splitlines(), templates(YAML().load(text))
    for stage in reversed(stages.values()):
        modules = list(closure(module_of(stage["cmd"]), root))
        if code_of(stage) == modules:
            continue
        starts = sorted(stage.lc.key(key)[0] for key in stage)
        start = stage.lc.key("deps")[0] if "deps" in stage else starts[1]
        end = next(line for line in starts if line > start) if "deps" in stage else start
        while end > start and lines[end - 1].lstrip()[:1] in ("", "#"):
            end -= 1  # a comment above the next key belongs to that
        data = [each for each in stage.get("deps", []) if not is_code(each)]
        lines[start:end] = _layout(data, modules, indent=stage.lc.key("cmd")[1])
    return "\n".join(lines) + "\n"


def _layout(data: list[str], modules: list[str], indent: int) -> list[str]:
    """The lines of `deps:`, data first, code below."""
    quoted = [f'"{each}"' if "$" in each else each for each in data]
    lines, line = [" " * indent + "deps:"], " " * (indent + 2) + "["
    for items in (quoted, modules):
        for item in items:
            if len(line) + len(item) + 2 > WIDTH:
                lines.append(line.rstrip())
                line = " " * (indent + 3)
            line += item + ", "
        if items is quoted and quoted:
            lines.append(line.rstrip())
            line = " " * (indent + 3)
    return [*lines, line.rstrip(", ") + "]"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="rewrite the code dependencies in dvc.yaml")
    given = parser.parse_args()
    path = ROOT / "dvc.yaml"
    text = path.read_text(encoding="utf-8")
    if given.write and rewritten(text) != text:
        text = rewritten(text)
        path.write_text(text, encoding="utf-8")
        print("dvc.yaml: code dependencies written")
    wrong = []
    for name, stage in templates(YAML(typ="safe").load(text)).items():
        module = module_of(stage["cmd"])
        listed, used = sorted(stage.get("params", [])), sorted(parameters(module))
        if code_of(stage) != list(closure(module)):
            wrong.append(f"{name}: deps lists other modules than {module} uses (--write mends it)")
        if listed != used:
            wrong.append(f"{name}: params lists {listed}, {module} reads {used}")
    print("\n".join(wrong) if wrong else "dvc.yaml lists what the stages use")
    return int(bool(wrong))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _only_docstring(path: Path) -> bool:
    """Whether a package's __init__ holds nothing but a docstring."""
    if path.name != "__init__.py":
        return False
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in _tree(path).body)


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
