"""docs/notebook-ci.md and CONTRIBUTING.md keep what they promise: the files work alone, and every answer is there."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import nbformat
import notebook_rules
import planted
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_rules import CHECKED

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "notebook-ci.md").read_text(encoding="utf-8")
STYLE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# The guide, followed word for word

FILES = re.findall(r"^\| \[([\w./]+)\]\(\.\./\1\) \|", PAGE, re.MULTILINE)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
OPTIONS = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]
CHECK = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]


def cell(source: str, printed: str = "", tags: tuple = ()):
    outputs = [new_output("stream", text=printed)] if printed else []
    return new_code_cell(source, outputs=outputs, metadata={"tags": list(tags)})


def saved(path: Path, *parts) -> Path:
    """A notebook file of text cells and code cells that looks as if it had been run."""
    cells = [new_markdown_cell(each) if isinstance(each, str) else each for each in parts]
    for count, each in enumerate((each for each in cells if each.cell_type == "code"), start=1):
        each.execution_count = count
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)
    return path


def command(line: str, folder: Path) -> subprocess.CompletedProcess:
    """A command of the page in a folder, with this Python; what it installs has to be installed here."""
    words = line.split()
    if words[1:4] == ["-m", "pip", "install"]:
        return subprocess.CompletedProcess(words, sum(importlib.util.find_spec(name) is None for name in words[4:]))
    assert words[0] == "python"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DISTILL_"))}
    return subprocess.run(
        [sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True, timeout=600,
        env=environment | {"NO_COLOR": "1", "PYTHONPATH": ""},
    )  # fmt: skip


def test_the_guide_works_word_for_word_in_a_series_of_another_shape(tmp_path):
    """Notebooks in chapter folders and at the top, no package, no pyproject.toml, another README, faults of old."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "Readme.rst").write_text("A series")
    claims = cell(f"{CHECK}\n\ncheck('the mean is positive', 2, low=1)", "PASS the mean is positive\n", (CHECKED,))
    first = saved(tmp_path / "ch 1" / "Einführung.ipynb", "# Mean", claims, "![](a.png)", "It is 2.")
    saved(tmp_path / "overview.ipynb", cell("import time\nprint(time.time())", "then\n"), "[Gone](gone.md)")
    assert len(FILES) == 2
    for file in FILES:
        shutil.copy(ROOT / file, tmp_path)
    for line in COMMANDS:
        done = command(line, tmp_path)
        shows = line.endswith("--all")  # the faults of old, before they are accepted
        assert done.returncode == shows, f"{line}\n{done.stdout}{done.stderr}"
        assert not shows or "overview.ipynb: cell 2 links to gone.md" in done.stdout
    accepted = json.loads((tmp_path / "notebook_rules.json").read_text(encoding="utf-8"))
    assert accepted == {"ch 1/Einführung.ipynb": {"alternative_text": 1, "links_resolve": 1},
                        "overview.ipynb": {"links_resolve": 1}}  # fmt: skip
    rules, run = COMMANDS[3], next(line for line in COMMANDS if "pytest --" in line)
    right = first.read_text(encoding="utf-8")
    for wrong in (
        right.replace("It is 2.", "An accuracy of 0.95."),
        right.replace("PASS the mean", "PASS that mean"),
    ):
        first.write_text(wrong, encoding="utf-8")
        done = command(rules, tmp_path)
        assert done.returncode == 1
        assert "Einführung.ipynb: cell " in done.stdout
    first.write_text(right.replace("positive', 2, low", "positive', 0, low"), encoding="utf-8")
    fetch = "from urllib.request import urlopen as u\ntry:\n    u('https://example.org')\nexcept Exception:\n    pass"
    saved(tmp_path / "more.ipynb", cell(fetch))
    saved(tmp_path / "exact" / "exact.ipynb", cell("print(1)", "2\n"))
    (tmp_path / "pyproject.toml").write_text(OPTIONS, encoding="utf-8")
    done = command(f"{run} --no-network -rA --tb=short -p no:cacheprovider", tmp_path)
    found = set(re.findall(r"^FAILED (.+?) - ", done.stdout + done.stderr, re.MULTILINE))
    failed = {f"{name}.ipynb::Cell 0" for name in ("ch 1/Einführung", "more", "exact/exact")}
    assert found == failed, done.stdout + done.stderr
    assert "the mean is positive: measured 0" in done.stdout
    assert "a cell reaches for example.org" in done.stdout


