"""Studies: claims that need many seeds, run once, kept whole in results/NAME-DATASET.json.

A study is a list of arms, each run under every seed; data, teacher and student share the seed, so arms are paired.
Each finished run is a line of JSON in a journal beside the results: a killed study continues where it was, several
processes or machines that see the folder share one journal, and no run is done twice. A study is a module of this
package with a Study named STUDY.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from distill_utils import _store, parallel, settings, stats

CURE = "take it from git again, or delete it and run what wrote it"  # for a damaged results file


@dataclass(frozen=True)
class Claim:
    """A comparison declared before the study is run: is `treated` better than `control` in `metric`?

    treated, control: functions from the list of runs to one value of the metric per seed, in the order of seeds (see
    select); smallest: the smallest difference that would matter; label: the metric in words; unit: of the difference;
    "points" are hundredths; primary: whether the study was made for this claim, or it is exploratory; gate: from the
    runs to the reason why the metric cannot be trusted, or "": a claim whose gate fails gets no verdict.
    """

    name: str
    metric: str
    treated: Callable
    control: Callable
    smallest: float
    higher_is_better: bool = True
    gate: Callable = lambda runs: ""
    label: str = "test accuracy"
    unit: str = "points"
    primary: bool = True


@dataclass(frozen=True)
class Study:
    """What a study runs and what it asks.

    arms(dataset): a list of JSON-able dicts whose keys are among `keys`, those that others build upon (teachers)
    first; run(arm, seed, dataset): the metrics of one run; claims(dataset): what is to be judged; not_compared:
    metrics of time, or of a single tuning run, which another machine need not repeat; version: raise it when old
    runs no longer answer what the study asks.
    """

    name: str
    arms: Callable[[str], list[dict]]
    run: Callable[[dict, int, str], dict]
    claims: Callable[[str], list[Claim]]
    datasets: tuple[str, ...]
    keys: tuple[str, ...]
    not_compared: tuple[str, ...] = ()
    version: int = 1


def names() -> list[str]:
    """The known studies: the modules of this package that define STUDY."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [path.stem for path in files if "\nSTUDY = " in path.read_text(encoding="utf-8")]


def find(name: str) -> Study:
    """A study by name. Raises ValueError, listing the known ones, for another name."""
    if name not in names():
        raise ValueError(f"unknown study {name!r}: one of {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}").STUDY


def arms_of(study: Study, dataset: str) -> list[dict]:
    """The arms of a study. Raises ValueError for a dataset it is not made for, or an arm with an unknown key."""
    if dataset not in study.datasets:
        raise ValueError(f"the study {study.name} is made for {', '.join(study.datasets)}, not for {dataset!r}")
    arms = study.arms(dataset)
    for arm in arms:
        if unknown := arm.keys() - set(study.keys):
            raise ValueError(f"arm {arm} has an unknown key {min(unknown)!r}: one of {', '.join(study.keys)}")
    return arms


