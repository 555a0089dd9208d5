"""The programs that run the suite again: on strangers' machines, and in another order."""

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import flakes
import pytest
import reliability
import shuffled
import strangers

from distill_utils import _store, settings


class Item(NamedTuple):
    """What the plugin looks at of a test or a cell."""

    path: Path
    name: int


def order(seed: int, monkeypatch) -> list[Item]:
    monkeypatch.setenv("ORDER_SEED", str(seed))
    items = [
        Item(Path(file), i) for file in ("lesson.ipynb", "test_a.py", "test_b.py", "test_c.py") for i in range(9)
    ]
    shuffled.pytest_collection_modifyitems(items)
    return items


def test_a_seed_shuffles_files_and_tests_and_leaves_cells_where_they_are(monkeypatch):
    orders = [order(seed, monkeypatch) for seed in range(5)]
    assert orders[1] == order(1, monkeypatch)
    firsts = {tuple(dict.fromkeys(item.path.name for item in items)) for items in orders}
    assert len(firsts) > 2, "files are shuffled"
    for items in orders:
        assert sorted(items) == sorted(orders[0])
        assert [item.name for item in items[:9] if item.path.suffix == ".ipynb"] == list(range(9))
        assert sum(one.path != other.path for one, other in pairwise(items)) == 3, "a file's tests stay together"
        tests = [item.name for item in items if item.path.name == "test_a.py"]
        assert sorted(tests) == list(range(9)) != tests


@pytest.mark.parametrize(
    ("closing", "expected"),
    [
        ("12 passed in 3.1s", (12, 0, 0)),
        ("== 2 failed, 700 passed, 5 skipped, 1 warning, 2 errors in 61.02s (0:01:01) ==", (700, 4, 5)),
        ("1 error in 0.5s", (0, 1, 0)),
    ],
)
def test_the_outcome_is_read_from_the_closing_line(closing, expected):
    assert tuple(flakes.outcome(f"1 passed in 1s and no more\n3 passed in 9.0s\n{closing}\n").values()) == expected


def test_a_run_that_did_not_end_has_no_outcome():
    with pytest.raises(ValueError, match="Killed"):
        flakes.outcome("collected 3 items\nKilled")


@pytest.fixture
def kept_elsewhere(tmp_path, monkeypatch):
    """reliability.json and its page in a folder of the test's own."""
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    monkeypatch.setattr(reliability, "PAGE", tmp_path / "reliability.md")
    (tmp_path / "results").mkdir()


def test_only_missing_runs_are_started_and_each_is_kept_as_it_ends(kept_elsewhere, monkeypatch):
    started = []

    def attempt(what, run):
        started.append(run)
        if run == 4:
            raise KeyboardInterrupt
        return {"what": what, "run": run, "failed": 0}, ""

    monkeypatch.setattr(flakes, "attempt", attempt)
    assert flakes.main(["--runs", "2", "--what", "unit"]) == 0
    with pytest.raises(KeyboardInterrupt):
        flakes.main(["--runs", "5", "--what", "unit"])
    assert started == [1, 2, 3, 4]
    assert [row["run"] for row in reliability.kept("flakes")] == [1, 2, 3]
    assert flakes.main(["--runs", "1", "--what", "whole"]) == 0
    assert flakes.main(["--runs", "1", "--what", "unit", "--anew"]) == 0
    assert [(row["what"], row["run"]) for row in reliability.kept("flakes")] == [("unit", 1), ("whole", 1)]


def test_a_run_that_failed_fails_the_whole(kept_elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(
        flakes,
        "attempt",
        lambda what, run: ({"what": what, "run": run, "failed": run - 1}, "FAILED test_a.py::b - c"),
    )
    assert flakes.main(["--runs", "2", "--what", "unit"]) == 1
    assert "FAILED test_a.py::b\n" in capsys.readouterr().out


@pytest.mark.parametrize("machine", strangers.machines(), ids=lambda machine: machine["name"])
def test_a_machine_is_set_up_by_the_workflows_own_line(machine):
    line = strangers.install_line(machine)
    assert "${{" not in line
    assert machine["options"] in line
    assert line.endswith(machine["pair"])


def test_a_machine_without_its_python_says_so(kept_elsewhere, tmp_path):
    row = strangers.attempt({"name": "of the future", "python": "3.99", "options": "", "pair": ""}, tmp_path / "told")
    assert "no Python 3.99 here" in row["how"]
    assert row["passed"] == strangers.UNTRIED


def test_every_python_up_to_the_newest_is_a_machine():
    pythons = {machine["python"] for machine in strangers.machines() if "highest" in machine["options"]}
    assert pythons == {f"3.{minor}" for minor in range(11, 15)}


def test_the_rows_that_are_committed_failed_nowhere(request):
    assert request.node.nodeid == flakes.READS_THE_TABLE  # by this name it is left out of the runs
    tables = _store.read_json(settings.ROOT / "results" / "reliability.json")
    assert not [row for table in ("machines", "flakes") for row in tables[table] if row["failed"] not in (0, "–")]
    whole = [row for row in tables["flakes"] if row["what"] == "whole"]
    assert {row["run"] for row in whole} >= set(range(1, 11))
    assert {row["threads"] for row in whole} == {1, 2}
    assert {row["machine"] for row in tables["machines"]} >= {machine["name"] for machine in strangers.machines()}
