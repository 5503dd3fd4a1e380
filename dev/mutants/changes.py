"""The changes that are made to a module, one at a time: operators, constants, conditions, arguments, statements.

Left alone is what has no behaviour to test: annotations, decorators, docstrings, the words of errors and options, and
`strict=` of `zip`, which only states what holds anyway. Outside functions and classes, only constants are changed.
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Div,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitAnd: (ast.BitOr,),
}
NAMES = {
    "max": "min",
    "min": "max",
    "any": "all",
    "all": "any",
    "argmax": "argmin",
    "amax": "amin",
    "mean": "sum",
    "ceil": "floor",
    "sorted": "list",
    "abs": "float",
}
UNTESTED = ("annotation", "returns", "decorator_list", "bases")
"""Fields of nodes that are left alone."""
LEFT = {"strict", "help"}
"""Keyword arguments that are left alone."""
WORDS = {"what", "do"}
"""Names of variables that hold the words of an error."""


@dataclass(frozen=True)
class Change:
    """One change of a module."""

    module: str
    line: int
    source: str
    """The first line of what is changed, as it stands in the file."""
    what: str
    """Before and after."""
    code: CodeType
    """The changed module, compiled."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What stays the same while lines are added elsewhere in the module."""
        return self.module, self.source, self.what


def changes_of(root: Path, module: str) -> list[Change]:
    """Every change of a module, in the order of its lines; no two give the same module.

    Args:
        root: the repository.
        module: path of the module, relative to it.
    """
    text = (root / module).read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    seen, found = set(), []
    for owner, name, place, old, new in _replacements(tree):
        what = f"{_words(old)} -> {_words(new)}"
        if _words(old) == _words(new) or (old.lineno, old.col_offset, what) in seen:
            continue
        seen.add((old.lineno, old.col_offset, what))
        _put(owner, name, place, new)
        ast.fix_missing_locations(tree)
        code = compile(tree, str(root / module), "exec", dont_inherit=True)
        _put(owner, name, place, old)
        found.append(Change(module, old.lineno, lines[old.lineno - 1].strip(), what, code))
    return sorted(found, key=lambda change: change.line)


def _put(owner: ast.AST, name: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(owner, name, node)
    else:
        getattr(owner, name)[place] = node


def _words(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())


Replacement = tuple[ast.AST, str, int | None, Any, Any]
"""The owner of a node, the field that holds it, its place if that is a list, the node, and what replaces it."""


def _replacements(tree: ast.Module) -> Iterator[Replacement]:
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            yield from _within(statement)
        elif isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            yield from ((statement, "value", None, statement.value, new) for new in _variants(statement.value))


def _within(owner: ast.AST) -> Iterator[Replacement]:
    for name, value in ast.iter_fields(owner):
        if name in UNTESTED:
            continue
        for place, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(node, ast.AST) or _is_silent(node):
                continue
            if isinstance(node, ast.expr | ast.stmt):
                yield from ((owner, name, place, node, new) for new in _variants(node))
                if name in ("test", "ifs") and not isinstance(node, ast.stmt | ast.Compare | ast.UnaryOp):
                    yield owner, name, place, node, ast.copy_location(ast.UnaryOp(ast.Not(), node), node)
            yield from _within(node)


def _is_silent(node: ast.AST) -> bool:
    """Whether nothing in a node is to be changed."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.Assert() | ast.Import() | ast.ImportFrom():
            return True
        case ast.keyword(arg=str(name)):
            return name in LEFT
        case ast.Call(func=ast.Name(id=name)):
            return name.endswith("Error")
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name in WORDS
    return False


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may be replaced by."""

    def changed(**fields: Any) -> ast.AST:
        new = copy.copy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    match node:
        case ast.Constant(value=bool(value)):
            yield changed(value=not value)
        case ast.Constant(value=int(value)):
            yield from (changed(value=value + 1), changed(value=value - 1))
        case ast.Constant(value=float(value)):
            yield from (changed(value=value + 1), changed(value=value * 2))
        case ast.Constant(value=str(value)):
            yield changed(value=f"{value}?")
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator):
            yield from (changed(op=other()) for other in OPERATORS.get(type(operator), ()))
        case ast.BoolOp(op=operator, values=values):
            yield from (changed(op=other()) for other in OPERATORS[type(operator)])
            rest = [_without(values, place) for place in range(len(values))]
            yield from (changed(values=each) if len(each) > 1 else each[0] for each in rest)
        case ast.Compare(ops=[operator, *rest]):
            yield from (changed(ops=[other(), *rest]) for other in OPERATORS.get(type(operator), ()))
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.IfExp(body=body, orelse=orelse):
            yield from (body, orelse)
        case ast.Name(id=name) if name in NAMES:
            yield changed(id=NAMES[name])
        case ast.Attribute(attr=name) if name in NAMES:
            yield changed(attr=NAMES[name])
        case ast.Slice(lower=lower, upper=upper):
            yield from (changed(lower=_plus_one(lower)) for _ in [0] if lower and not isinstance(lower, ast.Constant))
            yield from (changed(upper=_plus_one(upper)) for _ in [0] if upper and not isinstance(upper, ast.Constant))
        case ast.Call(func=function, args=args, keywords=keywords):
            for place in range(len(args) - 1 if _words(function) not in ("max", "min") else 0):
                yield changed(args=[*args[:place], args[place + 1], args[place], *args[place + 2 :]])
            for place, keyword in enumerate(keywords):
                if keyword.arg not in LEFT:
                    yield changed(keywords=_without(keywords, place))
        case ast.Return(value=ast.expr()):
            yield changed(value=ast.Constant(None))
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Continue() | ast.Break():
            yield ast.copy_location(ast.Pass(), node)


def _without(values: list[Any], place: int) -> list[Any]:
    return values[:place] + values[place + 1 :]


def _plus_one(node: ast.expr) -> ast.expr:
    return ast.BinOp(node, ast.Add(), ast.Constant(1))