def conduct(name: str, dataset: str, seeds: int | None = None, *, workers: int | None = None,
            replace: bool = False) -> Path:
    """Run what is missing of a study and write its results file; where nothing is missing, judge its claims again.

    seeds: how many (default: as many as were run, or 5); workers: processes of one thread each (default: one per
    core); replace: forget the results and the journal first, so a killed run continues without replace. Returns the
    path of the file. Raises ValueError for an unknown study, a dataset it is not made for, or results of another
    version or of more seeds while replace is False.
    """
    study, path = find(name), results_path(name, dataset)
    arms = arms_of(study, dataset)
    if replace:
        path.unlink(missing_ok=True)
        _journal(study, dataset).unlink(missing_ok=True)
    before = read(path) if path.exists() else None
    count = before["settings"]["seeds"] if before else 5
    seeds = count if seeds is None else seeds
    if before and before["settings"].get("version", 1) != study.version:
        raise ValueError(f"{path} was made by another version of this study: move it away, or pass --replace")
    if before and seeds < count:
        raise ValueError(f"{path} holds {count} seeds: ask for as many, or pass --replace")
    known = {(_text(run["arm"]), run["seed"]): run for run in before["runs"]} if before else {}
    cells = [(arm, seed) for seed in range(seeds) for arm in arms]
    cells.sort(key=lambda cell: "teacher" not in cell[0].values())  # what others build upon first, then seed by seed
    for wait in (False, True):  # first what nobody else is running, so that processes share the work; then the rest
        done = known | finished(study, dataset)
        calls = [(name, dataset, arm, seed, wait) for arm, seed in cells if (_text(arm), seed) not in done]
        parallel.run_all(_run_cell, calls, workers=workers, what=f"study {name} on {dataset}", unit="run",
                         done=len(cells) - len(calls))
    done = known | finished(study, dataset)
    runs = [done[_text(arm), seed] for arm in arms for seed in range(seeds)]
    provenance = {"code": _store.code_digest(), "versions": _versions()}
    if before and runs == before["runs"]:
        provenance = {"code": before["settings"]["code"], "versions": before["versions"]}
    found = {
        "study": name, "dataset": dataset,
        "settings": {"seeds": seeds, "arms": arms, "version": study.version, "code": provenance["code"]},
        "versions": provenance["versions"], "seconds": round(sum(run["seconds"] for run in runs), 1), "runs": runs,
        "summary": _summary(arms, runs), "verdicts": verdicts(study.claims(dataset), runs),
    }
    if found != before:
        _store.write_json(path, {**found, "check": _store.digest(found)})
    return path


def results_path(name: str, dataset: str) -> Path:
    return settings.results_folder() / f"{name}-{dataset}.json"


def results(name: str, dataset: str) -> dict:
    """A committed results file. Raises ValueError where there is none, saying how to make it."""
    path = results_path(name, dataset)
    if not path.exists():
        raise ValueError(f"no results of {name} on {dataset}: "
                         f"python -m distill_utils study {name} --dataset {dataset}")
    return read(path)


def read(path: Path) -> dict:
    """A results file. Raises DamagedFile unless it is as it was written."""
    found = _store.read_json(path, cure=CURE)
    if not isinstance(found, dict) or found.pop("check", None) != _store.digest(found):
        raise _store.DamagedFile(f"{path} is damaged (its check differs): {CURE}")
    return found


def select(runs: list[dict], metric: str, **arm) -> list[float]:
    """The metric of the runs of a results file whose arm has these settings, in the order of their seeds.

    A setting None must be absent from the arm. Raises ValueError for a setting that no arm has.
    """
    known = {name for run in runs for name in run["arm"]}
    if unknown := {name for name, value in arm.items() if value is not None} - known:
        raise ValueError(f"no arm has the key {min(unknown)!r}: one of {', '.join(sorted(known))}")
    chosen = [run for run in runs if all(run["arm"].get(name) == value for name, value in arm.items())]
    return [run["metrics"][metric] for run in sorted(chosen, key=lambda run: run["seed"])]


def verdicts(claims: list[Claim], runs: list[dict]) -> list[dict]:
    """The verdict on each claim from the runs of a results file, corrected for their number (Holm); one row per
    claim. Where it is inconclusive, seeds_needed says how many would show the smallest difference that matters."""
    pairs = [(claim.treated(runs), claim.control(runs)) for claim in claims]
    corrected = stats.holm([stats.p_value(*pair) for pair in pairs]) if pairs else []
    rows = []
    for claim, (treated, control), p in zip(claims, pairs, corrected, strict=True):
        mean, low, high, n = stats.paired_interval(treated, control)
        word = stats.verdict(treated, control, claim.smallest, p=p, higher_is_better=claim.higher_is_better)
        failed = claim.gate(runs)
        open_ = word == "inconclusive" and n > 1
        rows.append({
            "claim": claim.name, "metric": claim.metric, "label": claim.label, "unit": claim.unit,
            "primary": claim.primary, "difference": mean,
            "low": None if n == 1 else low, "high": None if n == 1 else high, "n": n, "smallest": claim.smallest,
            "p_holm": p, "verdict": f"not assessed: {failed}" if failed else word,
            "seeds_needed": stats.seeds_to_decide(treated, control, claim.smallest, level=0.05 / len(claims))
            if open_ else None,
        })
    return rows


