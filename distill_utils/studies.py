"""Studies: claims that need many seeds, run once, kept whole in results/NAME-DATASET.json.

A study is a list of arms, each run under every seed; data, teacher and student share the seed, so arms are paired.
Finished runs are kept in an Optuna journal beside the results: a killed study goes on where it was, also from a
journal that was committed half done; several processes or machines that see the folder share one, and no run is done
twice. (Optuna's own GridSampler is not used to hand out
the runs: it counts a failed run as visited and hands a running one out again.) Files are written in a fixed order.
"""

import importlib
import importlib.metadata
import json
import math
import os
import pkgutil
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from optuna.storages.journal import JournalFileBackend, JournalStorage

from distill_utils import parallel, settings, stats, store

_PARTS = {"study", "dataset", "settings", "versions", "seconds", "runs", "summary", "verdicts"}
MEND = "take it from git again, or delete it and run what wrote it"  # a results file


@dataclass(frozen=True)
class Claim:
    """A comparison declared before the study is run: is `treated` better than `control` in `metric`?

    treated, control: functions from the list of runs to one value of the metric per seed, in the order of seeds (see
    select); smallest: the smallest difference that would matter; gate: from the runs to the reason why the metric may
    not be trusted, or "": a claim whose gate fails gets no verdict.
    """

    name: str
    metric: str
    treated: Callable
    control: Callable
    smallest: float
    higher_is_better: bool = True
    gate: Callable = lambda runs: ""


@dataclass(frozen=True)
class Study:
    """What a study runs and what it asks.

    arms(dataset): a list of JSON-able dicts, those that others build upon (teachers) first; run(arm, seed, dataset):
    the metrics of one run; claims(dataset): what is to be judged; code: the modules whose change makes old runs
    another study's; datasets: those that it is meant for.
    """

    name: str
    arms: Callable[[str], list[dict]]
    run: Callable[[dict, int, str], dict]
    claims: Callable[[str], list[Claim]]
    code: tuple[str, ...]
    datasets: tuple[str, ...]


def names() -> list[str]:
    """The known studies: each is STUDY in a module of its own, distill_utils.study_NAME."""
    modules = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return [name.removeprefix("study_") for name in modules if name.startswith("study_")]


def conduct(name: str, dataset: str, seeds: int, *, workers: int | None = None, replace: bool = False) -> Path:
    """Run what is missing of a study and write its results file.

    workers: processes of one thread each (default: one per core). Returns the path of the file. Raises ValueError
    for an unknown study, a dataset it is not meant for, fewer than one seed, or when the results file holds a study
    with other settings and replace is False.
    """
    study = find(name)
    if dataset not in study.datasets:
        raise ValueError(f"the study {name} is made for {', '.join(study.datasets)}, not for {dataset!r}")
    if seeds < 1:
        raise ValueError(f"a study needs at least one seed, found {seeds}")
    path = settings.results_folder() / f"{name}-{dataset}.json"
    settings_now = {"seeds": seeds, "arms": study.arms(dataset), "code": store.code_version(*study.code)}
    _refuse_others(path, settings_now, replace)
    cells = _cells(study, dataset, seeds)
    what = f"study {name} on {dataset}"
    for wait in (False, True):  # first what nobody else is at, so that processes share the work, then what is left
        done = finished(study, dataset)
        calls = [(name, dataset, arm, seed, wait) for arm, seed in cells if (_text(arm), seed) not in done]
        parallel.run_all(_run_cell, calls, workers=workers, what=what, unit="run", done=len(cells) - len(calls))
    store.write_json(path, _results(study, dataset, settings_now, finished(study, dataset)))
    return path


def finished(study: Study, dataset: str) -> dict:
    """The finished runs of a study: (arm as JSON text, seed) → {"metrics": …, "seconds": s}."""
    runs: dict = {}
    for trial in _journal(study, dataset).get_trials(deepcopy=False):
        run = _sound(dict(trial.user_attrs))
        runs.setdefault((run.pop("arm"), run.pop("seed")), run)
    return runs


def results(name: str, dataset: str) -> dict:
    """A committed results file. Raises ValueError where there is none, saying how to make it."""
    path = settings.results_folder() / f"{name}-{dataset}.json"
    if not path.exists():
        raise ValueError(
            f"no results of {name} on {dataset}: python -m distill_utils study {name} --dataset {dataset}"
        )
    return read(path)


