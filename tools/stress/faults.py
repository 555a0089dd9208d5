"""Faults of machines, done for real to copies of the series: what message is printed, and what is left afterwards?

    python tools/stress/faults.py               all of them, into results/reliability.json (make faults)
    python tools/stress/faults.py disk killed   those whose name contains one of these words; nothing is written

Each row answers three questions: did the same command complete once the cause was gone, was finished work lost, did
any file hold less than was written? Not part of `make test`: it takes minutes. Needs Linux; disks are mounted in a
view of this program's own (unshare). What a machine does not allow is said in its row.
"""

import contextlib
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
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import nbformat
import psutil
import reliability

from distill_utils import _store, settings, studies, training

ROOT = reliability.ROOT
COPIED = ("distill_utils", "notebooks", "results", "conftest.py", "pyproject.toml", "README.md", "requirements.txt",
          "Makefile")  # fmt: skip
SCRATCH = Path(tempfile.gettempdir())  # set by main
STUDY = ("study", "tiny", "--seeds")
YEAR = 365 * 24 * 3600
IMAGES = "t10k-labels-idx1-ubyte"  # the dataset file that is damaged


class NotPossible(Exception):
    """What this machine cannot do."""


class Outcome(NamedTuple):
    """The message, and three answers; None where a question does not apply."""

    message: str
    completed: bool | None
    nothing_lost: bool | None
    nothing_half_written: bool | None


