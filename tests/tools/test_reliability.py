"""The tables of stress tests: complete, without a failure, and on the page as they were recorded."""

import flakes
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
    rows = KEPT[table]
    assert rows
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert not [row for row in rows if any(value is False for value in row.values())]
    assert not [row for row in rows if row.get("failed", 0) not in (0, "–") or row.get("caught by") == ""]


def test_every_fault_and_every_machine_has_a_row():
    import faults
    import mutants
    import strangers

    assert [row["fault"] for row in KEPT["mutants"]] == [mutant.name for mutant in mutants.MUTANTS]
    assert {row["fault"] for row in KEPT["faults"]} == {fault.fault for fault in faults.FAULTS}
    assert {row["machine"] for row in KEPT["machines"]} >= {machine["name"] for machine in strangers.machines()}
    assert {row["run"] for row in KEPT["flakes"] if row["what"] == "whole"} >= set(range(1, 11))
