"""The page of what was done to break the series."""

import reliability

from distill_utils import _store, settings


def test_the_page_is_generated_from_the_kept_tables():
    found = _store.read_json(settings.ROOT / "results" / "reliability.json")
    assert reliability.PAGE.read_text(encoding="utf-8") == reliability.page(found)


def test_every_row_of_a_table_has_the_same_columns():
    for table, rows in _store.read_json(settings.ROOT / "results" / "reliability.json").items():
        assert all(list(row) == list(rows[0]) for row in rows), table


def test_nothing_that_was_done_broke_the_series():
    tables = _store.read_json(settings.ROOT / "results" / "reliability.json")
    assert not [row for row in tables["mutants"] if not row["caught by"]]
    assert not [row for row in tables["properties"] if row["failures"]]
    done = tables["faults"] + tables["browser"]
    assert not [row for row in done if any(value is False for value in row.values())]


def test_a_word_with_a_bar_stays_in_its_cell(monkeypatch):
    monkeypatch.setitem(reliability.TABLES, "trial", ("Trial", "What was done."))
    assert "| a\\|b | **no** |" in reliability.page({"trial": [{"what": "a|b", "held": False}]})