def test_the_page_gives_the_options_that_we_use():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    ours = " ".join(project["pytest"]["ini_options"]["addopts"])
    used = " ".join(COMMANDS) + PAGE
    assert all(option in ours and option in used for option in ("--nbval-lax", "--nbval-current-env", "--no-network"))
    given = tomllib.loads(OPTIONS)["tool"]["notebook_rules"]
    keys = {field.replace("_", "-") for field in notebook_rules.Settings._fields} - {"root", "baseline"}
    assert set(given) == keys


def test_the_page_is_a_page():
    assert (
        len(re.sub("<!-- planted.*?/planted -->", "", PAGE.split("\n## What readers")[0], flags=re.DOTALL).split())
        < 900
    )
    assert len(STYLE.split("\n## Notebooks")[1].split("\n## Code")[0].split()) < 750


def test_planted_faults_are_caught_without_false_alarms_and_the_page_says_which():
    found = json.loads(planted.RESULTS.read_text(encoding="utf-8"))
    assert [row["planted"] for row in found["kinds"]] == list(planted.KINDS)
    assert len(planted.KINDS) == 38
    assert sum(row["caught"] for row in found["kinds"]) >= 34
    assert {row["series"] for row in found["alarms"]} == set(planted.NOTEBOOKS)
    assert max(row["false alarms"] for row in found["alarms"]) <= 1
    assert planted.written(PAGE, found) == PAGE, "the tables are generated: make planted"


# The style guide


def test_the_style_guide_names_the_limits():
    words = " ".join(STYLE.split())
    assert f"at most {notebook_rules.WORDS:,} words" in words
    assert f"at most {100 * notebook_rules.DRAWING:.0f} % of the visible code" in words
    assert f"{notebook_rules.LINES} lines of {notebook_rules.COLUMNS} columns" in words
    assert f"less than {notebook_rules.BYTES // 1000} KB" in words
    assert f"at least {notebook_rules.ALT} characters" in words
    assert all(f"`{tag}`" in words for tag in notebook_rules.TAGS)


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
            if dataset in ("glyphs", "digits", "pairs", "grammar")
            and studies.results_path(name, dataset).exists()}  # fmt: skip
    job = jobs_of_the_week()["studies"]
    assert {tuple(line.split(" --dataset ")) for line in job["strategy"]["matrix"]["study"]} == free
    assert any("--verify 1" in step.get("run", "") for step in job["steps"])


def test_the_week_grades_every_kind_of_submission_and_runs_the_students_edition():
    steps = " ".join(step.get("run", "") for step in jobs_of_the_week()["course"]["steps"])
    assert "tools/course_run.py" in steps
    assert "make student" in steps
    assert "make -C student/distillation run" in steps


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


def test_every_action_is_pinned_by_hash_beside_its_version():
    used = re.findall(r"uses: (.+)", (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    assert [line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []
    assert len({line for line in used if "/checkout@" in line}) == 1, "one version everywhere"


def test_lint_looks_at_style_types_spelling_and_workflows():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    assert re.findall(r"python -m (.*)", lint) == ["ruff check .", "ruff format --check .", "mypy", "codespell_lib"]
    assert {"actionlint", "zizmor"} <= set(re.findall(r"\w+", lint))
    assert re.search(r"^test:.*\blint\b", makefile, re.MULTILINE)
