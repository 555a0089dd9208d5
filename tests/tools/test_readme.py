"""README.md and the pages beside it hold what is generated, and would not pass with a number changed by hand."""

import json
import re
from pathlib import Path

import pytest

from distill_utils.commands import run
import chinese
import tables

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


@pytest.mark.parametrize("path", readme.pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_page_is_what_is_generated(path):
    text = path.read_text(encoding="utf-8")
    assert readme.filled(text, readme.pages()[path], path.name) == text, "run: python -m distill_utils readme"


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
    assert linked == [path.name for path in sorted(run.NOTEBOOKS.glob("*.ipynb"))]


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


def claim(**changes) -> dict:
    row = {"claim": "a against b", "metric": "test_accuracy", "difference": 0.0312, "low": 0.02, "high": 0.0424,
           "n": 5, "smallest": 0.01, "p_holm": 0.01, "verdict": "improves"}  # fmt: skip
    return row | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "+3.1 points [+2.0, +4.2]"),
        ({"metric": "agreement", "difference": -0.01, "low": -0.03, "high": 0.01}, "-1.0 points [-3.0, +1.0]"),
        (
            {"metric": "test_errors", "difference": -41.0, "low": -52.38, "high": -29.62},
            "-41.0 errors [-52.4, -29.6]",
        ),
        ({"metric": "test_nll"}, "+0.0312 nll [+0.02, +0.0424]"),
        ({"low": None, "high": None, "n": 1}, "+3.1 points (one seed)"),
        ({"difference": 0.0, "low": 0.0, "high": 0.0}, "none: the same runs"),
    ],
)
def test_a_difference_is_written_in_the_unit_of_its_metric(changes, words):
    assert readme._difference(claim(**changes)) == words


def test_every_claim_of_every_study_has_its_line_and_other_files_have_none(monkeypatch, tmp_path):
    monkeypatch.setattr(readme.settings, "results_folder", lambda: tmp_path)
    rows = [claim(), claim(claim="c against d", verdict="inconclusive")]
    arms = [{"width": width} for width in (2, 4, 8, 16)]
    five, three = (
        {
            "settings": {"seeds": seeds, "arms": arms}, "summary": [], "versions": {}, "seconds": 1.0,
            "runs": [{"arm": arm, "seed": seed, "metrics": {}} for arm in arms for seed in range(seeds)],
        }
        for seeds in (5, 3)
    )  # fmt: skip
    files = {
        "a-glyphs": {"study": "a", "dataset": "glyphs", "verdicts": rows, **five},
        "b-mnist": {"study": "b", "dataset": "mnist", "verdicts": [claim(n=3, verdict="no verdict: gate")], **three},
        "speed-cpu": {"seconds": 7},
        "timings": {"00_a": {"seconds": 93.0}},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    counts, claims = readme.TABLES["results"]().split("<details>")
    assert counts.splitlines()[2:4] == [
        "| a | glyphs | 5 | 20 | 1 × improves, 1 × inconclusive |",
        "| b | mnist | 3 | 12 | 1 × no verdict |",
    ]
    assert [line for line in claims.splitlines() if line.startswith("|")][2:] == [
        "| a, glyphs | a against b | +3.1 points [+2.0, +4.2] | improves | 5 |",
        "| a, glyphs | c against d | +3.1 points [+2.0, +4.2] | inconclusive | 5 |",
        "| b, mnist | a against b | +3.1 points [+2.0, +4.2] | no verdict: gate | 3 |",
    ]


def test_no_committed_study_is_left_out_of_the_readme():
    studies = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "results").glob("*-*.json")]
    claims = [row["claim"] for study in studies for row in study.get("verdicts", [])]
    assert claims
    assert all(claim in table("results") for claim in claims)


def test_the_title_gets_its_primary_claims_and_no_others(monkeypatch, tmp_path):
    monkeypatch.setattr(readme.settings, "results_folder", lambda: tmp_path)
    failed = "no verdict: gate failed (complete)"
    rows = [
        claim(claim="primary: a against b", metric="object_mass_ig", verdict=failed),
        claim(claim="exploratory: c against d"),
    ]
    (tmp_path / "explanations-glyphs.json").write_text(json.dumps({"verdicts": rows}), encoding="utf-8")
    assert readme.TABLES["title"]().splitlines()[2:] == [
        f"| glyphs | a against b | relevance on the object | +0.0312 [+0.02, +0.0424] | {failed} | 5 |"
    ]


def test_an_old_table_on_any_page_is_found_and_written(monkeypatch, tmp_path):
    for name in ("README", "CHINESE", "COURSE"):
        copy = tmp_path / f"{name}.md"
        copy.write_text(getattr(readme, name).read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(readme, name, copy)
    for path in readme.pages():
        whole = path.read_text(encoding="utf-8")
        path.write_text(whole.replace(":begin -->\n", ":begin -->\nold\n", 1), encoding="utf-8")
        assert readme.update(check=True) is False
        assert readme.update() is False
        assert path.read_text(encoding="utf-8") == whole
    assert readme.update(check=True) is True


@pytest.mark.parametrize("name", readme.TABLES)
def test_the_chinese_table_has_the_same_numbers_and_links(name):
    english = readme.TABLES[name]()
    chinese = readme_zh.chinese(english)
    assert chinese != english
    for pattern in (r"\d+(?:[.,]\d+)*", r"\]\([^)]+\)", r"\|"):
        assert re.findall(pattern, chinese) == re.findall(pattern, english)


def test_every_notebook_and_step_has_its_chinese_words():
    rows = [line.strip("| ").split(" | ") for name in ("notebooks", "article") for line in
            readme.TABLES[name]().splitlines()[2:]]  # fmt: skip
    cells = [re.sub(r"^\d\d \[(.*)\]\(.*\)$", r"\1", cell) for row in rows for cell in row]
    words = [
        cell
        for cell in cells
        if " " in cell and not cell.startswith("[") and "(in prep" not in cell and "GB" not in cell
    ]
    missing = [cell for cell in words if cell not in readme_zh.WORDS]
    assert not missing, "say them in Chinese in distill_utils/readme_zh.py"


def test_words_without_a_translation_stay_english():
    assert readme_zh.chinese("| a new sentence | 0.5 |") == "| a new sentence | 0.5 |"
    assert readme_zh.chinese("| +3.1 points [+2.0, +4.2] | improves |") == "| +3.1 个百分点 [+2.0, +4.2] | 有提升 |"


def test_a_readme_without_markers_is_refused():
    with pytest.raises(ValueError, match=r"README\.md needs one <!-- notebooks:begin -->"):
        readme.filled("# No markers")


def test_links_of_the_readme_lead_somewhere():
    targets = re.findall(r"\]\(([^)#\s]+)", TEXT) + re.findall(r'src="([^"]+)"', TEXT)
    missing = [target for target in targets if not target.startswith("https:") and not (ROOT / target).exists()]
    assert not missing


def test_no_measured_number_is_typed_into_the_readme():
    assert not re.findall(r"\d+(?:\.\d+)?\s?(?:%|percent|points|seconds|minutes|times faster)", prose())
