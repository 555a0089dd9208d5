"""Checks: the claims of a notebook, each with the band that its measured value must fall into.

A check prints no number, so that a notebook's committed output is the same on every machine; the reader finds the
value in the figure or table beside it, and a line with it is added to build/checks.jsonl. Bands are wide enough for
another machine's arithmetic and narrow enough to fail if the claim did not hold.
"""

import json
import math
import os
from collections.abc import Mapping

from filelock import FileLock

from distill_utils import settings

_notebook = "notebook"
_COLUMNS = {"notebook", "name", "dataset", "value", "low", "high", "passed"}


class CheckFailed(AssertionError):
    """A measured value lies outside its band."""


def begin(notebook: str) -> None:
    """Name the notebook whose checks follow, and forget those of its earlier runs."""
    global _notebook
    _notebook = notebook
    with _locked() as path:
        _keep(path, [row for row in _rows(path) if row["notebook"] != notebook])


def check(name: str, value: float | bool, low: float | Mapping | None = None, high: float | Mapping | None = None):
    """Assert that a claim's measured value lies in [low, high], and keep the value.

    low, high: a number for every dataset, or a dict from dataset name to number: a dataset that is not in it has no
    band, which is said and neither passes nor fails; without either, value is a bool that must be true. Prints one
    line without the number. Raises CheckFailed outside the band and for a value that is not finite.
    """
    dataset = settings.dataset()
    bands = [band.get(dataset) if isinstance(band, Mapping) else band for band in (low, high)]
    unknown = any(isinstance(band, Mapping) for band in (low, high)) and bands == [None, None]
    if low is None and high is None:
        passed = str(getattr(value, "dtype", type(value).__name__)) in ("bool", "torch.bool") and bool(value)
    else:
        low_, high_ = bands
        passed = bool(math.isfinite(value) and (low_ is None or value >= low_) and (high_ is None or value <= high_))
    row = {
        "notebook": _notebook, "name": name, "dataset": dataset, "value": float(value),
        "low": bands[0], "high": bands[1], "passed": None if unknown else passed,
    }
    with _locked() as path:
        _keep(path, [*_rows(path), row])
    if unknown:
        print(f"NO BAND for {dataset}: {name}")
    elif passed:
        print(f"PASS {name}")
    else:
        expected = f"between {bands[0]} and {bands[1]}" if None not in bands else f"at least {bands[0]}"
        expected = f"at most {bands[1]}" if bands[0] is None and bands[1] is not None else expected
        expected = "true" if bands == [None, None] else expected
        raise CheckFailed(f"{name}: measured {value}, expected {expected}")


def table() -> str:
    """The kept checks as text, one line each with the measured value and its band."""
    with _locked() as path:
        rows = _rows(path)
    words = {True: "PASS", False: "FAIL", None: "none"}
    lines = [f"{'':4}  {'notebook':24} {'value':>10}  {'band':>18}  claim"]
    for row in rows:
        low, high = ("" if band is None else f"{band:g}" for band in (row["low"], row["high"]))
        band = f"{low} … {high}" if low or high else "true"
        lines.append(f"{words[row['passed']]}  {row['notebook']:24} {row['value']:10.4g}  {band:>18}  {row['name']}")
    return "\n".join(lines)


def _rows(path) -> list[dict]:
    try:
        whole = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        rows = [json.loads(line) for line in whole]
        if all(set(row) == _COLUMNS for row in rows):
            return rows
        error = "a line holds something else than a check"
    except (ValueError, TypeError) as found:
        error = str(found)
    raise ValueError(f"{path} is damaged ({error}): delete it and run again")


def _keep(path, rows: list[dict]) -> None:
    """All of them or, where the disk is full, those that were there."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class _locked:
    """The file of checks, which notebooks running at once share, for one of them at a time."""

    def __enter__(self):
        path = settings.build_folder() / "checks.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(path.with_name(f".{path.name}.lock"))
        self.lock.acquire()
        return path

    def __exit__(self, *_):
        self.lock.release()