class Fault(NamedTuple):
    """A fault, what is done, and the function that does it in a folder of its own."""

    fault: str
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
    """A copy of the checkout with its own runs and build; `make run` there runs the notebooks of these numbers."""

    def __init__(self, root: Path, notebooks: str = "00", runs: Path | None = None, **environment: str):
        self.root, self.runs, self.build = root, runs or root / "runs", root / "build"
        self.results, self.log = root / "results", root / "log"
        self.journal = root / "results" / "tiny-glyphs-v1.jsonl"
        root.mkdir(parents=True)
        for source in map(ROOT.joinpath, COPIED):
            if source.is_dir():
                shutil.copytree(source, root / source.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            else:
                shutil.copy(source, root)
        for path in (root / "notebooks").glob("*.ipynb"):
            if not path.name.startswith(notebooks):
                path.unlink()
        shutil.copy(Path(__file__).with_name("tiny_study.py"), root / "distill_utils" / "studies" / "tiny.py")
        python = root / ".venv" / "bin" / "python"  # as if set up: the packages of this one, the copy's code
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        (root / ".venv" / "ready").touch()
        own = {"PYTHONPATH": str(root), "DISTILL_RUNS": str(self.runs), "DISTILL_BUILD": str(self.build),
               "TINY_LOG": str(self.log), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
        others = {name: value for name, value in os.environ.items() if not name.startswith(("DISTILL_", "MAKE"))}
        self.environment = others | own | environment

    def start(self, *command: str, **environment: str | None) -> subprocess.Popen:
        """A command, in a process group of its own; environment: what to add, None to leave out."""
        variables = {name: value for name, value in (self.environment | environment).items() if value is not None}
        return subprocess.Popen(command, cwd=self.root, env=variables, text=True, errors="replace",
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip

    def journalled(self) -> list[str]:
        """The finished runs of the tiny study, as its log names them when they begin."""
        return [f"{row['arm']['arm']} {row['seed']}" for row in lines_of(self.journal)]

    def begun(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def call(self, *command: str, **environment: str | None) -> "Done":
        return Done(self.start(*command, **environment), self)

    def python(self, *arguments: str, before: tuple = (), **environment: str | None) -> "Done":
        """python -m distill_utils ARGUMENTS."""
        return self.call(*before, sys.executable, "-m", "distill_utils", *arguments, **environment)


class Done:
    """A command that ended. well: it succeeded; refused: it failed with one message; message: its error, without
    paths and digests, "" where there was none."""

    def __init__(self, process: subprocess.Popen, copy: Copy):
        self.printed, self.copy = process.communicate()[0], copy
        lines = [line.split("\r")[-1].strip() for line in self.printed.splitlines()]
        if traceback := "Traceback (most recent call last)" in self.printed:
            found = [f"TRACEBACK: {lines[-1]}"]
        else:
            found = [line for line in lines if line.startswith(("error: ", "FAIL "))]
        self.well = process.returncode == 0 and not traceback
        self.refused = process.returncode != 0 and not traceback and len(found) == 1
        if process.returncode and not found:
            found = [f"status {process.returncode} AND NO MESSAGE"]
        self.message = " AND ".join(map(self._short, found))

    def _short(self, text: str) -> str:
        text = re.sub(r"^(error: |FAIL +\w+: )", "", text)
        for path in (self.copy.runs, self.copy.build, self.copy.root, self.copy.root.parent):
            text = text.replace(str(path), path.name if path in (self.copy.runs, self.copy.build) else "…")
        text = re.sub(r"\[Errno \d+\] ", "", re.sub(r"-[0-9a-f]{16}", "-…", text).replace("…/", ""))
        return textwrap.shorten(text, 220, placeholder=" …")


_MADE: dict[str, tuple[Path, float]] = {}
_MAKING = threading.Lock()


def made(dataset: str = "") -> tuple[Path, float]:
    """The runs of an undisturbed notebook, 02 with this dataset or else 00, and the seconds that they took."""
    with _MAKING:
        if dataset not in _MADE:
            copy, start = Copy(SCRATCH / f"whole {dataset}", "02" if dataset else "00"), time.perf_counter()
            done = copy.call("make", "run", DISTILL_DATASET=dataset)
            assert done.well, done.printed[-3000:]
            _MADE[dataset] = copy.runs, time.perf_counter() - start
        return _MADE[dataset]


def warm(root: Path, dataset: str = "") -> Copy:
    """A copy with everything made that its notebooks need."""
    shutil.copytree(made(dataset)[0], root / "runs")
    return Copy(root / "copy", runs=root / "runs")


# What is left


def half_written(copy: Copy) -> list[str]:
    """The files under their own names that do not hold what was written, and what is left of writing others."""
    readers = {".safetensors": _store.load, ".partial": _store.load, ".json": _store.read_json, ".jsonl": lines_of,
               ".ipynb": lambda path: nbformat.validate(nbformat.read(path, as_version=4))}  # fmt: skip
    found = []
    for path in [*copy.runs.rglob("*"), *copy.build.rglob("*"), *copy.results.rglob("*")]:
        cut = path.suffix == ".html" and not path.read_text(encoding="utf-8").rstrip().endswith("</html>")
        try:
            readers.get(path.suffix, str)(path)
        except (_store.DamagedFile, ValueError, nbformat.ValidationError):
            cut = True
        found += [path.name] * (cut or path.suffix == ".tmp")
    return found


def lines_of(path: Path) -> list[dict]:
    """The whole lines of a JSON-lines file, verified where they have a check. Raises ValueError for a damaged one."""
    rows = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []
    if any("check" in row and row.pop("check") != _store.digest(row) for row in rows):
        raise ValueError(f"a line of {path} was changed")
    return rows


def finished(copy: Copy) -> dict[str, str]:
    """Artifact -> digest of what it holds, for those that are whole."""
    found = {}
    for path in copy.runs.glob("*.safetensors"):
        with contextlib.suppress(_store.DamagedFile):
            tensors, record = _store.load(path)
            found[path.name] = _store.checksum(tensors, json.dumps(record["key"]))
    return found


def kept(before: dict[str, str], copy: Copy) -> bool | None:
    """Whether all that was finished before is unchanged; None where nothing was."""
    return before.items() <= finished(copy).items() if before else None


def twice(copy: Copy, cause, command: tuple, *, refused: bool = True, names: Path | None = None, before: tuple = (),
          **environment: str) -> Outcome:  # fmt: skip
    """A command while a fault lasts, and again without it. cause: a context manager; refused: whether the first must
    fail with one message (else succeed); names: a file that this message must name and that must not change then."""
    there = finished(copy)
    with cause:
        left = names and names.read_bytes()
        first = copy.python(*command, before=before, **environment)
        named = names is None or (names.name in first.printed and names.read_bytes() == left)
        half = [] if names else half_written(copy)
    again = copy.python(*command, **environment)
    completed = (first.refused and named if refused else first.well) and again.well
    return Outcome(first.message or "nothing", completed, kept(there, copy), not half + half_written(copy))


# Killed


def killed(copy: Copy, command: tuple, due: Callable[[], bool]) -> bool:
    """Start a command, SIGKILL its whole group once that is due, and wait. Returns whether all other processes of the
    copy, kernels and workers, which are in groups of their own, ended by themselves within ten seconds."""
    process = copy.start(*command)
    while process.poll() is None and not due():
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    others = []
    for other in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if other.environ().get("TINY_LOG") == str(copy.log):
                others.append(other)
    _, left = psutil.wait_procs(others, timeout=10)
    for other in left:
        other.kill()
    return not left


@fault("killed", "SIGKILL to the group of `make run` (02 on digits) at 5 random moments, then run again", False)
@fault("two at once", "`make run` in two copies with one DISTILL_RUNS; one is killed half-way, and run again", True)
def run_killed(folder: Path, shared: bool) -> Outcome:
    chance, (runs, seconds) = random.Random(9), made("digits")
    copy = Copy(folder / "first", "02", folder / "runs", DISTILL_DATASET="digits")
    other = Copy(folder / "second", "02", folder / "runs", DISTILL_DATASET="digits")
    second = other.start("make", "run") if shared else None
    lost, half, ended = False, [], True
    for moment in [0.5] if shared else [chance.uniform(0.1, 0.9) for _ in range(5)]:
        before, end = finished(copy), time.monotonic() + moment * seconds
        ended &= killed(copy, ("make", "run"), lambda end=end: time.monotonic() > end)
        lost |= kept(before, copy) is False
        half += [name for name in half_written(copy) if not name.endswith(".tmp")]  # of a write that was cut off
    done = [copy.call("make", "run"), *([Done(second, other)] if second else [])]
    message = " AND ".join(each.message for each in done if each.message) or "nothing"
    same = {path.name for path in runs.glob("*.safetensors")} == finished(copy).keys()
    return Outcome(message + ("" if ended else "; A PROCESS WAS LEFT"), all(each.well for each in done),
                   same and not lost, not half + half_written(copy) + half_written(other))  # fmt: skip


@fault("kernel killed", "SIGKILL to the kernel while `run 00` is at it, then run again")
def kernel_killed(folder: Path) -> Outcome:
    copy, kernels = warm(folder), []
    before, process = finished(copy), copy.start(sys.executable, "-m", "distill_utils", "run", "00")
    while process.poll() is None and not any(copy.build.rglob("*.jsonl")):  # until its first check
        time.sleep(0.1)
    for child in psutil.Process(process.pid).children():
        if "ipykernel_launcher" in " ".join(child.cmdline()):
            child.kill()
            kernels.append(child)
    first, again = Done(process, copy), copy.python("run", "00")
    completed = bool(kernels) and first.refused and again.well
    return Outcome(first.message, completed, kept(before, copy), not half_written(copy))


@fault("study killed", "SIGKILL to the group of a study at four random moments, then run again")
def study_killed(folder: Path) -> Outcome:
    copy, chance, ended, half = Copy(folder / "copy"), random.Random(4), True, []
    for _ in range(4):
        enough = len(copy.journalled()) + chance.randint(1, 5)
        command = (sys.executable, "-m", "distill_utils", *STUDY, "6")
        ended &= killed(copy, command, lambda enough=enough: len(copy.journalled()) >= enough)
        half += half_written(copy)
    done = copy.python(*STUDY, "6")
    message = (done.message or "nothing") + ("" if ended else "; A PROCESS WAS LEFT")
    whole = len(set(copy.journalled())) == len(copy.journalled()) == 24
    return Outcome(message, done.well, whole, not half + half_written(copy))


# Folders that cannot be written to, absent data


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
    modes = {each: each.stat().st_mode for each in [path, *path.rglob("*")]}
    for each in modes:
        each.chmod(0o555 if each.is_dir() else 0o444)
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.chmod(mode)


@fault("runs cannot be written to", "DISTILL_RUNS empty and read-only: `run 00`; then writable", "runs", "run 00")
@fault("runs cannot be written to, whole", "DISTILL_RUNS complete and read-only: `run 00`", "whole runs", "run 00")
@fault("build cannot be written to", "DISTILL_BUILD read-only: `run 00`; then writable", "build", "run 00")
@fault("doctor sees it", "DISTILL_RUNS read-only: `doctor`; then writable", "runs", "doctor")
def read_only(folder: Path, which: str, command: str) -> Outcome:
    copy = Copy(folder / "copy") if which == "runs" else warm(folder)
    cause = not_writable(copy.build if which == "build" else copy.runs)
    environment = {"DISTILL_DATASET": "digits"} if command == "doctor" else {}  # no artifact is made there
    return twice(copy, cause, tuple(command.split()), refused=which != "whole runs", before=barred(), **environment)


def real_data(data: Path) -> Path:
    """A copy of MNIST in a data folder; its path. Raises NotPossible where there is none."""
    source, raw = settings.data_folder() / "MNIST" / "raw", data / "MNIST" / "raw"
    if not (source / IMAGES).exists():
        raise NotPossible("MNIST is not here: set DISTILL_DATA")
    return shutil.copytree(source, raw, dirs_exist_ok=True, copy_function=shutil.copyfile)


@fault("data cannot be written to", "MNIST in a read-only folder: `doctor`, twice", "there")
@fault("data cannot be written to, empty", "a read-only folder for MNIST: `doctor`; then its files come", "read-only")
@fault("no network, real data", "`doctor` with MNIST absent and no network; then its files come", "no network")
def doctor_of_mnist(folder: Path, case: str) -> Outcome:
    data = folder / "data"
    data.mkdir()
    if case == "there":
        real_data(data)
    with contextlib.ExitStack() as cause:
        cause.callback(real_data, data)  # afterwards
        if case != "no network":
            cause.enter_context(not_writable(data))
        before = without_network() if case == "no network" else barred()
        return twice(Copy(folder / "copy"), cause, ("doctor",), refused=case != "there", before=before,
                     DISTILL_DATASET="mnist", DISTILL_DATA=str(data))  # fmt: skip


def without_network() -> tuple:
    """What to put before a command so that it has no network but its own machine's, which kernels need."""
    own = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--net")
    script = (
        "import fcntl, os, socket, struct, sys; s = socket.socket(); "
        "fcntl.ioctl(s, 0x8914, struct.pack('16sH14s', b'lo', 1, b'')); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    command = (*own, sys.executable, "-c", script)
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        raise NotPossible("a network can only be taken away with unshare, which this machine refuses")
    return command


# Full disks


@contextlib.contextmanager
def disk(path: Path, options: str):
    """A disk in memory at path, seen by this program and its children alone; in the end with room and writable."""
    path.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "tmpfs", path, "-o"]
    if "FAULTS_OWN_VIEW" not in os.environ or subprocess.run([*mount, options], capture_output=True).returncode:
        raise NotPossible("a disk cannot be mounted here")
    yield
    subprocess.run([*mount, "remount,rw,size=300m"], check=True)


@fault("runs on a read-only disk", "DISTILL_RUNS on a disk mounted read-only: `run 00`; then writable", "runs", "ro")
@fault("disk full, runs", "DISTILL_RUNS on a disk of 16 MB: `run 00`; then of 300 MB", "runs", "size=16m")
@fault("disk full, build", "DISTILL_BUILD on a disk of 64 kB: `run 00`; then of 300 MB", "build", "size=64k")
def disk_full(folder: Path, which: str, options: str) -> Outcome:
    copy = Copy(folder / "copy") if which == "runs" else warm(folder)
    return twice(copy, disk(copy.root / which, options), ("run", "00"))


@fault("disk full, study", "the journal of a study on a disk that fills up; then there is room, and it runs again")
def disk_full_study(folder: Path) -> Outcome:
    copy = Copy(folder / "copy")
    shutil.rmtree(copy.results)
    outcome = twice(copy, disk(copy.results, "size=8k"), (*STUDY, "30", "--workers", "1"))
    # Done again is what the full disk refused, and nothing that it had taken.
    taken = copy.journalled()[: copy.journal.read_bytes()[: 8 * 1024].count(b"\n")]
    again = {run for run, times in Counter(copy.begun()).items() if times > 1}
    return outcome._replace(nothing_lost=bool(again) and not again & set(taken) and len(copy.journalled()) == 120)


# Damaged files


def flip(whole: bytes, place: int, bit: int) -> bytes:
    return whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]


HARMS = {
    "a bit changed": lambda whole: flip(whole, len(whole) // 2, 4),
    "cut short": lambda whole: whole[: 2 * len(whole) // 3],
    "empty": lambda whole: b"",
}


@contextlib.contextmanager
def damaged(path: Path, content: bytes, *, cure: bytes | None = None):
    """A file with another content; afterwards it is deleted, or gets the content of the cure."""
    path.write_bytes(content)
    yield
    path.unlink() if cure is None else path.write_bytes(cure)


def each_harm(kind: str, done: str):
    """Enter the function below as one fault per harm."""

    def enter(function):
        for name, harm in HARMS.items():
            fault(f"{kind}, {name}", done, harm)(function)
        return function

    return enter


@each_harm("artifact damaged", "the kept images of a split, then `doctor`; deleted, and again")
def artifact(folder: Path, harm: Callable) -> Outcome:
    copy = warm(folder)
    path = min(copy.runs.glob("glyphs-*.safetensors"))
    return twice(copy, damaged(path, harm(path.read_bytes())), ("doctor",), names=path)


@each_harm("teacher's cache damaged", "the teacher's recorded logits, then `train student`; deleted, and again")
def cache(folder: Path, harm: Callable) -> Outcome:
    copy = warm(folder, "digits")
    command = ("train", "student", "--dataset", "digits", "--steps", "3", "--out", str(folder / "out"))
    (path,) = (each for each in copy.runs.glob("logits-*") if "view" not in _store.load(each)[1]["key"])
    return twice(copy, damaged(path, harm(path.read_bytes())), command, names=path)


@each_harm("results file damaged", "the results of a study, then the study; taken from git, and again")
def results_file(folder: Path, harm: Callable) -> Outcome:
    copy = Copy(folder / "copy")
    assert copy.python(*STUDY, "2").well
    path = copy.results / "tiny-glyphs.json"
    whole = path.read_bytes()
    return twice(copy, damaged(path, harm(whole), cure=whole), (*STUDY, "2"), names=path)


@each_harm("dataset file damaged", f"MNIST's {IMAGES}, then `doctor`; the whole file again, and again")
def dataset_file(folder: Path, harm: Callable) -> Outcome:
    path = real_data(folder / "data") / IMAGES
    whole = path.read_bytes()
    return twice(Copy(folder / "copy"), damaged(path, harm(whole), cure=whole), ("doctor",), names=path,
                 DISTILL_DATASET="mnist", DISTILL_DATA=str(folder / "data"))  # fmt: skip


@fault("results file damaged, bit by bit", "one random bit at a time, 200 times, read as a notebook does")
def results_bytes(folder: Path) -> Outcome:
    chance, path, refused, broken, wrong = random.Random(7), folder / "dropout.json", 0, set(), 0
    whole = (ROOT / "results" / "dropout-glyphs.json").read_bytes()
    right = json.loads(whole)
    for _ in range(200):
        path.write_bytes(flip(whole, chance.randrange(len(whole)), chance.randrange(8)))
        try:
            found = studies.read(path)
            wrong += any(found[part] != right[part] for part in ("settings", "summary", "verdicts"))
        except _store.DamagedFile:
            refused += 1
        except Exception as error:
            broken.add(f"; TRACEBACK {type(error).__name__}")
    message = f"{refused} of 200 refused; settings, summary or verdicts differ in {wrong} of the others"
    return Outcome(message + "".join(broken), not broken, not wrong, None)


@fault("study journal damaged, a digit changed", "in a finished run, then the study; its line taken out, again", 0)
@fault("study journal damaged, a brace changed", "in a finished run, then the study; its line taken out, again", 1)
@fault("study journal damaged, cut short", "it ends in the middle of its last run; the study is run again", 2)
@fault("study journal damaged, empty", "nothing is left of the journal; the study is run again", 3)
def journal_damaged(folder: Path, case: int) -> Outcome:
    copy, command = Copy(folder / "copy"), (*STUDY, "2", "--workers", "1")
    assert copy.python(*command).well
    path, results = copy.journal, copy.results / "tiny-glyphs.json"
    right = _store.read_json(results)["runs"]
    results.unlink()
    copy.log.unlink()
    *start, last = path.read_bytes().splitlines(keepends=True)
    start, digit = b"".join(start), re.sub(rb'("score": ?0\.)\d', rb"\g<1>7", last)
    content = [start + digit, start + last.replace(b"}", b"]", 1), start + last[:40], b""][case]
    cause = damaged(path, content, cure=start) if case < 2 else contextlib.nullcontext(path.write_bytes(content))
    outcome = twice(copy, cause, command, refused=case < 2, names=path if case < 2 else None)
    same = [run["metrics"] for run in _store.read_json(results)["runs"]] == [run["metrics"] for run in right]
    return outcome._replace(nothing_lost=same and len(copy.begun()) == (8 if case == 3 else 1))


@fault("checks damaged", "the file of checks with a changed byte, then `checks`; deleted, again", "checks")
@fault("timings damaged", "timings.json cut short, then `run`; deleted, and again", "run")
def record_damaged(folder: Path, command: str) -> Outcome:
    copy = warm(folder)
    assert copy.python("run", "00").well
    path = next(copy.build.rglob("*.jsonl")) if command == "checks" else copy.build / "timings.json"
    whole = path.read_bytes()
    content = whole.replace(b"}", b"]", 1) if command == "checks" else whole[: len(whole) // 2]
    return twice(copy, damaged(path, content), (command,), names=path)


# Clocks, homes, paths


def all_well(copy: Copy, *done: Done, lost: bool = False) -> Outcome:
    """The outcome of commands that all had to succeed; lost: whether something was."""
    message = " AND ".join(each.message for each in done if not each.well) or "nothing"
    return Outcome(message, all(each.well for each in done), not lost, not half_written(copy))


@fault("clock moved back", "all files of the copy and its runs dated a year ahead: `make run` and a study go on")
def clock(folder: Path) -> Outcome:
    copy, ahead = warm(folder), time.time() + YEAR
    done = [copy.call("make", "run"), copy.python(*STUDY, "1")]
    before = finished(copy)
    for path in [*copy.root.rglob("*"), *copy.runs.rglob("*")]:
        os.utime(path, (ahead, ahead), follow_symlinks=False)
    done += [copy.call("make", "run"), copy.python(*STUDY, "1")]
    made_again = any(path.stat().st_mtime != ahead for path in copy.runs.glob("*.safetensors"))
    lost = before != finished(copy) or made_again or len(copy.begun()) != 4
    return all_well(copy, *done, lost=lost or "Setting up" in done[2].printed)


@fault("clock moved back before the set-up", "requirements.txt dated a year ahead: make sets up once, and not again")
def clock_of_make(folder: Path) -> Outcome:
    copy, python = Copy(folder / "copy"), folder / "python"  # sets up in no time: its .venv's programs do nothing
    shutil.rmtree(copy.root / ".venv")
    os.utime(copy.root / "requirements.txt", (time.time() + YEAR,) * 2)
    make_it = 'mkdir -p .venv/bin; printf "#!/bin/sh\\n" > .venv/bin/python; chmod +x .venv/bin/python'
    python.write_text(f'#!/bin/sh\ncase "$*" in *--clear*) {make_it};; esac\n')
    python.chmod(0o755)
    calls = [copy.call("make", "run", f"PYTHON={python}") for _ in range(2)]
    set_up = ["Setting up" in each.printed for each in calls]
    return Outcome("set up again" if set_up[1] else "nothing", set_up == [True, False] and calls[1].well, None, None)


@fault("no HOME", "`make run` without the variable HOME", None)
@fault("HOME cannot be written to", "`make run` with HOME in a folder without write permission", "home")
def no_home(folder: Path, home: str | None) -> Outcome:
    copy = warm(folder)
    before, names = finished(copy), ("CONFIG_HOME", "CACHE_HOME", "DATA_HOME", "RUNTIME_DIR")
    without = dict.fromkeys([*(f"XDG_{name}" for name in names), "MPLCONFIGDIR"])
    with not_writable(folder / "home"):
        place = str(folder / home / "nobody") if home else None
        done = copy.call(*(barred() if home else ()), "make", "run", HOME=place, **without)
    return all_well(copy, done, lost=not kept(before, copy))


@fault("a path with spaces and other letters", "copy and DISTILL_RUNS in “Übung 蒸馏 (2) & co”: `make run`, "
       "`doctor`, a study, one notebook under nbval")  # fmt: skip
def odd_path(folder: Path) -> Outcome:
    copy = warm(folder / "Übung 蒸馏 (2) & co" / "the series’ copy")
    before, pytest = finished(copy), (sys.executable, "-m", "pytest", "-n", "0", "-q", "notebooks")
    done = [copy.call("make", "run"), copy.python("doctor"), copy.python(*STUDY, "1"), copy.call(*pytest)]
    return all_well(copy, *done, lost=not kept(before, copy))


@fault("no network", "`make run` where there is no network but the machine's own (unshare --net)")
def no_network(folder: Path) -> Outcome:
    copy = Copy(folder / "copy")
    return all_well(copy, copy.call(*without_network(), "make", "run"))


# All of them


def main(words: list[str]) -> int:
    global SCRATCH
    chosen = [each for each in FAULTS if not words or any(word in each.fault for word in words)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(settings.cores()) as pool:
        SCRATCH, rows = Path(folder), []
        with training.progress_bar(len(chosen), "faults", unit="fault") as bar:
            for row in pool.map(attempt, chosen):
                rows.append(row)
                bar.write(", ".join(f"{name}: {value}" for name, value in row.items()))
                bar.update()
    failed = [row["fault"] for row in rows if any(value is False for value in row.values())]
    print(f"{len(rows) - len(failed)} of {len(rows)} faults did no harm", *failed, sep="\n  ")
    if not words:
        reliability.record("faults", rows)
    return int(bool(failed))


def attempt(each: Fault) -> dict:
    """Its row of the table."""
    place = Path(tempfile.mkdtemp(dir=SCRATCH))
    try:
        outcome = each.do(place)
    except NotPossible as error:
        outcome = Outcome(f"not tried: {error}", None, None, None)
    for mounted in [part.mountpoint for part in psutil.disk_partitions(all=True) if str(place) in part.mountpoint]:
        subprocess.run(["umount", "--lazy", mounted], check=True)
    shutil.rmtree(place)
    answers = {name.replace("_", " "): "–" if value is None else value for name, value in outcome._asdict().items()}
    return {"fault": each.fault, "what was done": each.done, **answers}


if __name__ == "__main__":
    own_view = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    allowed = shutil.which("unshare") and subprocess.run([*own_view, "true"], capture_output=True).returncode == 0
    if "FAULTS_OWN_VIEW" not in os.environ and allowed:
        os.environ["FAULTS_OWN_VIEW"] = "1"
        os.execvp(own_view[0], [*own_view, sys.executable, *sys.argv])
    sys.exit(main(sys.argv[1:]))
