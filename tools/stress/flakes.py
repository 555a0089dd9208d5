"""Does a test pass by luck? The suite again and again: other hash seeds, unit tests in another order, one and two
threads in turn.

    python tests/flakes.py                 ten runs of the whole suite, into results/reliability.json (make flakes)
    python tests/flakes.py --what unit     ten runs of the unit tests alone, a table's rows of their own

Each run is kept as it ends, and only runs that are missing are started: it can be stopped, and gone on with. Rows of
an earlier commit stay until --anew forgets them. What pytest said lies in build/flakes. Every run of the whole suite
trains its models anew, in a folder that is removed: ten of them take hours, so this is not part of `make test`.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import reliability

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distill_utils import settings, training  # noqa: E402

WRITTEN = (":!results/reliability.json", ":!docs/reliability.md")  # by this program, while it runs
# Left out: it reads the table that this program writes, so one run that failed would fail every later one.
READS_THE_TABLE = "tests/test_flakes.py::test_the_rows_that_are_committed_failed_nowhere"


def outcome(text: str) -> dict:
    """How many tests passed, failed and were skipped, as pytest printed it. Raises ValueError if it did not end."""
    closing = re.findall(r"^(?:=+ )?((?:\d+ \w+, )*\d+ \w+) in [\d.]+s\b", text, re.MULTILINE)
    if not closing:
        raise ValueError(f"pytest did not come to its end; its last words:\n{text[-2000:]}")
    counts = {word.rstrip("s"): int(number) for number, word in re.findall(r"(\d+) (\w+)", closing[-1])}
    return {
        "passed": counts.get("passed", 0),
        "failed": counts.get("failed", 0) + counts.get("error", 0),
        "skipped": counts.get("skipped", 0),
    }


def failing(text: str) -> list[str]:
    """The names of the tests that failed, from what pytest printed."""
    return re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)


def commit() -> str:
    """The checkout's commit, with a + if files differ from it."""
    git = ["git", "-C", str(ROOT)]
    name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    changed = subprocess.run([*git, "status", "--porcelain", "--", ".", *WRITTEN], capture_output=True, text=True)
    return name.strip() + ("+" if changed.stdout else "")


def attempt(what: str, run: int) -> tuple[dict, str]:
    """One run of the suite: its row, and what pytest said."""
    row = {"what": what, "run": run, "commit": commit(), "hash seed": run, "order seed": run, "threads": 2 - run % 2}
    with tempfile.TemporaryDirectory() as runs:
        environment = os.environ | {
            "PYTHONHASHSEED": str(row["hash seed"]), "ORDER_SEED": str(row["order seed"]),
            "TEST_THREADS": str(row["threads"]), "OMP_WAIT_POLICY": "passive",  # two cores, four threads: no spinning
            "DISTILL_RUNS": runs,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        }  # fmt: skip
        command = [sys.executable, "-m", "pytest", "-q", "-p", "shuffled", "-p", "no:cacheprovider"]
        command += ["--deselect", READS_THE_TABLE]
        done = subprocess.run(
            command + (["tests"] if what == "unit" else []), cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    return row | outcome(done.stdout), done.stdout


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--what", choices=["whole", "unit"], default="whole", help="with the notebooks, or without")
    parser.add_argument("--anew", action="store_true", help="forget the runs that are kept of this kind")
    chosen = parser.parse_args(arguments)
    rows = [row for row in reliability.kept("flakes") if not (chosen.anew and row["what"] == chosen.what)]
    there = {row["run"] for row in rows if row["what"] == chosen.what}
    missing = [run for run in range(1, chosen.runs + 1) if run not in there]
    told = settings.ROOT / "build" / "flakes"
    told.mkdir(parents=True, exist_ok=True)
    with training.progress_bar(len(missing), "flakes", unit="run") as bar:
        for run in missing:
            row, text = attempt(chosen.what, run)
            (told / f"{chosen.what}-{run}.txt").write_text(text, encoding="utf-8")
            rows = sorted([*rows, row], key=lambda row: (row["what"], row["run"]))
            reliability.record("flakes", rows)
            bar.write(", ".join(f"{name} {value}" for name, value in row.items()))
            for name in failing(text):
                bar.write(f"  FAILED {name}")
            bar.update()
    ours = [row for row in rows if row["what"] == chosen.what]
    unsteady = sum(row["failed"] > 0 for row in ours)
    print(f"{len(ours) - unsteady} of {len(ours)} runs passed ({chosen.what})")
    return int(unsteady > 0)


if __name__ == "__main__":
    sys.exit(main())
