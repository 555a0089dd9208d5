"""Every numeric claim knows its null, the value without what it guards, or is exact: pinned by a tight bound, or by a
band that is computed from what chance allows (given as **band)."""

import ast
import json
import math
import operator
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
SUMS = {ast.Pow: operator.pow, ast.Add: operator.add}  # such as 2**-7 + 1e-4
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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_lesson_lists_its_claims_with_their_values(path):
    sources = ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    last = max(place for place, source in enumerate(sources) if re.search(r"^ *check\(", source, re.MULTILINE))
    assert any("claims())" in source for source in sources[last:]), "add plots.show_table(checks.claims()) at the end"


def bounds(value: ast.expr) -> list[float]:
    """The numbers of a band, whatever the datasets they are for; infinite where they are computed from data."""
    if isinstance(value, ast.Dict):
        return [size for each in value.values for size in bounds(each)]
    if isinstance(value, ast.BinOp) and type(value.op) in SUMS:
        return [abs(SUMS[type(value.op)](*bounds(value.left), ast.literal_eval(value.right)))]
    try:
        return [abs(ast.literal_eval(value))]
    except ValueError:
        return [math.inf]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_numeric_claim_has_a_null_or_is_exact(path):
    bare = [
        name for name, given in claims(path)
        if not {"null", None} & set(given)
        and not all(size <= EXACT for value in given.values() for size in bounds(value))
    ]  # fmt: skip
    assert not bare, "\n".join(bare)
