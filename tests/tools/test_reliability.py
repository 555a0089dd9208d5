"""The tables of stress tests: complete, without a failure, and on the page as they were recorded."""

import ast
import json

import flakes
import mutants
import notebook_rules
import pytest
import reliability

KEPT = reliability.kept()


def test_the_page_is_generated_from_the_kept_tables():
    assert reliability.PAGE.read_text(encoding="utf-8") == reliability.page(KEPT)


def test_a_bar_in_a_cell_does_not_end_it():
    assert "| a\\|b | **no** |" in reliability.page({"faults": [{"fault": "a|b", "completed": False}]})


@pytest.mark.parametrize("table", reliability.TABLES)
def test_no_row_of_a_table_failed(table, request):
    assert flakes.READS_THE_TABLE in request.node.nodeid  # by this name it is left out of repeated runs
    if table in ("claims", "datasets") and table not in KEPT:
        pytest.skip(f"the program that writes {table} has not run yet")
    rows = KEPT[table]
    assert rows
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert not [row for row in rows if any(value is False for value in row.values())]
    assert not [row for row in rows if row.get("failed", 0) not in (0, "–") or row.get("caught by") == ""]


def test_every_fault_and_every_machine_has_a_row():
    import faults
    import strangers

    assert [row["fault"] for row in KEPT["mutants"]] == [mutant.name for mutant in mutants.MUTANTS]
    assert {row["fault"] for row in KEPT["faults"]} == {fault.fault for fault in faults.FAULTS}
    assert {row["machine"] for row in KEPT["machines"]} >= {machine["name"] for machine in strangers.machines()}
    assert {row["run"] for row in KEPT["flakes"] if row["what"] == "whole"} >= set(range(1, 11))


def test_every_fault_can_still_be_put_in_and_every_claim_is_still_made(tmp_path):
    for fault in mutants.MUTANTS + mutants.CLAIMS:
        for name in ("distill_utils", "notebooks"):
            (tmp_path / name).mkdir(exist_ok=True)
        notebook = getattr(fault, "notebook", None)
        file = f"distill_utils/{fault.module}.py" if fault.module else f"notebooks/{notebook}.ipynb"
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text((reliability.ROOT / file).read_text(encoding="utf-8"), encoding="utf-8")
        mutants.put_in(fault, tmp_path)
        if notebook:
            book = notebook_rules.read(reliability.ROOT / "notebooks" / f"{notebook}.ipynb")
            sources = [source for _, _, source in notebook_rules.cells(book, "code")]
            nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
            assert fault.name in [node.value for node in nodes if isinstance(node, ast.Constant)]


def test_a_notebook_with_a_fault_runs_to_its_end_and_every_check_is_measured(tmp_path):
    lines = ["from distill_utils.checks import begin, check", "begin('00_a')", "check('one', 1, low=2)"]
    empty = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    cells = [empty | {"id": str(i), "source": source}
             for i, source in enumerate(["\n".join(lines), "check('two', 3.0, low=2, null=0)"])]  # fmt: skip
    book = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    mutants.copied(tmp_path, ("distill_utils",))
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00_a.ipynb").write_text(json.dumps(book), encoding="utf-8")
    found = mutants.claimed("00_a", tmp_path, tmp_path / "runs")
    assert {name: (row["value"], row["passed"]) for name, row in found.items()} == {
        "one": (1, False),
        "two": (3, True),
    }
