"""What was done to the whole series to break it, and the result: results/reliability.json and docs/reliability.md.

    python tools/stress/reliability.py      write the page again

Every program that breaks something (mutants.py, faults.py, …) hands its table to `record`; nothing is typed.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from distill_utils import _store, settings  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"
# table -> its heading, and what was done
TABLES = {
    "mutants": (
        "Faults in the code",
        "One line of the package was changed in a copy (`make mutants`); the first test that failed is named.",
    ),
    "claims": (
        "Faults in what notebooks claim",
        "A notebook was run with the fault that makes a claim false, with an empty store (cold) and with one in "
        "which all was made before (warm). Null: the value with the fault. Must remain: the share of the way from "
        "null to value that the band asks for. By its version: a warm store hides the edit, and the test of "
        "versions says that stored files are stale.",
    ),
    "faults": (
        "Faults of machines",
        "Copies of the series were killed, locked out of folders, and given full disks and damaged files (`make "
        "faults`). "
        "Completed: the same command succeeded afterwards, and printed one clear message where it first could not. "
        "Nothing lost: no finished work was lost. Nothing half written: every file held all that was written to it. "
        "A dash means that the column does not apply.",
    ),
    "datasets": (
        "Other images",
        "Lessons were run on folders of pictures with few classes and many, grey and in colour, small and large "
        "(`make datasets`). Claims that were measured on glyphs have no band there; all others held.",
    ),
    "browser": (
        "Controls moved in a browser",
        "Chromium opened lessons in JupyterLab, ran every cell and moved every control of the explorers (`make "
        "browser-test`). No cell failed.",
    ),
    "machines": (
        "Other Python versions",
        "A clone of its own with an environment of its own, installed as the weekly workflow installs it: doctor, "
        "the unit tests and two notebooks (`make strangers`).",
    ),
    "flakes": (
        "Repeated runs of the whole suite",
        "Other hash seeds, unit tests in random order, one or two threads (`make flakes`).",
    ),
}


def record(table: str, rows: list[dict]) -> None:
    """Replace a table's rows, all of which have the same columns, and write the page."""
    write(kept() | {table: rows})


def write(found: dict[str, list[dict]]) -> None:
    """Write the known tables and the page."""
    known = {name: rows for name, rows in found.items() if name in TABLES}
    _store.write_json(settings.results_folder() / "reliability.json", known)
    with _store.atomic(PAGE) as temporary:
        temporary.write_text(page(known), encoding="utf-8")


def kept() -> dict[str, list[dict]]:
    """The tables as they were last recorded."""
    path = settings.results_folder() / "reliability.json"
    return _store.read_json(path) if path.exists() else {}


def page(found: dict[str, list[dict]]) -> str:
    """The page in Markdown."""
    parts = [
        "# Stress tests",
        "Programs in `tools/stress` try to break the series. They wrote these tables into `results/reliability.json` "
        "and onto this page. [notebook-ci.md](notebook-ci.md) describes the tests that run every time.",
    ]
    for name, rows in found.items():
        heading, text = TABLES[name]
        parts += [f"## {heading}", text, table(rows)]
    return "\n\n".join(parts) + "\n"


def table(rows: list[dict]) -> str:
    """Rows with the same keys as a table in Markdown."""
    lines = [rows[0].keys(), [":--"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    text = str(value).replace("|", "\\|")
    return f"`{text}`" if "::" in text else text  # the name of a test


if __name__ == "__main__":
    write(kept())
