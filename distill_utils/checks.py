"""Checks: the claims of a notebook, each with the band that its measured value must fall into.

A check prints no number, so a notebook's committed output is the same on every machine. The value is recorded in
build/checks/NOTEBOOK.jsonl, one line per check. Choose a band wide enough for the arithmetic of another machine and
narrow enough to fail when the claim is false.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from distill_utils import settings

_WORDS = {True: "PASS", False: "FAIL", None: "none"}
_notebook = "notebook"


class CheckFailed(AssertionError):
    """A measured value lies outside its band."""


def begin(notebook: str) -> None:
    """Name the notebook whose checks follow, and remove those of its earlier runs."""
    global _notebook
    _notebook = notebook
    _file().write_text("", encoding="utf-8")


def check(name: str, value: float | bool, low: float | Mapping | None = None, high: float | Mapping | None = None):
    """Assert that a measured value lies in [low, high], and record it.

    low, high: a number for every dataset, or a dict from dataset name to number. A dataset that is missing from the
    dicts has no band: the check is recorded, and neither passes nor fails. Without low and high, value must be a bool
    that is true. Prints one line without the number. Raises CheckFailed outside the band and for NaN or inf.
    """
    dataset = settings.dataset()
    low_, high_ = (band.get(dataset) if isinstance(band, Mapping) else band for band in (low, high))
    passed: bool | None
    if low is None and high is None:
        is_bool = str(getattr(value, "dtype", type(value).__name__)) in ("bool", "torch.bool")
        passed = is_bool and bool(value)
    elif low_ is None and high_ is None:
        passed = None
    else:
        passed = bool(math.isfinite(value) and (low_ is None or value >= low_) and (high_ is None or value <= high_))
    row = {"notebook": _notebook, "name": name, "dataset": dataset, "value": float(value), "low": low_, "high": high_,
           "passed": passed}
    with _file().open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    if passed is False:
        raise CheckFailed(f"{name}: measured {value}, expected {_band(low_, high_)}")
    print(f"PASS {name}" if passed else f"NO BAND for {dataset}: {name}")


def table() -> str:
    """All recorded checks as text, one line each. Raises ValueError, naming the file, for a damaged record."""
    lines = [f"{'':4}  {'notebook':24} {'value':>10}  {'expected':>24}  claim"]
    for path in sorted(_file().parent.glob("*.jsonl")):
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): delete it and run again") from error
        for row in rows:
            word, band = _WORDS[row["passed"]], _band(row["low"], row["high"])
            lines.append(f"{word}  {row['notebook']:24} {row['value']:10.4g}  {band:>24}  {row['name']}")
    return "\n".join(lines)


def _band(low: float | None, high: float | None) -> str:
    if low is None:
        return "true" if high is None else f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"


def _file() -> Path:
    folder = settings.build_folder() / "checks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{_notebook}.jsonl"
