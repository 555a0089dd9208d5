"""Studies: resumable after a kill at any moment, never mixed with other settings, judged as declared."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from distill_utils import models, store, studies, study_dropout

ROOT = Path(__file__).resolve().parent.parent
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
    code=("stats",), datasets=("glyphs",))
"""


@pytest.fixture
def tiny(tmp_path):
    """A copy of the package with one more study, and a way to start its command there."""
    shutil.copytree(ROOT / "distill_utils", tmp_path / "distill_utils", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "distill_utils" / "study_tiny.py").write_text(TINY)
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
    """The runs that the journal holds, read without the package: one JSON line per operation."""
    cells = []
    for journal in (folder / "results").glob("*.journal"):
        for line in journal.read_text().split("\n")[:-1]:
            attributes = json.loads(line).get("user_attrs") or {}
            if "arm" in attributes:
                cells.append(f"{json.loads(attributes['arm'])['arm']} {attributes['seed']}")
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


def test_a_rerun_writes_the_same_file_and_other_settings_are_refused(tiny):
    tiny("tiny", "--seeds", "3", "--workers", "1").communicate()
    first = tiny.results.read_bytes()
    ran = len(tiny.log())
    tiny("tiny", "--seeds", "3", "--workers", "2").communicate()
    assert tiny.results.read_bytes() == first
    assert len(tiny.log()) == ran, "a finished run was done again"

    process = tiny("tiny", "--seeds", "2")
    _, err = process.communicate()
    assert process.returncode != 0
    assert "other settings (seeds)" in err
    assert "Traceback" not in err
    assert tiny.results.read_bytes() == first

    study = json.loads(first)
    assert [(run["arm"]["arm"], run["seed"]) for run in study["runs"]] == [(a, s) for a in range(4) for s in range(3)]
    claim = study["verdicts"][0]
    assert claim["difference"] == pytest.approx(0.03)
    assert claim["n"] == 3


def test_an_unknown_study_lists_the_known_ones(tiny):
    process = tiny("tinny", "--seeds", "2")
    _, err = process.communicate()
    assert process.returncode != 0
    assert "unknown study 'tinny'" in err
    assert "dropout" in err
    assert "Traceback" not in err


def test_a_study_refuses_a_dataset_it_is_not_made_for():
    with pytest.raises(ValueError, match="made for glyphs"):
        studies.conduct("dropout", "digits", 2)


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


@pytest.mark.parametrize("dataset", study_dropout.STUDY.datasets)
def test_every_arm_of_the_dropout_study_is_a_network_of_its_own(dataset):
    recipes = [study_dropout.recipe(arm, 0, dataset) for arm in study_dropout.arms(dataset)]
    assert len({repr(recipe) for recipe in recipes}) == len(recipes)
    for recipe in recipes:
        models.build(recipe.model, 10, **recipe.options)
        assert recipe.teacher is None or models.build("teacher", 10, **recipe.teacher.options)


def test_students_of_other_teachers_name_a_teacher_that_the_study_trains():
    for dataset in ("glyphs", "fashion_mnist"):
        arms = study_dropout.arms(dataset)
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
    cell = store.digest({"study": "tiny", "dataset": "glyphs", "arm": {"arm": 0}, "seed": 0})
    with FileLock(tiny.folder / "runs" / f".study-{cell}.lock"):  # another process is at the first run
        process = tiny("tiny", "--seeds", "2", "--workers", "1")
        while len(finished_cells(tiny.folder)) < 7:
            assert process.poll() is None
        assert "0 0" not in finished_cells(tiny.folder)
    _, err = process.communicate()
    assert tiny.results.exists(), err
    assert len(finished_cells(tiny.folder)) == 8, "what the other one dropped is done in the end"