def read(path: Path) -> dict:
    """A results file. Raises DamagedFile unless it has the parts of one and its runs give the summary it states."""
    found = store.read_json(path, mend=MEND)
    try:
        arms, runs = found["settings"]["arms"], found["runs"]
        again = _summary(arms, runs)
        whole = (
            found.keys() == _PARTS
            and [(run["arm"], run["seed"]) for run in runs] == _pairs(arms, found["settings"]["seeds"])
            and len(again) == len(found["summary"])
            and all(map(_alike, again, found["summary"]))
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise store.DamagedFile(f"{path} is damaged ({error!r}): {MEND}") from error
    if not whole:
        raise store.DamagedFile(f"{path} is damaged (its runs give another summary): {MEND}")
    return found


def _alike(row: dict, other: dict) -> bool:
    """Equal, up to what another machine's or another scipy's sums may differ in: a part in 10⁹ of the largest number,
    since the end of an interval is a difference, and may be next to nothing."""
    size = max((abs(value) for value in row.values() if isinstance(value, float)), default=0.0)
    return row.keys() == other.keys() and all(
        value == other[name] or (isinstance(value, float) and math.isclose(value, other[name], abs_tol=1e-9 * size))
        for name, value in row.items()
    )


def select(runs: list[dict], metric: str, **arm) -> list[float]:
    """The metric of the runs of a results file whose arm has these settings, in the order of their seeds."""
    chosen = [run for run in runs if all(run["arm"].get(name) == value for name, value in arm.items())]
    return [run["metrics"][metric] for run in sorted(chosen, key=lambda run: run["seed"])]


def verdicts(claims: list[Claim], runs: list[dict]) -> list[dict]:
    """What the runs of a results file say of each claim, corrected for their number (Holm); one row per claim."""
    pairs = [(claim.treated(runs), claim.control(runs)) for claim in claims]
    corrected = stats.holm([stats.p_value(*pair) for pair in pairs]) if pairs else []
    rows = []
    for claim, (treated, control), p in zip(claims, pairs, corrected, strict=True):
        mean, low, high, n = stats.paired_interval(treated, control)
        word = stats.verdict(treated, control, claim.smallest, p=p, higher_is_better=claim.higher_is_better)
        failed = claim.gate(runs)
        word = f"no verdict: {failed}" if failed else word
        rows.append({
            "claim": claim.name, "metric": claim.metric, "difference": mean,
            "low": None if n == 1 else low, "high": None if n == 1 else high, "n": n,
            "smallest": claim.smallest, "p_holm": p, "verdict": word,
        })  # fmt: skip
    return rows


def find(name: str) -> Study:
    """A study by name. Raises ValueError, listing the known ones, for another name."""
    if name not in names():
        raise ValueError(f"unknown study {name!r}: one of {', '.join(names())}")
    return importlib.import_module(f"distill_utils.study_{name}").STUDY


def _refuse_others(path: Path, settings_now: dict, replace: bool) -> None:
    if replace or not path.exists():
        return
    before = read(path)["settings"]
    changed = [name for name in settings_now if before.get(name) != settings_now[name]]
    if changed:
        raise ValueError(
            f"{path} holds this study with other settings ({', '.join(changed)}): move it away, or pass --replace"
        )


def _cells(study: Study, dataset: str, seeds: int) -> list[tuple[dict, int]]:
    """Every arm under every seed: what others build upon first, then seed by seed, so that early seeds are whole."""
    cells = [(arm, seed) for seed in range(seeds) for arm in study.arms(dataset)]
    return sorted(cells, key=lambda cell: "teacher" not in cell[0].values())


def _run_cell(name: str, dataset: str, arm: dict, seed: int, wait: bool) -> None:
    """One run, unless it is there by now; wait: for another process that is at it, instead of leaving it alone."""
    study = find(name)
    cell = store.digest({"study": name, "dataset": dataset, "arm": arm, "seed": seed})
    try:
        with store.locked(settings.runs_folder() / f".study-{cell}.lock", timeout=-1 if wait else 0):
            if (_text(arm), seed) in finished(study, dataset):  # by another process or machine meanwhile
                return
            start = time.perf_counter()
            metrics = study.run(arm, seed, dataset)
            seconds = round(time.perf_counter() - start, 1)
            run = {"arm": _text(arm), "seed": seed, "metrics": metrics, "seconds": seconds}
            journal = _journal(study, dataset)
            with store.plainly(_path(study, dataset)):
                journal.add_trial(optuna.trial.create_trial(value=0.0, user_attrs=run | {"check": store.digest(run)}))
    except Timeout:
        return


def _sound(run: dict) -> dict:
    """A run of the journal without its check. Raises ValueError where it is not what was written; the first studies
    wrote no check."""
    check = run.pop("check", None)
    if run.keys() != {"arm", "seed", "metrics", "seconds"} or check not in (None, store.digest(run)):
        raise ValueError("the numbers of a run were changed")
    return run


def _path(study: Study, dataset: str) -> Path:
    return settings.results_folder() / f"study-{study.name}-{dataset}-{store.code_version(*study.code)}.journal"


def _journal(study: Study, dataset: str) -> optuna.Study:
    """The journal of a study. Raises DamagedFile where it is none, with the line to take out."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = _path(study, dataset)
    with warnings.catch_warnings(), store.plainly(path):
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        path.parent.mkdir(parents=True, exist_ok=True)
        _examine(path)
        try:
            storage = JournalStorage(JournalFileBackend(str(path), _JournalLock(path)))
            return optuna.create_study(study_name=path.stem, storage=storage, load_if_exists=True)
        except (OSError, Timeout):
            raise
        except Exception as error:  # whatever Optuna meets in lines of another form
            raise store.DamagedFile(f"{path} is damaged ({error!r}): delete it and run again") from error


def _examine(path: Path) -> None:
    """Raise DamagedFile at the first whole line that is not as it was written."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            if run := json.loads(line).get("user_attrs"):
                _sound(run)
        except (ValueError, TypeError, AttributeError) as error:
            raise store.DamagedFile(
                f"line {number} of {path} is damaged ({error}): delete that line and run again, only its run is lost"
            ) from error


class _JournalLock:
    """Optuna's own lock is a file that a killed process leaves behind, half a minute of waiting for everybody; this
    one ends with its process. Who holds it cuts off the beginning of a line that a full disk or a kill left over."""

    def __init__(self, path: Path):
        self.path, self.lock = path, FileLock(path.with_name(f".{path.name}.lock"))

    def acquire(self) -> bool:
        self.lock.acquire()
        written = self.path.read_bytes()
        if not written.endswith(b"\n"):
            os.truncate(self.path, written.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self.lock.release()


def _results(study: Study, dataset: str, settings_now: dict, done: dict) -> dict:
    pairs = _pairs(settings_now["arms"], settings_now["seeds"])
    runs = [{"arm": arm, "seed": seed, **done[_text(arm), seed]} for arm, seed in pairs]
    return {
        "study": study.name, "dataset": dataset, "settings": settings_now, "versions": _versions(),
        "seconds": round(sum(run["seconds"] for run in runs), 1), "runs": runs,
        "summary": _summary(settings_now["arms"], runs), "verdicts": verdicts(study.claims(dataset), runs),
    }  # fmt: skip


def _pairs(arms: list[dict], seeds: int) -> list[tuple[dict, int]]:
    return [(arm, seed) for arm in arms for seed in range(seeds)]


def _summary(arms: list[dict], runs: list[dict]) -> list[dict]:
    summary = []
    for arm in arms:
        mine = [run["metrics"] for run in runs if run["arm"] == arm]
        for metric in mine[0]:
            interval = stats.t_interval([metrics[metric] for metrics in mine])
            low, high = (None if interval.n == 1 else value for value in interval[1:3])  # JSON knows no infinity
            summary.append({"arm": arm, "metric": metric, "mean": interval.mean, "low": low, "high": high,
                            "n": interval.n})  # fmt: skip
    return summary


def _versions() -> dict:
    packages = ("torch", "torchvision", "numpy", "scipy", "optuna")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def _text(arm: dict) -> str:
    return json.dumps(arm, sort_keys=True)
