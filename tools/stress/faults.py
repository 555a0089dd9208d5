"""Faults of machines, done for real to copies of the series: what is said, and what is left afterwards?

    python tests/faults.py               all of them, into results/reliability.json (make faults)
    python tests/faults.py disk killed   those whose name holds one of these words; nothing is written

Commands are killed, disks are small, folders cannot be written to, files are damaged. Each time three things are
asked: did the same command complete once the cause was gone, was anything lost that had been finished, and did any
file hold less than what was written? Not part of `make test`: it takes minutes. Needs Linux; it makes a view of the
mounted disks of its own (unshare), so that nothing is mounted for anybody else. What a machine does not allow is told
in its row.
"""

import contextlib
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import nbformat
import psutil
import reliability
from test_studies import TINY

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distill_utils import _store, checks, settings, studies, training  # noqa: E402

COPIED = ("distill_utils", "notebooks", "results", "conftest.py", "pyproject.toml", "README.md", "README.zh-CN.md",
          "course/README.md", "requirements.txt", "Makefile")  # fmt: skip
KILLS = 5
YEAR = 365 * 24 * 3600
IMAGES = "t10k-labels-idx1-ubyte"  # the dataset file that is damaged


class NotPossible(Exception):
    """What this machine cannot do."""


class Outcome(NamedTuple):
    """What a fault led to. said: the message; the others: whether it held, None where it does not apply."""

    said: str
    completed: bool | None
    nothing_lost: bool | None
    nothing_half_written: bool | None


class Fault(NamedTuple):
    """A fault, what is done, and the function that does it in a folder of its own."""

    name: str
    done: str
    do: Callable[[Path], Outcome]


FAULTS: list[Fault] = []


def fault(name: str, done: str, *arguments):
    """Enter the function below as a fault; arguments: what it is called with besides its folder."""

    def enter(function):
        FAULTS.append(Fault(name, done, lambda folder: function(folder, *arguments)))
        return function

    return enter


# Copies, and commands in them


