"""The generated parts of the READMEs and of docs/results.md are what results/ and notebooks/ give."""

import copy
import json
import re
from pathlib import Path

import findings
import pytest
import tables

from distill_utils import studies

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PARTS = [(page, name) for page, (_, parts) in tables.PAGES.items() for name in parts]


def part(page: str, name: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.search(f"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", text, re.DOTALL)[1]


@pytest.mark.parametrize("page", tables.PAGES)
def test_every_page_is_what_is_generated(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert tables.filled(page, text) == text, "run: make tables"


@pytest.mark.parametrize(("page", "name"), PARTS)
def test_a_number_changed_by_hand_is_written_again(page, name):
    text = (ROOT / page).read_text(encoding="utf-8")
    edited = text.replace(part(page, name), re.sub(r"\d", "7", part(page, name)))
    assert edited != text
    assert tables.filled(page, edited) == tables.filled(page, text)


def test_check_writes_nothing_and_make_tables_writes(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "heads", dict)
    for page in tables.PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        text = (ROOT / page).read_text(encoding="utf-8")
        (tmp_path / page).write_text(tables.filled(page, text), encoding="utf-8")
    assert tables.main(check=True) == 0
    page = tmp_path / "docs" / "results.md"
    whole = page.read_text(encoding="utf-8")
    page.write_text(whole.replace(":begin -->\n", ":begin -->\nby hand\n", 1), encoding="utf-8")
    assert tables.main(check=True) == 1
    assert "docs/results.md is out of date: make tables" in capsys.readouterr().out
    assert "by hand" in page.read_text(encoding="utf-8")
    assert tables.main(check=False) == 0
    assert page.read_text(encoding="utf-8") == whole


def test_every_lesson_says_at_its_head_how_long_it_takes_in_both_languages():
    for page, text in tables.heads().items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name}: run make tables"
        english, chinese = (len(pattern.findall(text)) for pattern in tables._TAKES)
        assert (english, chinese) == (1, int(page.suffix == ".po")), page.name


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match=r"README\.md needs one <!-- notebooks:begin -->"):
        tables.filled("README.md", "# No markers")


# The lessons


