"""Which architectures the installed transformers has, read from its source: importing its tables takes seconds."""

import ast
import importlib.util
from functools import cache
from pathlib import Path

CONFIGURATIONS = "CONFIG_MAPPING_NAMES"
CAUSAL = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
MASKED = "MODEL_FOR_MASKED_LM_MAPPING_NAMES"
CLASSIFIERS = "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"
FILES = {CONFIGURATIONS: ("auto_mappings.py", "configuration_auto.py")}
"""Files of a table, if it is not in modeling_auto.py."""


def is_known(model_type: str, table: str) -> bool:
    """Whether a table has a `model_type`; true if the table cannot be read, so that nothing is refused for that."""
    names = model_types(table)
    return not names or model_type in names


@cache
def model_types(table: str) -> frozenset[str]:
    """The `model_type`s in one of transformers' tables; empty if the table cannot be read."""
    found = importlib.util.find_spec("transformers")
    if found is None or found.origin is None:
        return frozenset()
    folder = Path(found.origin).parent / "models" / "auto"
    names: set[str] = set()
    for name in FILES.get(table, ("modeling_auto.py",)):
        if (folder / name).is_file():
            names |= _keys(ast.parse((folder / name).read_text(encoding="utf-8")), table)
    return frozenset(names)


def _keys(module: ast.Module, table: str) -> set[str]:
    """The keys of a table: of pairs in a list, and of dictionaries."""
    keys: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [table]:
            for inner in ast.walk(node.value):
                first = inner.elts[:1] if isinstance(inner, ast.Tuple) else getattr(inner, "keys", [])
                keys |= {key.value for key in first if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return keys