def difference(row: dict) -> str:
    """A verdict row's difference with its interval and unit; a negative number is less, whether or not that is
    better."""
    if row["low"] == row["high"] == 0:
        return "none: the same runs"
    scale, form = (100, "+.1f") if row["unit"] == "points" else (1, "+.1f" if row["unit"] == "errors" else "+.3g")
    unit = f" {row['unit']}".rstrip()
    if row["low"] is None:
        return f"{scale * row['difference']:{form}}{unit} (one seed)"
    mean, low, high = (f"{scale * row[name]:{form}}" for name in ("difference", "low", "high"))
    return f"{mean}{unit} [{low}, {high}]"


# Runs and their journal


def finished(study: Study, dataset: str) -> dict:
    """The finished runs in a study's journal: (arm as JSON text, seed) → the run. Raises DamagedFile at the first
    line that is not as it was written."""
    path = _journal(study, dataset)
    runs: dict = {}
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # what follows the last newline was cut off
    for number, line in enumerate(lines, 1):
        try:
            run = json.loads(line)
            check = run.pop("check")
            if check != _store.digest(run):
                raise ValueError("its numbers were changed")
            runs[_text(run["arm"]), run["seed"]] = run
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise _store.DamagedFile(
                f"line {number} of {path} is damaged ({error}): delete that line and run again, only its run is lost"
            ) from error
    return runs


def _journal(study: Study, dataset: str) -> Path:
    return settings.results_folder() / f"{study.name}-{dataset}-v{study.version}.jsonl"


def _append(path: Path, run: dict) -> None:
    line = json.dumps(run | {"check": _store.digest(run)}).encode() + b"\n"
    lock = _store.locked(path.with_name(f".{path.name}.lock"))
    with lock, _store.friendly_os_errors(path), open(path, "ab+") as file:
        file.seek(0)
        written = file.read()
        file.truncate(written.rfind(b"\n") + 1)  # the start of a line that a full disk or a kill left over
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _run_cell(name: str, dataset: str, arm: dict, seed: int, wait: bool) -> None:
    """One run, unless it is finished by now; wait: for another process that is running it, instead of skipping it."""
    study = find(name)
    cell = _store.digest({"study": name, "dataset": dataset, "arm": arm, "seed": seed})
    try:
        with _store.locked(settings.runs_folder() / f".study-{cell}.lock", timeout=-1 if wait else 0):
            if (_text(arm), seed) in finished(study, dataset):  # by another process or machine meanwhile
                return
            start = time.perf_counter()
            metrics = study.run(arm, seed, dataset)
            seconds = round(time.perf_counter() - start, 1)
            _append(_journal(study, dataset), {"arm": arm, "seed": seed, "metrics": metrics, "seconds": seconds})
    except Timeout:
        return


def _summary(arms: list[dict], runs: list[dict]) -> list[dict]:
    summary = []
    for arm in arms:
        own = [run["metrics"] for run in runs if run["arm"] == arm]
        for metric in own[0]:
            interval = stats.t_interval([metrics[metric] for metrics in own])
            low, high = (None if interval.n == 1 else value for value in interval[1:3])  # JSON knows no infinity
            summary.append({"arm": arm, "metric": metric, "mean": interval.mean, "low": low, "high": high,
                            "n": interval.n})
    return summary


def _versions() -> dict:
    packages = ("torch", "torchvision", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def _text(arm: dict) -> str:
    return json.dumps(arm, sort_keys=True)
