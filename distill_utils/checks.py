"""Checks: the claims of a notebook, each with the band that its measured value must fall into.

A check prints no number, so a notebook's committed output is the same on every machine. The value is recorded in
build/checks/NOTEBOOK.jsonl, one line per check. Choose a band wide enough for the arithmetic of another machine and
narrow enough to fail when the claim is false: at least a third of the way from its null to the value must remain.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from distill_utils import settings
from distill_utils._translate import translated

_WORDS = {True: "PASS", False: "FAIL", None: "none"}
_notebook = "notebook"


class CheckFailed(AssertionError):
    """A measured value lies outside its band."""


def begin(notebook: str) -> None:
    """Name the notebook whose checks follow, and remove those of its earlier runs."""
    global _notebook
    _notebook = notebook
    _file().write_text("", encoding="utf-8")


def check(name: str, value: float | bool, low: float | Mapping | None = None, high: float | Mapping | None = None,
          null: float | Mapping | None = None):
    """Assert that a measured value lies in [low, high], and record it.

    low, high: a number for every dataset, or a dict from dataset name to number. A dataset that is missing from the
    dicts has no band: the check is recorded, and neither passes nor fails. Without low and high, value must be a bool
    that is true. null, given as the bands are: the value when what the claim is about is switched off (measured
    by tools/stress/mutants.py). Prints one line without the number. Raises CheckFailed outside the band and for NaN
    or inf, and ValueError for a null inside the band, where the check could not fail.
    """
    dataset = settings.dataset()
    low_, high_, null_ = (each.get(dataset) if isinstance(each, Mapping) else each for each in (low, high, null))
    if null_ is not None and (low_, high_) != (None, None) and _lies_in(null_, low_, high_):
        raise ValueError(f"{name}: the null {null_:g} must lie outside of the band, got {_band(low_, high_)}")
    passed: bool | None
    if low is None and high is None:
        is_bool = str(getattr(value, "dtype", type(value).__name__)) in ("bool", "torch.bool")
        passed = is_bool and bool(value)
    elif low_ is None and high_ is None:
        passed = None
    else:
        passed = _lies_in(value, low_, high_)
    row = {"notebook": _notebook, "name": name, "dataset": dataset, "value": float(value), "low": low_, "high": high_,
           "null": null_, "passed": passed}
    with _file().open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    if passed is False:
        raise CheckFailed(f"{name}: measured {value}, expected {_band(low_, high_)}")
    print(f"PASS {translated(name)}" if passed else f"NO BAND for {dataset}: {translated(name)}")


def claims() -> list[dict]:
    """The checks of this notebook so far as rows for plots.show_table: claim, value, and what the value must be."""
    shown = []
    for row in map(json.loads, _file().read_text(encoding="utf-8").splitlines()):
        band = "no band here" if row["passed"] is None else _band(row["low"], row["high"])
        value, band = ("yes", "yes") if band == "true" else (f"{row['value']:.3g}", band)
        shown.append({"claim": row["name"], "measured here": value, "must be": band})
    return shown


def table() -> str:
    """All recorded checks as text, one line each. Raises ValueError, naming the file, for a damaged record."""
    lines = [f"{'':4}  {'notebook':24} {'value':>10}  {'expected':>24}  {'null':>8}  claim"]
    for path in sorted(_file().parent.glob("*.jsonl")):
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): delete it and run again") from error
        for row in rows:
            word, band = _WORDS[row["passed"]], _band(row["low"], row["high"])
            null = "" if row.get("null") is None else f"{row['null']:.4g}"
            lines.append(f"{word}  {row['notebook']:24} {row['value']:10.4g}  {band:>24}  {null:>8}  {row['name']}")
    return "\n".join(lines)


def remains(row: dict) -> float | None:
    """Which share of the way from its null to its value a recorded check asks for; None without a null."""
    null, edge = row.get("null"), row["low"]
    if null is None or (row["low"], row["high"]) == (None, None):
        return None
    if edge is None or null > edge:
        edge = row["high"]
    return (edge - null) / (row["value"] - null)


def _lies_in(value: float, low: float | None, high: float | None) -> bool:
    return bool(math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high))


def _band(low: float | None, high: float | None) -> str:
    if low is None:
        return "true" if high is None else f"≤ {high:g}"
    if high is None:
        return f"≥ {low:g}"
    return f"= {low:g}" if low == high else f"{low:g} … {high:g}"


def _file() -> Path:
    folder = settings.build_folder() / "checks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{_notebook}.jsonl"
