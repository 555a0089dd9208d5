"""Studies: resumable after a kill at any moment, never mixed with other settings, judged as declared."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from distill_utils import _store, models, studies
from distill_utils.commands import study as study_command
from distill_utils.studies import dropout

ROOT = Path(__file__).resolve().parents[2]
TINY = """
import os
from pathlib import Path
import torch
from distill_utils import studies

def note(word, arm, seed):
    with Path(os.environ["TINY_LOG"]).open("a") as file:
        file.write(f"{word} {arm['arm']} {seed}\\n")

def run(arm, seed, dataset):
    note("start", arm, seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(700, 700, generator=generator)
    for _ in range(8):
        x = torch.tanh(x @ x.T / 700)
    note("end", arm, seed)
    return {"score": float(x.mean()) + 0.01 * arm["arm"]}

def of(arm):
    return lambda runs: studies.select(runs, "score", arm=arm)

STUDY = studies.Study("tiny", lambda dataset: [{"arm": i} for i in range(4)], run,
    lambda dataset: [studies.Claim("arm 3 against arm 0", "score", of(3), of(0), 0.02)],
    datasets=("glyphs", "digits"), keys=("arm",))
"""


@pytest.fixture
def tiny(tmp_path):
    """A copy of the package with one more study, and a way to start its command there."""
    shutil.copytree(ROOT / "distill_utils", tmp_path / "distill_utils", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "distill_utils" / "studies" / "tiny.py").write_text(TINY)
    (tmp_path / "pyproject.toml").write_text("")  # makes the copy its own root, so results go there
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TINY_LOG": str(tmp_path / "log"),
                   "DISTILL_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}  # fmt: skip

    def start(*arguments):
        command = [sys.executable, "-m", "distill_utils", "study", *arguments]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, start_new_session=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip

    start.folder = tmp_path
    start.log = lambda: (tmp_path / "log").read_text().split("\n")[:-1] if (tmp_path / "log").exists() else []
    start.results = tmp_path / "results" / "tiny-glyphs.json"
    return start


def finished_cells(folder):
    """The runs that the journal holds, read without the package."""
    cells = []
    for journal in (folder / "results").glob("*.jsonl"):
        for line in journal.read_text().split("\n")[:-1]:
            run = json.loads(line)
            cells.append(f"{run['arm']['arm']} {run['seed']}")
    return cells


def test_a_killed_study_goes_on_without_losing_or_repeating_a_finished_run(tiny):
    chance = random.Random(3)
    for _ in range(4):
        process = tiny("tiny", "--seeds", "4", "--workers", "2")
        enough = len(tiny.log()) + chance.randint(1, 6)
        while process.poll() is None and len(tiny.log()) < enough:
            pass
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kept, seen = finished_cells(tiny.folder), len(tiny.log())
        assert not [line for line in tiny.log()[seen:] if line.removeprefix("start ") in kept]
    before = set(finished_cells(tiny.folder))
    seen = len(tiny.log())
    _, err = tiny("tiny", "--seeds", "4", "--workers", "2").communicate()
    assert tiny.results.exists(), err
    again = [line for line in tiny.log()[seen:] if line.startswith("start") and line.removeprefix("start ") in before]
    assert not again, "a finished run was done again"
    assert sorted(finished_cells(tiny.folder)) == sorted(f"{arm} {seed}" for arm in range(4) for seed in range(4))


def test_a_rerun_writes_the_same_file_and_fewer_seeds_are_refused(tiny):
    tiny("tiny", "--seeds", "3", "--workers", "1").communicate()
    first = tiny.results.read_bytes()
    ran = len(tiny.log())
    tiny("tiny", "--seeds", "3", "--workers", "2").communicate()
    assert tiny.results.read_bytes() == first
    assert len(tiny.log()) == ran, "a finished run was done again"
    assert not list(tiny.results.parent.glob("tiny-digits*")), "a dataset that nobody asked for was begun"

    process = tiny("tiny", "--seeds", "2")
    _, err = process.communicate()
    assert process.returncode != 0
    assert "holds 3 seeds: ask for as many, or pass --replace" in err
    assert "Traceback" not in err
    assert tiny.results.read_bytes() == first

    study = json.loads(first)
    assert [(run["arm"]["arm"], run["seed"]) for run in study["runs"]] == [(a, s) for a in range(4) for s in range(3)]
    claim = study["verdicts"][0]
    assert claim["difference"] == pytest.approx(0.03)
    assert claim["n"] == 3


# What a kill, a full disk or a bad block leaves


@pytest.fixture
def few(monkeypatch, tmp_path):
    """A study whose runs take no time, in this process; calling it does one run."""
    study = studies.Study(
        "few", lambda dataset: [{"arm": i} for i in range(3)], lambda arm, seed, dataset: {"score": arm["arm"] + 0.5},
        lambda dataset: [], datasets=("glyphs",), keys=("arm",),
    )  # fmt: skip
    monkeypatch.setattr(studies, "find", lambda name: study)
    monkeypatch.setattr(studies.settings, "results_folder", lambda: tmp_path / "results")

    def run(arm, seed=0):
        studies._run_cell("few", "glyphs", {"arm": arm}, seed, True)

    run.finished = lambda: sorted(json.loads(arm)["arm"] for arm, _ in studies.finished(study, "glyphs"))
    run.study = study
    run.journal = studies._journal(study, "glyphs")
    return run


@pytest.mark.parametrize("length", [1, 40, -1])
def test_a_line_that_was_cut_off_costs_its_own_run_alone(few, length):
    few(0)
    whole = few.journal.read_bytes()
    few(1)
    line = few.journal.read_bytes()[len(whole) :].splitlines()[-1]
    few.journal.write_bytes(whole + line[:length])
    assert few.finished() == [0]
    few(2)
    few(1)
    assert few.finished() == [0, 1, 2]
    assert all(json.loads(line) for line in few.journal.read_text().splitlines())


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"1.5", b"1.7"), (b'"metrics"', b'"metricz"'), (b'"check"', b'"chezk"'), (b"}", b"]"), (b"{", b"\xff")],
)
def test_a_changed_line_of_a_journal_is_named(few, old, new):
    for arm in range(3):
        few(arm)
    lines = few.journal.read_bytes().splitlines(keepends=True)
    (number,) = (
        number for number, line in enumerate(lines) if b'"score": 1.5' in line
    )  # a time may hold 1.5 as well
    few.journal.write_bytes(b"".join([*lines[:number], lines[number].replace(old, new), *lines[number + 1 :]]))
    with pytest.raises(
        _store.DamagedFile, match=rf"line {number + 1} of {few.journal} is damaged .* delete that line"
    ):
        few.finished()
    few.journal.write_bytes(b"".join([*lines[:number], *lines[number + 1 :]]))
    assert few.finished() == [0, 2]
    few(1)
    assert few.finished() == [0, 1, 2]


def in_this_process(function, calls, **options):
    return [function(*call) for call in calls]


RESULTS = sorted(path for path in (ROOT / "results").glob("*-*.json") if '"verdicts"' in path.read_text("utf-8"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_committed_results_file_is_as_written_and_gives_its_own_summary(path):
    found = studies.read(path)
    again = studies._summary(found["settings"]["arms"], found["runs"])
    assert len(again) == len(found["summary"])
    for row, committed in zip(again, found["summary"], strict=True):
        assert (row["arm"], row["metric"], row["n"]) == (committed["arm"], committed["metric"], committed["n"])
        assert row["mean"] == pytest.approx(committed["mean"], rel=1e-9)


def _change(found, name):
    """A results file with one thing changed."""
    run, row = found["runs"][1], found["summary"][0]
    metric = row["metric"]
    {
        "mean": lambda: row.update(mean=row["mean"] + 1e-6),
        "no metric": lambda: run["metrics"].pop(metric),
        "no runs": lambda: found.pop("runs"),
        "a number for a word": lambda: found.update(runs=7),
    }[name]()


@pytest.mark.parametrize("name", ["mean", "no metric", "no runs", "a number for a word"])
def test_a_changed_results_file_is_refused(name, tmp_path):
    found = _store.read_json(RESULTS[0])
    _change(found, name)
    _store.write_json(tmp_path / "results.json", found)
    with pytest.raises(_store.DamagedFile, match=f"{tmp_path}/results.json is damaged .*: take it from git again"):
        studies.read(tmp_path / "results.json")


def test_a_mistyped_key_of_an_arm_is_refused(few):
    study = replace(studies.find("few"), arms=lambda dataset: [{"arm": 0}, {"amr": 1}])
    with pytest.raises(ValueError, match=r"arm \{'amr': 1\} has an unknown key 'amr': one of arm"):
        studies.arms_of(study, "glyphs")


def test_a_mistyped_key_in_a_claim_is_refused(few):
    few(0)
    runs = list(studies.finished(studies.find("few"), "glyphs").values())
    assert studies.select(runs, "score", arm=0, seed_of_teacher=None) == [0.5]
    with pytest.raises(ValueError, match="no arm has the key 'amr': one of arm"):
        studies.select(runs, "score", amr=0)


# Verification and going on from committed results


def test_a_complete_study_runs_nothing_again_and_a_new_arm_runs_alone(few, monkeypatch):
    ran = []
    study = studies.find("few")
    noted = replace(study, run=lambda arm, seed, dataset: ran.append(arm["arm"]) or {"score": arm["arm"] + 0.5})
    monkeypatch.setattr(studies, "find", lambda name: noted)
    monkeypatch.setattr(studies.parallel, "run_all", in_this_process)
    path = studies.conduct("few", "glyphs", 2)
    few.journal.unlink()  # as in a fresh clone, which has the results alone
    first = path.read_bytes()
    del ran[:]
    assert studies.conduct("few", "glyphs").read_bytes() == first
    assert ran == []
    studies.conduct("few", "glyphs", 2, replace=True)
    assert sorted(ran) == [0, 0, 1, 1, 2, 2], "everything is run again"
    del ran[:]
    wider = replace(noted, arms=lambda dataset: [{"arm": i} for i in range(4)])
    monkeypatch.setattr(studies, "find", lambda name: wider)
    studies.conduct("few", "glyphs")
    assert ran == [3, 3]
    monkeypatch.setattr(studies, "find", lambda name: replace(wider, version=2))
    with pytest.raises(ValueError, match="made by another version of this study"):
        studies.conduct("few", "glyphs")


@pytest.mark.parametrize(("change", "agrees"), [(0.0, True), (0.02, True), (0.5, False), (None, False)])
def test_a_run_done_again_is_compared_within_the_spread_over_seeds(change, agrees, few, monkeypatch):
    def scored(by):
        def run(arm, seed, dataset):
            metrics = {"score": arm["arm"] + 0.01 * seed + (by or 0), "cost": 1.0 if by == 0 else 9.0}
            return metrics if by is not None else {"cost": 1.0}

        return replace(few.study, run=run, not_compared=("cost",))

    monkeypatch.setattr(studies.parallel, "run_all", in_this_process)
    monkeypatch.setattr(study_command.data, "load", lambda name: None)
    monkeypatch.setattr(studies, "find", lambda name: scored(0))
    studies.conduct("few", "glyphs", 3)
    monkeypatch.setattr(studies, "find", lambda name: scored(change))
    rows = study_command.verify("few", "glyphs", 3)
    assert sorted(row.arm["arm"] for row in rows) == [0, 1, 2], "one run of each arm"
    assert all((row.deviation <= 1) == agrees for row in rows)
    assert all(row.metrics == 1 and row.equal == (change == 0.0) for row in rows)
    assert study_command.run("few", "glyphs", None, verify_count=1) is agrees


def test_every_study_has_unique_arms_and_claims_that_its_arms_can_answer():
    for name in studies.names():
        study = studies.find(name)
        for dataset in study.datasets:
            arms = study.arms(dataset)
            assert len({json.dumps(arm, sort_keys=True) for arm in arms}) == len(arms)
            seeds, scores = range(2), defaultdict(lambda: 0.5)
            runs = [{"arm": arm, "seed": seed, "metrics": scores} for arm in arms for seed in seeds]
            for claim in study.claims(dataset):
                assert claim.smallest > 0
                assert len(claim.treated(runs)) == len(claim.control(runs)) == len(seeds), claim.name


@pytest.mark.parametrize("dataset", dropout.STUDY.datasets)
def test_every_arm_of_the_dropout_study_is_a_network_of_its_own(dataset):
    recipes = [dropout.recipe(arm, 0, dataset) for arm in dropout.arms(dataset)]
    assert len({repr(recipe) for recipe in recipes}) == len(recipes)
    for recipe in recipes:
        models.build(recipe.model, 10, **recipe.options)
        assert recipe.teacher is None or models.build("teacher", 10, **recipe.teacher.options)


def test_students_of_other_teachers_name_a_teacher_that_the_study_trains():
    for dataset in ("glyphs", "fashion_mnist"):
        arms = dropout.arms(dataset)
        rates = {arm["rate"] for arm in arms if arm.get("model") == "teacher"}
        assert {arm["teacher_rate"] for arm in arms if "teacher_rate" in arm} == rates


def test_no_worker_outlives_a_killed_study(tiny):
    process = tiny("tiny", "--seeds", "9", "--workers", "2")
    while not tiny.log():
        assert process.poll() is None
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(workers, timeout=60)
    assert left == []


def test_two_processes_share_a_study_instead_of_waiting_for_one_another(tiny):
    (tiny.folder / "runs").mkdir()
    cell = _store.digest({"study": "tiny", "dataset": "glyphs", "arm": {"arm": 0}, "seed": 0})
    with FileLock(tiny.folder / "runs" / f".study-{cell}.lock"):  # another process is at the first run
        process = tiny("tiny", "--seeds", "2", "--workers", "1")
        while len(finished_cells(tiny.folder)) < 7:
            assert process.poll() is None
        assert "0 0" not in finished_cells(tiny.folder)
    _, err = process.communicate()
    assert tiny.results.exists(), err
    assert len(finished_cells(tiny.folder)) == 8, "what the other one dropped is done in the end"
