"""docs/notebook-ci.md and CONTRIBUTING.md keep what they promise: the files work alone, and every answer is there."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import notebook_rules
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "notebook-ci.md").read_text(encoding="utf-8")
STYLE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# The files without the rest

FILES = re.findall(r"^\| \[([\w./]+)\]\(\.\./\1\) \|", PAGE, re.MULTILINE)
OPTIONS = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1].replace("\n   ", "\n")


def text(words: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": words}


def code(source: str, printed: str = "", tags: tuple = ()) -> dict:
    outputs = [{"output_type": "stream", "name": "stdout", "text": printed}] if printed else []
    return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source, "outputs": outputs}


def tiny_notebook(name: str, value: int) -> dict:
    """A notebook that keeps every rule, with one claim: that this value is above one."""
    tags = (notebook_rules.CHECKED,)
    cells = [
        text("# A tiny notebook\n\nOne sentence."),
        code(f"import sys\nfrom series_utils.checks import begin, check\n\nbegin({name!r})"),
        text("Nothing of the other series is here."),
        code("print({'distill_utils', 'torch'} & set(sys.modules))", "set()\n", tags),
        text("The claim."),
        code(f"check('it is more than one', {value}, low=1)", "PASS it is more than one\n", tags),
        text("The time."),
        code("import time\nprint(time.time())", "another time\n"),
    ]
    for i in range(notebook_rules.CODE_CELLS[0] - 4):
        cells += [text(f"What is {i}?"), code(f"print({i})", f"{i}\n", tags[i:])]
    cells += [text("## Summary\n\nSo."), text("## Exercises\n\n1. A.\n2. B.\n3. C."), text("## Next\n\nNothing.")]
    for count, cell in enumerate((cell for cell in cells if cell["cell_type"] == "code"), start=1):
        cell["execution_count"] = count
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def test_the_files_work_in_an_empty_folder(tmp_path):
    """Exactly the files that the page names, in a package of another name, with its options and two notebooks."""
    assert len(FILES) == 5
    for file in FILES:
        path = tmp_path / file.replace("distill_utils", "series_utils")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, path)
    checks = tmp_path / "series_utils" / "checks.py"
    checks.write_text(checks.read_text(encoding="utf-8").replace("distill_utils", "series_utils"), encoding="utf-8")
    shutil.copy(ROOT / "README.md", tmp_path)
    (tmp_path / "pyproject.toml").write_text(OPTIONS, encoding="utf-8")
    good, bad = tiny_notebook("00_good", 2), tiny_notebook("01_bad", 0)
    bad["cells"][-1]["source"] = "## Later"
    (tmp_path / "notebooks").mkdir()
    for name, notebook in (("00_good", good), ("01_bad", bad)):
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DISTILL_"))}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-rA", "--color=no", "--tb=short"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
        env=environment | {"PYTHONPATH": str(tmp_path), "NO_COLOR": "1"},
    )  # fmt: skip
    words = {word: set(re.findall(rf"^{word} (\S+?(?:::Cell \d+)?)(?: - |$)", run.stdout, re.MULTILINE))
             for word in ("PASSED", "FAILED")}  # fmt: skip
    rule = "tests/notebooks/test_notebooks.py::test_notebook_keeps_the_rule[ends_with_summary_exercises_next-01_bad]"
    assert words["FAILED"] == {"notebooks/01_bad.ipynb::Cell 2", rule}, run.stdout + run.stderr
    assert "it is more than one: measured 0, expected at least 1" in run.stdout
    assert {f"notebooks/00_good.ipynb::Cell {i}" for i in range(notebook_rules.CODE_CELLS[0])} <= words["PASSED"]
    recorded = sorted((tmp_path / "build" / "test" / "checks").iterdir())
    assert [json.loads(file.read_text(encoding="utf-8"))["passed"] for file in recorded] == [True, False]


def test_the_page_gives_the_options_that_we_use():
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    given = tomllib.loads(OPTIONS)["tool"]["pytest"]["ini_options"]
    assert set(given["addopts"]) <= set(ours["addopts"])
    assert given["testpaths"] == ours["testpaths"]
    assert set(given["pythonpath"]) <= set(ours["pythonpath"])


def test_the_page_is_a_page():
    assert len(PAGE.split("\n## What readers")[0].split()) < 750
    assert len(STYLE.split("\n## Notebooks")[1].split("\n## Code")[0].split()) < 750


# The style guide


def test_the_style_guide_has_every_rule_and_its_limits():
    assert re.findall(r"^\| `(\w+)` \|", STYLE, re.MULTILINE) == list(notebook_rules.RULES)
    least, most = notebook_rules.CODE_CELLS
    assert f"{least} to {most} code cells" in STYLE
    assert f"{notebook_rules.LINES} lines of {notebook_rules.COLUMNS} columns" in STYLE
    assert f"less than {notebook_rules.BYTES // 1000} KB" in STYLE
    assert f"at least {notebook_rules.ALT} characters" in STYLE
    assert all(f"`{tag}`" in STYLE for tag in notebook_rules.TAGS)


# What readers complain about

ROWS = re.findall(r"^\| +(\d+) \|([^|]+)\|([^|]+)\|(.+)\|$", PAGE, re.MULTILINE)
ANSWERS = [answer for row in ROWS for answer in re.findall(r"`([^`]+)`", row[3])]


def test_each_of_the_ten_complaints_was_filed_and_has_answers():
    assert [int(row[0]) for row in ROWS] == list(range(1, 11))
    for _, complaint, filed, answers in ROWS:
        assert re.search(r"[\w-]+/[\w-]+`? #\d+", filed), complaint
        assert len(re.findall(r"`[^`]+`", answers)) >= 2, complaint


def test_every_answer_is_a_test_that_pytest_collects_or_a_file():
    tests = [answer for answer in ANSWERS if "::" in answer]
    assert [answer for answer in set(ANSWERS) - set(tests) if not (ROOT / answer).exists()] == []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--collect-only", "-q", *tests],
        cwd=ROOT, capture_output=True, text=True, timeout=600, env=environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr  # names every test that is not found
    collected = set(run.stdout.splitlines())
    collected |= {line.split("[")[0] for line in collected}
    assert set(tests) <= collected


def jobs_of_the_week() -> dict:
    """The jobs that the weekly run starts: those that no condition keeps to pushes or pull requests."""
    assert {"schedule", "workflow_dispatch"} <= set(WORKFLOW[True])  # YAML reads the word on as true
    return {name: job for name, job in WORKFLOW["jobs"].items() if "== 'pull_request'" not in str(job.get("if", ""))}


def test_the_week_tries_the_conda_environment_on_three_systems():
    job = jobs_of_the_week()["conda"]
    systems = re.search(r"\|\| '(\[.*?\])'", job["strategy"]["matrix"]["os"])[1]
    assert json.loads(systems) == ["ubuntu-latest", "macos-latest", "windows-latest"]
    assert any(step.get("with", {}).get("environment-file") == "environment.yml" for step in job["steps"])
    assert any(step.get("run") == "python -m pytest" for step in job["steps"])


def test_the_week_tries_the_oldest_and_the_newest_versions():
    job = jobs_of_the_week()["versions"]
    tried = {entry["name"]: entry for entry in job["strategy"]["matrix"]["include"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = tried["oldest versions"]
    assert f">={oldest['python']}" == project["requires-python"]
    assert "lowest-direct" in oldest["options"]
    for pair in oldest["pair"].split():
        name, version = re.fullmatch(r"(\w+)==([\d.]+)\.\*", pair).groups()
        assert f"{name}>={version}" in project["dependencies"]
    assert tried["newest versions"]["pair"] == "torch torchvision"
    assert any(step.get("run") == ".venv/bin/python -m pytest" for step in job["steps"])


def test_the_week_repeats_runs_of_every_study_that_needs_no_download():
    from distill_utils import studies

    free = {(name, dataset) for name in studies.names() for dataset in studies.find(name).datasets
            if dataset in ("glyphs", "digits", "pairs")}  # fmt: skip
    job = jobs_of_the_week()["studies"]
    assert {tuple(line.split(" --dataset ")) for line in job["strategy"]["matrix"]["study"]} == free
    assert any("--verify 1" in step.get("run", "") for step in job["steps"])


def test_the_week_asks_the_links_that_lead_out():
    assert any(
        "tests/notebooks/test_links.py" in step.get("run", "") for step in jobs_of_the_week()["links"]["steps"]
    )


def test_the_conda_environment_names_no_builds():
    """A build string fits one system alone, and is gone from the channel in a year."""
    for line in yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]:
        assert not isinstance(line, str) or re.fullmatch(r"[\w.-]+((>=|==)[\d.]+)?", line)


def test_a_deprecation_met_by_the_package_is_an_error():
    for module in ("distill_utils.data", "distill_utils.training"):
        with pytest.raises(DeprecationWarning):
            warnings.warn_explicit("gone in the next release", DeprecationWarning, "x.py", 1, module=module)


def test_the_first_notebook_says_what_to_do_when_the_package_is_not_found():
    words = " ".join(source for _, _, source in notebook_rules.cells(notebook_rules.read(NOTEBOOKS[0]), "markdown"))
    assert re.search(r"`ModuleNotFoundError`[^.]*\benvironment\b[^.]*`make lab`", words)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_says_why_numbers_may_differ(path):
    words = [source for _, _, source in notebook_rules.cells(notebook_rules.read(path), "markdown")]
    assert any("**Why your numbers may differ.**" in source for source in words)


def test_every_verdict_rests_on_three_seeds_or_more():
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "results").glob("*-*.json")]
    rows = [row for results in found for row in results.get("verdicts", [])]
    assert rows
    assert min(row["n"] for row in rows) >= 3


def test_the_form_for_bugs_asks_for_what_the_doctor_says():
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug-report.yaml").read_text(encoding="utf-8"))
    (field,) = (part for part in form["body"] if part.get("id") == "doctor")
    assert "python -m distill_utils doctor" in field["attributes"]["description"]
    assert field["validations"]["required"] is True


def test_lint_looks_at_style_types_and_spelling_of_everything():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    assert re.findall(r"python -m (.*)", lint) == ["ruff check .", "ruff format --check .", "mypy", "codespell_lib"]
    assert re.search(r"^test:.*\blint\b", makefile, re.MULTILINE)
