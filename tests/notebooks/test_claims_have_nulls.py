"""Every numeric claim knows its null, the value without what it guards, or is exact: pinned by a tight bound, or by a
band that is computed from what chance allows (given as **band)."""

import ast
import json
import math
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
EXACT = 1e-2  # a bound as tight as this pins an equality


def claims(path: Path):
    """Name, keywords and their source of every check with a band."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            for node in ast.walk(ast.parse("".join(cell["source"]))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "check":
                    given = {keyword.arg: keyword.value for keyword in node.keywords}
                    if {"low", "high", None} & set(given):
                        yield ast.unparse(node.args[0]), given


def bounds(value: ast.expr) -> list[float]:
    """The numbers of a band, whatever the datasets they are for; infinite where they are computed from data."""
    try:
        found = eval(ast.unparse(value), {"__builtins__": {}})
    except (NameError, TypeError):
        return [math.inf]
    return [abs(number) for number in (found.values() if isinstance(found, dict) else [found])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_numeric_claim_has_a_null_or_is_exact(path):
    bare = [
        name for name, given in claims(path)
        if not {"null", None} & set(given)
        and not all(size <= EXACT for value in given.values() for size in bounds(value))
    ]  # fmt: skip
    assert not bare, "\n".join(bare)
