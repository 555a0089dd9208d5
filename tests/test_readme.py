"""README.md holds what is generated, and would not pass with a number changed by hand."""

import json
import re
from pathlib import Path

import pytest

from distill_utils import readme, series

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def table(name: str) -> str:
    return re.search(f"<!-- {name}:begin -->\n(.*?)\n<!-- {name}:end -->", TEXT, re.DOTALL)[1]


def prose() -> str:
    text = re.sub(r"<!-- (\w+):begin -->.*?<!-- \1:end -->", "", TEXT, flags=re.DOTALL)
    return re.sub(r"^```.*?^```|`[^`]+`", "", text, flags=re.MULTILINE | re.DOTALL)


def test_readme_is_what_is_generated():
    assert readme.filled(TEXT) == TEXT, "run: python -m distill_utils readme"


@pytest.mark.parametrize("name", readme.TABLES)
def test_a_table_edited_by_hand_is_made_again(name):
    edited = TEXT.replace(table(name), re.sub(r"\d", "7", table(name)))
    assert edited != TEXT
    assert readme.filled(edited) == readme.filled(TEXT)


def test_check_writes_nothing_and_update_writes(monkeypatch, tmp_path):
    path = tmp_path / "README.md"
    edited = TEXT.replace("article:begin -->\n", "article:begin -->\nby hand\n")
    path.write_text(edited, encoding="utf-8")
    monkeypatch.setattr(readme, "README", path)
    assert readme.update(check=True) is False
    assert path.read_text(encoding="utf-8") == edited
    assert readme.update() is False
    assert path.read_text(encoding="utf-8") == readme.filled(TEXT)
    assert readme.update() is True


def test_every_notebook_is_in_the_table():
    linked = re.findall(r"\(notebooks/(\w+\.ipynb)\)", table("notebooks"))
    assert linked == [path.name for path in sorted(series.NOTEBOOKS.glob("*.ipynb"))]


def test_minutes_come_from_the_measured_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr(series, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(readme.settings, "results_folder", lambda: tmp_path)
    cells = [{"cell_type": "markdown", "source": "# 3. Title | one\n\nWhat is\nasked?\n\nMore."}]
    for stem in ("00_a", "01_b"):
        (tmp_path / f"{stem}.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    (tmp_path / "timings.json").write_text('{"00_a": {"seconds": 93.0, "peak_memory_mb": 1440}}', encoding="utf-8")
    lines = readme.TABLES["notebooks"]().splitlines()[2:]
    assert lines[0] == "| 00 [Title \\| one](notebooks/00_a.ipynb) | What is asked? | 1.5 | 1.4 GB |"
    assert lines[1].endswith("| not yet measured | not yet measured |")
    assert len(lines) == 2, "no sum while one is missing"
    timings = {stem: {"seconds": 93.0, "peak_memory_mb": 1440} for stem in ("00_a", "01_b")}
    (tmp_path / "timings.json").write_text(json.dumps(timings), encoding="utf-8")
    assert readme.TABLES["notebooks"]().splitlines()[-1] == "| | all of them, one after the other | 3 | |"


@pytest.mark.parametrize(("seconds", "minutes"), [(3, "0.5"), (75, "1"), (76, "1.5"), (290, "5"), (1000, "17")])
def test_minutes_are_rounded_to_what_another_machine_could_keep(seconds, minutes):
    assert readme._minutes(seconds) == minutes


def test_a_readme_without_markers_is_refused():
    with pytest.raises(ValueError, match=r"README\.md needs one <!-- notebooks:begin -->"):
        readme.filled("# No markers")


def test_links_of_the_readme_lead_somewhere():
    targets = re.findall(r"\]\(([^)#\s]+)", TEXT) + re.findall(r'src="([^"]+)"', TEXT)
    missing = [target for target in targets if not target.startswith("https:") and not (ROOT / target).exists()]
    assert not missing


def test_no_measured_number_is_typed_into_the_readme():
    assert not re.findall(r"\d+(?:\.\d+)?\s?(?:%|percent|points|seconds|minutes|times faster)", prose())
