"""python -m distill_utils study NAME [--verify K]: run what is missing of a study, or do some of its runs again."""

import math
import random
import statistics
from collections import defaultdict
from dataclasses import dataclass

from distill_utils import data, parallel, studies

TOLERANCE = 5.0  # standard deviations over seeds, see verify


def run(name: str, dataset: str | None, seeds: int | None, *, workers: int | None = None, replace: bool = False,
        verify_count: int | None = None) -> bool:
    """Complete a study on a dataset (default: those with results, or the first that it is made for), print verdicts.

    verify_count: instead, do as many of its runs again (0: all) and compare them. Returns whether they agree.
    """
    ok = True
    known = studies.find(name).datasets
    committed = [each for each in known if studies.results_path(name, each).exists()]
    for chosen in [dataset] if dataset else committed or known[:1]:
        if verify_count is None:
            path = studies.conduct(name, chosen, seeds, workers=workers, replace=replace)
            found = studies.read(path)
            seeds_, runs = found["settings"]["seeds"], len(found["runs"])
            print(f"study {name} on {chosen}: complete, {seeds_} seeds, {runs} runs")
            for row in found["verdicts"]:
                print(f"  {row['claim']}: {row['label']} {studies.difference(row)}: {row['verdict']}")
            print(f"(in {path})\n")
            continue
        try:
            rows = verify(name, chosen, verify_count or None, workers=workers)
        except data.DataError as error:
            print(f"study {name} on {chosen}: not verified: {error}\n")
            ok = False
            continue
        print(f"study {name} on {chosen}, {len(rows)} runs done again:\n{verified_table(rows)}\n")
        ok = ok and all(row.deviation <= 1 for row in rows)
    return ok


@dataclass(frozen=True)
class Verified:
    """A run done again: how many metrics it has and how many are equal to six digits; the metric that differs most
    for its tolerance, by how many tolerances (above 1: it differs), committed and now."""

    arm: dict
    seed: int
    metrics: int
    equal: int
    worst: str
    deviation: float
    committed: float
    now: float


def verify(name: str, dataset: str, count: int | None = None, *, workers: int | None = None) -> list[Verified]:
    """Do runs of a committed study again with today's code and compare every metric with the committed one.

    count: how many runs, drawn at random from different arms while there are any (default: all). Training amplifies
    the rounding of another processor, so a metric may differ by as much as another seed would make it: by TOLERANCE
    standard deviations over seeds, of this arm or, where that is larger, of the average arm. A study's `not_compared`
    metrics are left out. Raises ValueError where there are no results, DataError where the dataset is missing.
    """
    study, committed = studies.find(name), studies.results(name, dataset)
    if dataset in data.DATASETS:
        data.load(dataset)
    by_arm = defaultdict(list)
    for row in committed["runs"]:
        by_arm[str(row["arm"])].append(row)
    arms = list(by_arm.values())
    random.shuffle(arms)
    for rows in arms:
        random.shuffle(rows)
    chosen = [rows[i] for i in range(committed["settings"]["seeds"]) for rows in arms][:count]
    calls = [(name, dataset, row["arm"], row["seed"]) for row in chosen]
    again = parallel.run_all(_run_again, calls, workers=workers, what=f"verifying {name} on {dataset}", unit="run")
    return [_compared(row, metrics, arms, study.not_compared) for row, metrics in zip(chosen, again, strict=True)]


def _run_again(name: str, dataset: str, arm: dict, seed: int) -> dict:
    return studies.find(name).run(arm, seed, dataset)


def _compared(row: dict, now: dict, arms: list[list[dict]], not_compared: tuple[str, ...]) -> Verified:
    before = {name: value for name, value in row["metrics"].items() if name not in not_compared}
    deviation = {}
    for name, value in before.items():
        measured = [[other["metrics"][name] for other in rows] for rows in arms if name in rows[0]["metrics"]]
        own = [other["metrics"][name] for rows in arms for other in rows if other["arm"] == row["arm"]]
        spread = max(statistics.stdev(own), statistics.fmean(map(statistics.stdev, measured))) if len(own) > 1 else 0
        allowed = max(TOLERANCE * spread, 1e-6 * abs(value), 1e-9)
        deviation[name] = abs(now.get(name, math.inf) - value) / allowed
    worst = max(deviation, key=lambda name: deviation[name])
    equal = sum(math.isclose(now.get(name, math.inf), value, rel_tol=1e-6) for name, value in before.items())
    return Verified(row["arm"], row["seed"], len(before), equal, worst, deviation[worst], before[worst],
                    now.get(worst, math.nan))


def verified_table(rows: list[Verified]) -> str:
    """Verified runs as text, one line each."""
    lines = []
    for row in rows:
        word = "agrees" if row.deviation <= 1 else "DIFFERS"
        lines.append(
            f"  {word}: {row.arm}, seed {row.seed}: {row.equal} of {row.metrics} metrics equal to six digits; "
            f"largest difference in {row.worst}, {row.committed:.4g} then, {row.now:.4g} now "
            f"({row.deviation:.2f} of the tolerance)"
        )
    return "\n".join(lines)
