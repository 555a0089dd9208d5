"""Notebooks as tests: our options for nbval, tried on notebooks that are broken on purpose."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
CHECK = "from distill_utils.checks import begin, check\nbegin('b')\ncheck('claim', {value}, low=5)"


def checked(source, printed):
    return new_code_cell(
        source, execution_count=1, outputs=[new_output("stream", name="stdout", text=printed)],
        metadata={"tags": ["nbval-check-output"]},
    )  # fmt: skip


def unchecked(source, printed=""):
    cell = checked(source, printed)
    cell.metadata = {}
    return cell


BOOKS = {
    "good": [
        checked(CHECK.format(value=6), "PASS claim\n"),
        unchecked("import time; print(time.time())", "another time\n"),
        checked("import warnings; warnings.warn('beside the point'); print(1)", "1\n"),
        checked("import os; print(os.environ['OMP_NUM_THREADS'])", "1\n"),
        checked("print(os.environ['DISTILL_BUILD'].endswith('test'))", "True\n"),
    ],
    "broken_check": [checked(CHECK.format(value=4), "PASS claim\n")],
    "other_output": [checked("print(2)", "3\n")],
    "dead_kernel": [unchecked("import os; os._exit(1)"), unchecked("1")],
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Run these notebooks in a checkout of their own with our options; returns cell -> PASSED or FAILED, and text."""
    root = tmp_path_factory.mktemp("series")
    (root / "notebooks").mkdir()
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    for name, cells in BOOKS.items():
        nbformat.write(new_notebook(cells=cells), root / "notebooks" / f"{name}.ipynb")
    (root / "build").mkdir()
    shutil.copy(root / "notebooks" / "good.ipynb", root / "build" / "executed.ipynb")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TEST_THREADS"))
    }
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "--color=no", "--nbval-cell-timeout=120"],
        cwd=root, capture_output=True, text=True, timeout=400,
        env=environment | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
    )  # fmt: skip
    words = re.findall(r"^(PASSED|FAILED) notebooks/(\S+::Cell \d+)", run.stdout, re.M)
    return {cell: word for word, cell in words}, run.stdout


def test_a_good_notebook_passes_whatever_its_unchecked_cells_and_warnings_print(outcome):
    words, text = outcome
    assert [words.get(f"good.ipynb::Cell {i}") for i in range(len(BOOKS["good"]))] == ["PASSED"] * 5, text


def test_a_check_outside_its_band_fails_the_notebook(outcome):
    words, text = outcome
    assert words["broken_check.ipynb::Cell 0"] == "FAILED"
    assert "claim: measured 4, expected ≥ 5" in text


def test_a_checked_cell_that_prints_something_else_fails(outcome):
    assert outcome[0]["other_output.ipynb::Cell 0"] == "FAILED"


def test_a_dead_kernel_is_reported_long_before_the_timeout_of_a_cell(outcome):
    words, text = outcome
    assert [words[f"dead_kernel.ipynb::Cell {i}"] for i in (0, 1)] == ["FAILED", "FAILED"]
    assert "the kernel died while it ran this cell" in text


def test_only_the_notebooks_of_the_series_are_run(outcome):
    words, text = outcome
    assert len(words) == sum(map(len, BOOKS.values())), text