def test_minutes_come_from_the_measured_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(tables.settings, "results_folder", lambda: tmp_path)
    cells = [{"cell_type": "markdown", "source": "# 3. Title | one\n\nWhat is\nasked?\n\nMore."}]
    for stem in ("00_a", "01_b"):
        (tmp_path / f"{stem}.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    timings = {"00_a": {"seconds": 93.0}}
    (tmp_path / "timings.json").write_text(json.dumps(timings), encoding="utf-8")
    lines = tables.lessons(str).splitlines()[2:]
    assert lines[0] == "| 00 [Title \\| one](notebooks/00_a.ipynb) | What is asked? | 1.5 |"
    assert lines[1].endswith("| not yet measured |")
    assert len(lines) == 2, "no sum while one is missing"
    (tmp_path / "timings.json").write_text(json.dumps(timings | {"01_b": {"seconds": 93.0}}), encoding="utf-8")
    assert tables.lessons(str).splitlines()[-1] == "|  | all of them, one after the other | 3 |"


@pytest.mark.parametrize(("seconds", "minutes"), [(3, "0.5"), (75, "1"), (76, "1.5"), (290, "5"), (1000, "17")])
def test_minutes_are_rounded_to_halves(seconds, minutes):
    assert tables.minutes(seconds) == minutes


# The findings


def test_there_are_six_findings_each_with_its_number():
    lines = part("README.md", "findings").splitlines()
    assert len(lines) == 6
    assert all(
        re.search(r"\[[+-]\d+\.\d+, [+-]\d+\.\d+\](?: per sentence)?, \d+ seeds|\(\d+ seeds\)", line)
        for line in lines
    )
    assert "{" not in "".join(lines)


@pytest.mark.parametrize("finding", findings.FINDINGS, ids=lambda finding: finding["sentence"][2:40])
def test_a_finding_fails_when_a_verdict_changes(monkeypatch, finding):
    claim = finding["claims"][0]
    changed = copy.deepcopy(studies.results(claim["study"], claim["dataset"]))
    for row in changed["verdicts"]:
        row["verdict"] = "improves" if row["verdict"] != "improves" else "worsens"
    monkeypatch.setattr(findings, "committed", lambda study, dataset: changed)
    with pytest.raises(
        ValueError, match=r"is now .* no longer .*: rewrite this sentence in tools/tables/findings\.json"
    ):
        findings.guard(finding)


def test_a_finding_fails_when_another_technique_improves(monkeypatch):
    (finding,) = (finding for finding in findings.FINDINGS if "only_these_improve" in finding)
    changed = copy.deepcopy(studies.results("techniques", "glyphs"))
    row = next(row for row in changed["verdicts"] if row["claim"].startswith("DKD"))
    row["verdict"] = "improves"
    monkeypatch.setattr(findings, "committed", lambda study, dataset: changed)
    with pytest.raises(ValueError, match="DKD against plain distillation"):
        findings.guard(finding)


def test_a_finding_about_a_missing_claim_is_refused():
    claim = {"study": "techniques", "dataset": "glyphs", "claim": "no such claim"}
    with pytest.raises(ValueError, match=r"has 0 claims that fit .*: correct tools/tables/findings\.json"):
        findings.row_of(claim)


def test_the_means_of_a_finding_differ_by_its_difference():
    for claim in (claim for finding in findings.FINDINGS for claim in finding["claims"]):
        shown = findings.numbers(json.dumps(claim), str)
        treated, control, gap = (
            float(shown[name].removesuffix(" %").split()[0]) for name in ("treated", "control", "difference")
        )
        assert treated - control == pytest.approx(gap, abs=1.0 if shown["unit"] == "errors" else 0.11)


# Every claim


def test_every_committed_claim_has_its_row():
    text, count = part("docs/results.md", "results"), 0
    for path in (ROOT / "results").glob("*-*.json"):
        rows = json.loads(path.read_text(encoding="utf-8")).get("verdicts", [])
        count += len(rows)
        for row in rows:
            cells = (row["claim"], row["label"], "primary" if row["primary"] else "exploratory")
            needed = f" ({row['seeds_needed']:,} seeds would decide)" if row["seeds_needed"] else ""
            cells += (studies.difference(row), row["verdict"] + needed, str(row["n"]))
            assert f"| {' | '.join(cells)} |" in text
    assert count > 50


# Chinese


def all_words() -> set[str]:
    """All English words of the generated parts, as they are looked up in zh.json."""
    used = set()

    def say(words):
        used.add(words)
        return words

    for make in (tables.lessons, tables.findings, tables.results, tables.speed, tables.memory):
        make(say)
    return used


def test_everything_generated_has_its_chinese_words():
    missing = all_words() - set(tables.CHINESE)
    assert not missing, "\n".join(f"add {json.dumps(words)} to tools/tables/zh.json" for words in missing)


def test_no_long_chinese_words_are_left_over():
    """Verdicts and other short words may be missing from today's tables; sentences that changed are an oversight."""
    old = {words for words in tables.CHINESE if len(words) > 40} - all_words()
    assert not old, "\n".join(f"remove {json.dumps(words)} from tools/tables/zh.json" for words in old)


@pytest.mark.parametrize("name", ["notebooks", "findings", "results", "speed"])
def test_the_chinese_part_has_the_same_numbers(name):
    page = "README.md" if name in tables.OPENING else "docs/results.md"
    chinese = page.replace(".md", ".zh-CN.md")
    found = [
        sorted(re.findall(r"[-+]?\d+(?:[.,]\d+)*", re.sub(r"\]\([^)]*\)", "", part(at, name))))
        for at in (page, chinese)
    ]
    assert found[0] == found[1]


# Everything else on the page


def test_no_measured_number_is_typed_into_the_readme():
    prose = re.sub(r"<!-- (\w+):begin -->.*?<!-- \1:end -->", "", TEXT, flags=re.DOTALL)
    prose = re.sub(r"^```.*?^```|`[^`]+`|95 % (t-)?interval", "", prose, flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"\d+(?:\.\d+)?\s?(?:%|percent|points|seconds|minutes|times faster)", prose)


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= 180
