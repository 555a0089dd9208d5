"""The programs that run the suite again: in another order, and with other versions."""

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import flakes
import pytest
import reliability
import shuffled
import strangers

from distill_utils import settings


class Item(NamedTuple):
    """What the plugin uses of a test or a cell."""

    path: Path
    name: int


def order(seed: int, monkeypatch) -> list[Item]:
    monkeypatch.setenv("ORDER_SEED", str(seed))
    files = ("lesson.ipynb", "test_a.py", "test_b.py", "test_c.py")
    items = [Item(Path(file), i) for file in files for i in range(9)]
    shuffled.pytest_collection_modifyitems(items)
    return items


def test_a_seed_shuffles_files_and_tests_and_leaves_cells_in_order(monkeypatch):
    orders = [order(seed, monkeypatch) for seed in range(5)]
    assert orders[1] == order(1, monkeypatch)
    assert len({tuple(dict.fromkeys(item.path.name for item in items)) for items in orders}) > 2
    for items in orders:
        assert sorted(items) == sorted(orders[0])
        assert [item.name for item in items[:9] if item.path.suffix == ".ipynb"] == list(range(9))
        assert sum(one.path != other.path for one, other in pairwise(items)) == 3, "a file's tests stay together"
        assert [item.name for item in items if item.path.name == "test_a.py"] != list(range(9))


@pytest.mark.parametrize(
    ("closing", "expected"),
    [
        ("12 passed in 3.1s", (12, 0, 0)),
        ("== 2 failed, 700 passed, 5 skipped, 1 warning, 2 errors in 61.02s (0:01:01) ==", (700, 4, 5)),
    ],
)
def test_the_outcome_is_read_from_the_closing_line(closing, expected):
    assert tuple(flakes.outcome(f"1 passed in 1s and no more\n3 passed in 9.0s\n{closing}\n").values()) == expected
    with pytest.raises(ValueError, match="Killed"):
        flakes.outcome("collected 3 items\nKilled")


def test_only_missing_runs_are_started_and_each_is_recorded_as_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    monkeypatch.setattr(reliability, "PAGE", tmp_path / "reliability.md")
    started = []

    def attempt(what, run):
        started.append(run)
        if run == 4:
            raise KeyboardInterrupt
        return {"what": what, "run": run, "failed": int(run == 3)}, "FAILED test_a.py::b - c"

    monkeypatch.setattr(flakes, "attempt", attempt)
    assert flakes.main(["--runs", "2", "--what", "unit"]) == 0
    with pytest.raises(KeyboardInterrupt):
        flakes.main(["--runs", "5", "--what", "unit"])
    assert started == [1, 2, 3, 4]
    assert [row["run"] for row in reliability.kept()["flakes"]] == [1, 2, 3]
    assert flakes.main(["--runs", "3", "--what", "unit"]) == 1, "run 3 failed"


@pytest.mark.parametrize("machine", strangers.machines(), ids=lambda machine: machine["name"])
def test_a_machine_is_installed_by_the_workflows_own_line(machine):
    line = strangers.install_line(machine)
    assert "${{" not in line
    assert machine["options"] in line
    assert line.endswith(machine["pair"])


def test_a_machine_without_its_python_is_recorded_as_not_tried(tmp_path):
    row = strangers.attempt({"name": "of the future", "python": "3.99", "options": "", "pair": ""}, tmp_path / "log")
    assert "no Python 3.99 here" in row["how"]
    assert row["passed"] == "–"
