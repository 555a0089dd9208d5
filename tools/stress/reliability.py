"""What was done to the whole series to break it, and what came of it: results/reliability.json, and from it
docs/reliability.md.

    python tests/reliability.py      write the page again

Every program that breaks something (mutants.py, faults.py, …) hands its table to `record`; nothing is typed.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distill_utils import _store, settings  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"
# table → its heading, and what was done
TABLES = {
    "mutants": ("Faults put into the code", "One line of the package was changed in a copy (`make mutants`); the "
                "first test that failed is named."),
    "faults": ("Faults of machines", "Done for real to copies of the series (`make faults`). Held afterwards: the "
               "same command completed, with one clear message where it first could not; nothing finished was "
               "lost; no file held less than was written. A dash: it does not apply."),
    "properties": ("Generated arguments", "Each public function was called with arguments that hypothesis drew: "
                   "right ones, and right ones of which one was spoiled (`make properties`). An answer is right, or "
                   "an error that the docstring names, in one sentence; anything else counts as a failure."),
    "browser": ("Controls moved in a browser", "JupyterLab was started, Chromium ran every cell of a lesson and "
                "moved every control of its explorers (`make browser-test`). No cell failed."),
    "machines": ("Strangers' machines", "A clone of its own, with an environment of its own, set up as the weekly "
                 "workflow does it: doctor, the unit tests and two notebooks (`make strangers`)."),
    "flakes": ("The suite again and again", "Other hash seeds, unit tests shuffled, one and two threads in turn "
               "(`make flakes`; \"whole\" is with the notebooks)."),
}  # fmt: skip


def record(table: str, rows: list[dict]) -> None:
    """Keep the rows (all with the same columns) in place of the table's last ones, and write the page."""
    path = settings.results_folder() / "reliability.json"
    _store.write_json(path, (_store.read_json(path) if path.exists() else {}) | {table: rows})
    with _store.atomic(PAGE) as temporary:
        temporary.write_text(page(_store.read_json(path)), encoding="utf-8")


def kept(table: str) -> list[dict]:
    """The table's rows of last time; none where it was never recorded."""
    path = settings.results_folder() / "reliability.json"
    return _store.read_json(path).get(table, []) if path.exists() else []


def page(found: dict) -> str:
    """The page in Markdown. Raises KeyError where a table has no heading here."""
    parts = [
        "# What was done to break this series",
        "Each table was written by a program of `tests/` into `results/reliability.json`, and from there onto this "
        "page. What answers the complaints of readers is in [notebook-ci.md](notebook-ci.md).",
    ]
    for name, rows in found.items():
        heading, told = TABLES[name]
        lines = ["| " + " | ".join(rows[0]) + " |", "| " + " | ".join(":--" for _ in rows[0]) + " |"]
        lines += ["| " + " | ".join(_cell(value) for value in row.values()) + " |" for row in rows]
        parts += [f"## {heading}", told, "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _cell(value) -> str:
    if isinstance(value, bool):
        value = "yes" if value else "**no**"
    text = str(value).replace("|", "\\|")
    return f"`{text}`" if "::" in text else text  # the name of a test


if __name__ == "__main__":
    for kept, kept_rows in _store.read_json(settings.results_folder() / "reliability.json").items():
        record(kept, kept_rows)