class Copy:
    """A copy of the checkout with its own runs and build; `make run` there runs the notebooks that are asked for."""

    def __init__(self, root: Path, notebooks: str = "00", runs: Path | None = None, **environment: str):
        self.root, self.runs, self.build = root, runs or root / "runs", root / "build"
        for name in COPIED:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            else:
                shutil.copy(ROOT / name, root / name)
        for path in (root / "notebooks").glob("*.ipynb"):
            if not path.name.startswith(notebooks):
                path.unlink()
        (root / "distill_utils" / "study_tiny.py").write_text(TINY, encoding="utf-8")
        python = root / ".venv" / "bin" / "python"  # as if set up: the packages of this one, the copy's code
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        (root / ".venv" / "ready").touch()
        mine = {"PYTHONPATH": str(root), "DISTILL_RUNS": str(self.runs), "DISTILL_BUILD": str(self.build),
                "TINY_LOG": str(root / "log"), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
        others = {name: value for name, value in os.environ.items() if not name.startswith(("DISTILL_", "MAKE"))}
        self.environment = others | mine | environment

    def start(self, *command: str, **environment: str | None) -> subprocess.Popen:
        """A command, in a process group of its own; environment: what to add, None to leave out."""
        variables = {name: value for name, value in (self.environment | environment).items() if value is not None}
        return subprocess.Popen(command, cwd=self.root, env=variables, text=True, errors="replace",
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip

    def call(self, *command: str, **environment: str | None) -> "Done":
        process = self.start(*command, **environment)
        said, _ = process.communicate()
        return Done(process.returncode, said, self)

    def python(self, *arguments: str, before: tuple = (), **environment: str | None) -> "Done":
        """python -m distill_utils ARGUMENTS."""
        return self.call(*before, sys.executable, "-m", "distill_utils", *arguments, **environment)


class Done(NamedTuple):
    """A command that ended: its status, what it printed, and where it ran."""

    status: int
    printed: str
    copy: Copy

    @property
    def well(self) -> bool:
        return self.status == 0 and "Traceback" not in self.printed

    @property
    def said(self) -> str:
        """The message of a command that failed, without paths, digests and times; "" where there was none."""
        if "Traceback (most recent call last)" in self.printed:
            return f"TRACEBACK: {_plain(self.printed.strip().splitlines()[-1], self.copy)}"
        lines = [line.split("\r")[-1].strip() for line in self.printed.splitlines()]
        messages = [line for line in lines if line.startswith(("error: ", "FAIL "))]
        if self.status and not messages:
            return f"status {self.status} AND NO MESSAGE"
        return " AND ".join(_plain(re.sub(r"^(error: |FAIL +\w+: )", "", line), self.copy) for line in messages)


def _plain(text: str, copy: Copy) -> str:
    for path in (copy.runs, copy.build, copy.root, copy.root.parent):
        text = text.replace(str(path), path.name if path in (copy.runs, copy.build) else "…")
    text = re.sub(r"-[0-9a-f]{16}", "-…", text).replace("…/", "")
    text = re.sub(r"\[Errno \d+\] ", "", text)
    return textwrap.shorten(text, 220, placeholder=" …")


def one(done: Done) -> bool:
    """Whether a command that failed said why, once."""
    return done.status != 0 and bool(done.said) and not re.search(r"TRACEBACK| AND ", done.said)


def warm(copy: Copy, dataset: str = "") -> Copy:
    """The copy with everything made that its notebooks ask for."""
    shutil.copytree(_made(dataset), copy.runs, dirs_exist_ok=True)
    return copy


def _made(dataset: str) -> Path:
    """The runs of a notebook that nothing happened to: 02 with this dataset, else 00."""
    with _MAKING:
        return _make(dataset)


_MAKING = threading.Lock()


@functools.cache
def _make(dataset: str) -> Path:
    chosen = {"DISTILL_DATASET": dataset} if dataset else {}
    copy = Copy(SCRATCH / f"whole {dataset}", "02" if dataset else "00", **chosen)
    start = time.perf_counter()
    done = copy.call("make", "run")
    assert done.well, done.printed[-3000:]
    (copy.root / "seconds").write_text(str(time.perf_counter() - start))
    return copy.runs


def seconds(dataset: str) -> float:
    """How long that took from an empty folder."""
    return float((_made(dataset).parent / "seconds").read_text())


# What is left


def half_written(copy: Copy) -> list[str]:
    """The files under their own names that do not hold what was written, and what is left of writing others."""
    found = []
    for path in [*copy.runs.rglob("*"), *copy.build.rglob("*"), *(copy.root / "results").rglob("*")]:
        try:
            if path.suffix in (".safetensors", ".partial"):
                _store.load(path)
            elif path.suffix == ".json":
                studies.read(path) if "verdicts" in _store.read_json(path) else _store.read_json(path)
            elif path.suffix == ".ipynb":
                nbformat.validate(nbformat.read(path, as_version=4))
            elif path.suffix == ".jsonl":
                checks._rows(path)
            elif path.suffix == ".journal":
                studies._examine(path)
            elif path.suffix == ".html":
                found += [path.name] * (not path.read_text(encoding="utf-8").rstrip().endswith("</html>"))
            elif path.suffix == ".tmp":
                found.append(path.name)
        except (_store.DamagedFile, ValueError, nbformat.ValidationError):
            found.append(path.name)
    return found


def finished(runs: Path) -> dict[str, str]:
    """Artifact → digest of what it holds, as far as it is whole."""
    found = {}
    for path in runs.glob("*.safetensors"):
        with contextlib.suppress(_store.DamagedFile):
            tensors, record = _store.load(path)
            found[path.name] = _store.checksum(tensors, json.dumps(record))
    return found


def kept(before: dict[str, str], runs: Path) -> bool:
    """Whether all that was finished before is there as it was."""
    return before.items() <= finished(runs).items()


def runs_of_journal(copy: Copy) -> list[str]:
    """The finished runs that the whole lines of the journal hold."""
    found = []
    for path in (copy.root / "results").glob("study-tiny-*.journal"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            with contextlib.suppress(ValueError):
                if run := json.loads(line).get("user_attrs"):
                    found.append(f"{json.loads(run['arm'])['arm']} {run['seed']}")
    return found


def done_again(copy: Copy, finished_runs: list[str]) -> list[str]:
    """Those of these runs that the study began a second time."""
    begun = [line.removeprefix("start ") for line in (copy.root / "log").read_text().splitlines() if "start" in line]
    return [run for run in finished_runs if begun.count(run) > 1]


def alive(copy: Copy) -> list[psutil.Process]:
    """Processes of the copy: kernels and workers too, which are in groups of their own."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TINY_LOG") == copy.environment["TINY_LOG"]:
                found.append(process)
    return found


def kill(process: subprocess.Popen, copy: Copy) -> bool:
    """SIGKILL to the whole group; whether everything else of it ended by itself within ten seconds."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    _, left = psutil.wait_procs(alive(copy), timeout=10)
    for other in left:
        other.kill()
    return not left


# Killed


@fault(
    "killed",
    f"SIGKILL to the group of `make run` (02 on digits, from nothing) at {KILLS} random moments, then run again",
    False,
)
@fault("two at once", "`make run` in two copies that share one DISTILL_RUNS, from nothing; one is killed half-way "
       "and started again", True)  # fmt: skip
def killed(folder: Path, shared: bool) -> Outcome:
    chance, whole = random.Random(9), finished(_made("digits"))
    copy = Copy(folder / "first", "02", DISTILL_DATASET="digits")
    other = Copy(folder / "second", "02", runs=copy.runs, DISTILL_DATASET="digits") if shared else None
    second = other.start("make", "run") if other else None
    lost, half, orphans = False, [], False
    moments = [0.5] if shared else [chance.uniform(0.1, 0.9) for _ in range(KILLS)]
    for moment in moments:
        before, process = finished(copy.runs), copy.start("make", "run")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment * seconds("digits"))
        orphans |= not kill(process, copy)
        lost |= not kept(before, copy.runs)
        half += [name for name in half_written(copy) if not name.endswith(".tmp")]  # of a write that was cut off
    before = finished(copy.runs)
    done = [copy.call("make", "run")]
    if other:
        said, _ = second.communicate()
        done.append(Done(second.returncode, said, other))
    said = " AND ".join(each.said for each in done if each.said) or "nothing"
    said += "; A PROCESS WAS LEFT" if orphans else ""
    same = finished(copy.runs) == whole
    half += half_written(copy) + (half_written(other) if other else [])
    return Outcome(said, all(each.well for each in done), not lost and kept(before, copy.runs) and same, not half)


@fault("kernel killed", "SIGKILL to the kernel while `run 00` is at it, then run again")
def kernel_killed(folder: Path) -> Outcome:
    copy = warm(Copy(folder / "copy"))
    process = copy.start(sys.executable, "-m", "distill_utils", "run", "00")
    kernels: list = []
    while process.poll() is None and not (copy.build / "checks.jsonl").exists():
        time.sleep(0.1)
    for child in psutil.Process(process.pid).children():
        if "ipykernel_launcher" in " ".join(child.cmdline()):
            child.kill()
            kernels.append(child)
    said, _ = process.communicate()
    first, again = Done(process.returncode, said, copy), copy.python("run", "00")
    return Outcome(first.said, bool(kernels) and one(first) and again.well, kept(finished(_made("")), copy.runs),
                   not half_written(copy))  # fmt: skip


@fault("study killed", "SIGKILL to the group of a study at four random moments, then run again")
def study_killed(folder: Path) -> Outcome:
    copy, chance, orphans, half = Copy(folder / "copy"), random.Random(4), False, []
    for _ in range(4):
        process = copy.start(sys.executable, "-m", "distill_utils", "study", "tiny", "--seeds", "6")
        enough = len(runs_of_journal(copy)) + chance.randint(1, 5)
        while process.poll() is None and len(runs_of_journal(copy)) < enough:
            time.sleep(chance.uniform(0, 0.02))
        orphans |= not kill(process, copy)
        half += half_written(copy)
    done = copy.python("study", "tiny", "--seeds", "6")
    said = (done.said or "nothing") + ("; A PROCESS WAS LEFT" if orphans else "")
    whole = len(set(runs_of_journal(copy))) == len(runs_of_journal(copy)) == 24
    return Outcome(said, done.well, whole, not half + half_written(copy))


# Folders that cannot be written to


def barred() -> tuple:
    """What to put before a command so that permissions bind it: root passes over them."""
    if os.geteuid() != 0:
        return ()
    if not shutil.which("setpriv"):
        raise NotPossible("root passes over permissions, and there is no setpriv")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@contextlib.contextmanager
def not_writable(path: Path):
    path.mkdir(parents=True, exist_ok=True)
    modes = {each: each.stat().st_mode for each in [path, *path.rglob("*")] if not each.is_symlink()}
    for each in modes:
        each.chmod(0o555 if each.is_dir() else 0o444)
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.chmod(mode)


def real_data() -> Path:
    raw = settings.data_folder() / "MNIST" / "raw"
    if not (raw / IMAGES).exists():
        raise NotPossible("MNIST is not here: set DISTILL_DATA")
    return raw


@fault("data cannot be written to", "MNIST in a folder without write permission: `doctor`, twice", True)
@fault("data cannot be written to, empty", "an empty folder without write permission for MNIST: `doctor`; then the "
       "files are there", False)  # fmt: skip
def data_read_only(folder: Path, there: bool) -> Outcome:
    copy, data = Copy(folder / "copy"), folder / "data"
    raw, mine = real_data(), {"DISTILL_DATASET": "mnist", "DISTILL_DATA": str(data)}
    (data / "MNIST").mkdir(parents=True)
    if there:
        (data / "MNIST" / "raw").symlink_to(raw)
    with not_writable(data):
        first = copy.python("doctor", before=barred(), **mine)
        listed = sorted(data.rglob("*"))
    if not there:
        shutil.rmtree(data / "MNIST")
        (data / "MNIST").mkdir()
        (data / "MNIST" / "raw").symlink_to(raw)
    again = copy.python("doctor", **mine)
    return Outcome(first.said or "nothing", (first.well if there else one(first)) and again.well, None,
                   len(listed) == (2 if there else 1))  # fmt: skip


@fault("runs cannot be written to", "DISTILL_RUNS without write permission, empty: `run 00`; then with permission", 0)
@fault("runs on a read-only disk", "DISTILL_RUNS on a disk that is mounted read-only: `run 00`; then writable", 1)
@fault("runs cannot be written to, whole", "DISTILL_RUNS without write permission, all made before: `run 00`", 2)
@fault("build cannot be written to", "DISTILL_BUILD without write permission: `run 00`; then with permission", 3)
def runs_read_only(folder: Path, case: int) -> Outcome:
    copy = Copy(folder / "copy")
    if case >= 2:
        warm(copy)
    copy.runs.mkdir(exist_ok=True)
    before = finished(copy.runs)
    if case == 1:
        with disk(copy.runs, "ro"):
            first = copy.python("run", "00")
            mount("remount,rw,size=300m", copy.runs)
            again = copy.python("run", "00")
            return Outcome(first.said, one(first) and again.well, None, not half_written(copy))
    with not_writable(copy.build if case == 3 else copy.runs):
        first = copy.python("run", "00", before=barred())
    if case == 2:
        return Outcome(first.said or "nothing", first.well, before == finished(copy.runs), not half_written(copy))
    again = copy.python("run", "00")
    return Outcome(first.said, one(first) and again.well, kept(before, copy.runs), not half_written(copy))


@fault("doctor sees it", "DISTILL_RUNS without write permission: `doctor`; then with permission")
def doctor_read_only(folder: Path) -> Outcome:
    copy = Copy(folder / "copy")
    with not_writable(copy.runs):
        first = copy.python("doctor", before=barred(), DISTILL_DATASET="digits")
    return Outcome(first.said, one(first) and copy.python("doctor", DISTILL_DATASET="digits").well, None,
                   not half_written(copy))  # fmt: skip


# Full disks


def mount(options: str, path: Path) -> None:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, text=True)
    if done.returncode:
        raise NotPossible("a disk cannot be mounted here")


@contextlib.contextmanager
def disk(path: Path, options: str):
    """A disk in memory at path, seen by this program and its children alone."""
    if "FAULTS_OWN_VIEW" not in os.environ:
        raise NotPossible("a disk can only be mounted with unshare, which this machine refuses")
    path.mkdir(parents=True, exist_ok=True)
    mount(options, path)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@fault("disk full, runs", "DISTILL_RUNS on a disk of 16 MB: `run 00`; then of 300 MB", "runs", "16m")
@fault("disk full, build", "DISTILL_BUILD on a disk of 64 kB: `run 00`; then of 300 MB", "build", "64k")
def disk_full(folder: Path, which: str, size: str) -> Outcome:
    copy = Copy(folder / "copy")
    if which == "build":
        warm(copy)
    place = copy.root / which
    with disk(place, f"size={size}"):
        first = copy.python("run", "00")
        before, half = finished(copy.runs), half_written(copy)
        mount("remount,size=300m", place)
        again = copy.python("run", "00")
        return Outcome(first.said, one(first) and again.well, kept(before, copy.runs), not half + half_written(copy))


@fault("disk full, study", "the journal of a study on a disk that fills up; then there is room, and it runs again")
def disk_full_study(folder: Path) -> Outcome:
    copy = Copy(folder / "copy")
    shutil.rmtree(copy.root / "results")
    with disk(copy.root / "results", "size=16k"):
        first = copy.python("study", "tiny", "--seeds", "12", "--workers", "1")
        before = runs_of_journal(copy)
        (journal,) = (copy.root / "results").glob("*.journal")
        torn = not journal.read_bytes().endswith(b"\n")
        mount("remount,size=10m", copy.root / "results")
        again = copy.python("study", "tiny", "--seeds", "12", "--workers", "1")
        said = f"{first.said}{' (a line was cut off)' if torn else ''}"
        lost = done_again(copy, before)
        return Outcome(said, one(first) and again.well, bool(before) and not lost, not half_written(copy))


# Damaged files


def flip(whole: bytes, place: int, bit: int) -> bytes:
    return whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]


HARMS = {
    "a bit changed": lambda whole: flip(whole, len(whole) // 2, 4),
    "cut short": lambda whole: whole[: 2 * len(whole) // 3],
    "empty": lambda whole: b"",
}


def damaged(path: Path, harm: str, mend: str, copy: Copy, command: tuple, **environment: str) -> Outcome:
    """A command that meets a damaged file; then the file is deleted or whole again: mend, and the same command."""
    before, whole = finished(copy.runs), path.read_bytes()
    path.write_bytes(HARMS[harm](whole))
    left = path.read_bytes()
    first = copy.python(*command, **environment)
    named = path.name in first.printed and path.read_bytes() == left  # it is the reader who deletes a file
    path.write_bytes(whole) if mend == "whole" else path.unlink()
    again = copy.python(*command, **environment)
    return Outcome(first.said, one(first) and named and again.well, kept(before, copy.runs), not half_written(copy))


def _each(kind: str, done: str):
    def enter(function):
        for harm in HARMS:
            FAULTS.append(Fault(f"{kind}, {harm}", done, functools.partial(function, harm=harm)))
        return function

    return enter


@_each("artifact damaged", "the kept images of a split, then `doctor`; deleted, and again")
def artifact(folder: Path, harm: str) -> Outcome:
    copy = warm(Copy(folder / "copy"))
    return damaged(min(copy.runs.glob("glyphs-*.safetensors")), harm, "delete", copy, ("doctor",))


@_each("teacher's cache damaged", "the teacher's recorded logits, then `train student`; deleted, and again")
def cache(folder: Path, harm: str) -> Outcome:
    copy = warm(Copy(folder / "copy"), "digits")
    options = "--dataset digits --steps 3 --device cpu --out"
    command = ("train", "student", *options.split(), str(folder / "out"))
    plain = (path for path in copy.runs.glob("logits-*") if "view" not in _store.load(path)[1]["key"])
    return damaged(next(plain), harm, "delete", copy, command)  # the recording of the images as they are


@_each("results file damaged", "the results of a study, then `readme --check`; taken from git, and again")
def results(folder: Path, harm: str) -> Outcome:
    copy = Copy(folder / "copy", "")
    path = copy.root / "results" / "dropout-glyphs.json"
    return damaged(path, harm, "whole", copy, ("readme", "--check"))


@_each("dataset file damaged", f"MNIST's {IMAGES}, then `doctor`; the whole file again, and again")
def dataset_file(folder: Path, harm: str) -> Outcome:
    copy, raw = Copy(folder / "copy"), folder / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in real_data().iterdir():
        (raw / path.name).symlink_to(path)
    mine = raw / IMAGES
    mine.unlink()
    shutil.copy(real_data() / IMAGES, mine)
    mine.chmod(0o644)
    surroundings = {"DISTILL_DATASET": "mnist", "DISTILL_DATA": str(folder / "data")}
    return damaged(mine, harm, "whole", copy, ("doctor",), **surroundings)


@fault("results file damaged, bit by bit", "one random bit at a time, 200 times, read as a notebook does")
def results_bytes(folder: Path) -> Outcome:
    chance, path, noticed, broken, wrong = random.Random(7), folder / "dropout.json", 0, set(), 0
    whole = (ROOT / "results" / "dropout-glyphs.json").read_bytes()
    right = json.loads(whole)
    for _ in range(200):
        path.write_bytes(flip(whole, chance.randrange(len(whole)), chance.randrange(8)))
        try:
            found = studies.read(path)
            wrong += [found[part] != right[part] for part in ("settings", "summary", "verdicts")].count(True)
        except _store.DamagedFile:
            noticed += 1
        except Exception as error:
            broken.add(type(error).__name__)
    said = f"{noticed} of 200 refused; settings, summary or verdicts differ in {wrong} of the others"
    return Outcome(f"TRACEBACK: {broken}" if broken else said, not broken, not wrong, None)


@fault("study journal damaged, a digit changed", "in a finished run, then the study; its line taken out, again", 0)
@fault("study journal damaged, a brace changed", "in a finished run, then the study; its line taken out, again", 1)
@fault("study journal damaged, cut short", "it ends in the middle of its last run; the study is run again", 2)
@fault("study journal damaged, empty", "nothing is left of the journal; the study is run again", 3)
def journal_damaged(folder: Path, case: int) -> Outcome:
    copy = Copy(folder / "copy")
    command = ("study", "tiny", "--seeds", "2", "--workers", "1")
    assert copy.python(*command).well
    results = (copy.root / "results" / "tiny-glyphs.json").read_bytes()
    (path,) = (copy.root / "results").glob("study-tiny-*.journal")
    lines = path.read_bytes().splitlines(keepends=True)
    runs = [number for number, line in enumerate(lines) if b"metrics" in line]
    number = runs[3] if case < 2 else runs[-1]
    if case == 0:
        lines[number] = re.sub(rb'("score": ?0\.)\d', rb"\g<1>7", lines[number])
    elif case == 1:
        lines[number] = lines[number].replace(b"}", b"]", 1)
    text = b"".join(lines)
    path.write_bytes([text, text, b"".join(lines[:number]) + lines[number][:40], b""][case])
    copy.environment["TINY_LOG"] = str(copy.root / "log2")
    first = again = copy.python(*command)
    if case < 2:
        path.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
        again = copy.python(*command)
    begun = (copy.root / "log2").read_text().count("start")
    now = _store.read_json(copy.root / "results" / "tiny-glyphs.json")
    same = [run["metrics"] for run in now["runs"]] == [run["metrics"] for run in json.loads(results)["runs"]]
    return Outcome(first.said or "nothing", (one(first) if case < 2 else first.well) and again.well,
                   same and begun == (8 if case == 3 else 1), not half_written(copy))  # fmt: skip


@fault("checks damaged", "checks.jsonl with a changed byte, then `checks`; deleted, again", "checks.jsonl", "checks")
@fault("timings damaged", "timings.json cut short, then `run`; deleted, and again", "timings.json", "run")
def record_damaged(folder: Path, name: str, command: str) -> Outcome:
    copy = warm(Copy(folder / "copy"))
    copy.build.mkdir()
    row = {"notebook": "x", "name": "x", "dataset": "x", "value": 1, "low": 1, "high": 1, "passed": True}
    text = json.dumps(row).replace("}", "]") if name == "checks.jsonl" else '{"00_start_here": {"sec'
    (copy.build / name).write_text(f"{text}\n")
    first = copy.python(command)
    (copy.build / name).unlink()
    again = copy.python(command)
    return Outcome(first.said, one(first) and name in first.printed and again.well, None, not half_written(copy))


# Clocks, homes, paths, networks


@fault("clock moved back", "every file of the copy, its runs, its build and its locks dated a year ahead: `make run` "
       "and a study go on from them")  # fmt: skip
def clock(folder: Path) -> Outcome:
    copy = warm(Copy(folder / "copy"))
    first = copy.call("make", "run")
    study = copy.python("study", "tiny", "--seeds", "1")
    before, ahead = finished(copy.runs), time.time() + YEAR
    for path in [copy.root, *copy.root.rglob("*")]:
        os.utime(path, (ahead, ahead), follow_symlinks=False)
    again, more = copy.call("make", "run"), copy.python("study", "tiny", "--seeds", "1")
    lost = before != finished(copy.runs) or done_again(copy, runs_of_journal(copy))
    dates = {path.stat().st_mtime for path in copy.runs.glob("*.safetensors")}
    said = re.search(r".*Setting up.*", again.printed)
    well = all(each.well for each in (first, study, again, more)) and not said
    return Outcome(said[0] if said else "nothing", well, not lost and dates == {ahead}, not half_written(copy))


@fault("clock moved back before the set-up", "requirements.txt dated a year ahead: make sets up once, and not again")
def clock_of_make(folder: Path) -> Outcome:
    copy = Copy(folder / "copy")
    shutil.rmtree(copy.root / ".venv")
    ahead = time.time() + YEAR
    os.utime(copy.root / "requirements.txt", (ahead, ahead))
    python = folder / "python"  # sets up in no time: every program of its .venv does nothing
    make_it = 'mkdir -p .venv/bin; printf "#!/bin/sh\\n" > .venv/bin/python; chmod +x .venv/bin/python'
    python.write_text(f'#!/bin/sh\ncase "$*" in *--clear*) {make_it};; esac\n')
    python.chmod(0o755)
    calls = [copy.call("make", "run", f"PYTHON={python}") for _ in range(2)]
    set_up = ["Setting up" in each.printed for each in calls]
    return Outcome("set up again" if set_up[1] else "nothing", set_up == [True, False] and calls[1].well, None, None)


@fault("no HOME", "`make run` without the variable HOME", None)
@fault("HOME cannot be written to", "`make run` with HOME in a folder without write permission", "home")
def no_home(folder: Path, home: str | None) -> Outcome:
    copy = warm(Copy(folder / "copy"))
    with not_writable(folder / "home"):
        names = ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "MPLCONFIGDIR")
        others = dict.fromkeys(names)
        place = str(folder / home / "nobody") if home else None
        done = copy.call(*(barred() if home else ()), "make", "run", HOME=place, **others)
    return Outcome(done.said or "nothing", done.well, kept(finished(_made("")), copy.runs), not half_written(copy))


@fault("a path with spaces and other letters", "copy and DISTILL_RUNS in “Übung 蒸馏 (2) & co”: `make run`, "
       "`doctor`, a study, one notebook under nbval")  # fmt: skip
def odd_path(folder: Path) -> Outcome:
    place = folder / "Übung 蒸馏 (2) & co"
    copy = warm(Copy(place / "the series’ copy", runs=place / "rüns of θ₁"))
    done = [
        copy.call("make", "run"),
        copy.python("doctor"),
        copy.python("study", "tiny", "--seeds", "1"),
        copy.call(sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", "notebooks"),
    ]
    wrong = [each.said for each in done if not each.well]
    said = " AND ".join(wrong) or "nothing"
    return Outcome(said, not wrong, kept(finished(_made("")), copy.runs), not half_written(copy))


def without_network() -> tuple:
    """What to put before a command so that it has no network but its own machine, which kernels talk over."""
    own = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--net")
    script = (
        "import fcntl, os, socket, struct, sys; s = socket.socket(); "
        "fcntl.ioctl(s, 0x8914, struct.pack('16sH14s', b'lo', 1, b'')); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    command = (*own, sys.executable, "-c", script)
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        raise NotPossible("a network can only be taken away with unshare, which this machine refuses")
    return command


@fault("no network", "`make run` where there is no network but the machine's own (unshare --net)", "")
@fault("no network, real data", "`doctor` with MNIST absent and no network; then the files are there", "mnist")
def no_network(folder: Path, dataset: str) -> Outcome:
    copy, before = Copy(folder / "copy"), without_network()
    if not dataset:
        done = copy.call(*before, "make", "run")
        return Outcome(done.said or "nothing", done.well, None, not half_written(copy))
    raw = real_data()
    mine = {"DISTILL_DATASET": dataset, "DISTILL_DATA": str(folder / "data")}
    first = copy.python("doctor", before=before, **mine)
    shutil.copytree(raw, folder / "data" / "MNIST" / "raw", dirs_exist_ok=True)
    again = copy.python("doctor", before=before, **mine)
    return Outcome(first.said, one(first) and again.well, None, not half_written(copy))


# All of them


def main(words: list[str]) -> int:
    global SCRATCH
    chosen = [each for each in FAULTS if not words or any(word in each.name for word in words)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(settings.cores()) as pool:
        SCRATCH = Path(folder)
        rows = []
        with training.progress_bar(len(chosen), "faults", unit="fault") as bar:
            for row in pool.map(_try, chosen):
                rows.append(row)
                bar.update()
    failed = [row["fault"] for row in rows if False in row.values()]
    print(f"{len(rows) - len(failed)} of {len(rows)} faults did no harm", *failed, sep="\n  ")
    if not words:
        reliability.record("faults", rows)
    return int(bool(failed))


def _try(each: Fault) -> dict:
    """Its row of the table."""
    place, start = Path(tempfile.mkdtemp(dir=SCRATCH)), time.perf_counter()
    try:
        outcome = each.do(place)
    except NotPossible as error:
        outcome = Outcome(f"not tried: {error}", None, None, None)
    shutil.rmtree(place)
    print(f"{time.perf_counter() - start:4.0f} s  {each.name}: {outcome}", flush=True)
    held = {name.replace("_", " "): "–" if value is None else value for name, value in outcome._asdict().items()}
    return {"fault": each.name, "what was done": each.done, **held}


SCRATCH = Path()

if __name__ == "__main__":
    own_view = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    refused = not shutil.which("unshare") or subprocess.run([*own_view, "true"], capture_output=True).returncode
    if "FAULTS_OWN_VIEW" not in os.environ and not refused:
        os.environ["FAULTS_OWN_VIEW"] = "1"
        os.execvp(own_view[0], [*own_view, sys.executable, *sys.argv])
    sys.exit(main(sys.argv[1:]))
