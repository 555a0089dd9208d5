"""Does a test pass by luck? The suite again and again: other hash seeds, unit tests in another order, one or two
threads.

    python tools/stress/flakes.py              ten runs of the whole suite, recorded as a table (make flakes)
    python tools/stress/flakes.py --what unit  ten runs of the unit tests alone

Each run is recorded as it ends, and only missing runs are started, so it can be stopped and continued; --anew forgets
the recorded runs. pytest's output goes to build/flakes. Every run of the whole suite trains its models anew: ten of
them take hours.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile

import reliability

from distill_utils import settings, training

ROOT = reliability.ROOT
WRITTEN = (":!results/reliability.json", ":!docs/reliability.md")  # by this program, while it runs
# Left out: it reads the table that this program writes, so one run that failed would fail every later one.
READS_THE_TABLE = "tests/tools/test_reliability.py::test_no_row_of_a_table_failed"


def outcome(text: str) -> dict:
    """How many tests passed, failed and were skipped, from pytest's output. Raises ValueError if it did not end."""
    closing = re.findall(r"^(?:=+ )?((?:\d+ \w+, )*\d+ \w+) in [\d.]+s\b", text, re.MULTILINE)
    if not closing:
        raise ValueError(f"pytest did not come to its end; its last words:\n{text[-2000:]}")
    counts = {word.rstrip("s"): int(number) for number, word in re.findall(r"(\d+) (\w+)", closing[-1])}
    failed = counts.get("failed", 0) + counts.get("error", 0)
    return {"passed": counts.get("passed", 0), "failed": failed, "skipped": counts.get("skipped", 0)}


def commit() -> str:
    """The checkout's commit, with a + if files differ from it."""
    git = ["git", "-C", str(ROOT)]
    name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    changed = subprocess.run([*git, "status", "--porcelain", "--", ".", *WRITTEN], capture_output=True, text=True)
    return name.strip() + ("+" if changed.stdout else "")


def attempt(what: str, run: int) -> tuple[dict, str]:
    """One run of the suite: its row, and pytest's output."""
    row = {"what": what, "run": run, "commit": commit(), "hash seed": run, "order seed": run, "threads": 2 - run % 2}
    with tempfile.TemporaryDirectory() as runs:
        own = {"PYTHONHASHSEED": str(run), "ORDER_SEED": str(run), "TEST_THREADS": str(row["threads"]),
               "OMP_WAIT_POLICY": "passive",  # two cores, four threads: no spinning
               "DISTILL_RUNS": runs, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tools' / 'stress'}"}  # fmt: skip
        command = [sys.executable, "-m", "pytest", "-q", "-p", "shuffled", "-p", "no:cacheprovider"]
        command += ["--deselect", READS_THE_TABLE, *(["tests"] if what == "unit" else [])]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | own, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)  # fmt: skip
    return row | outcome(done.stdout), done.stdout


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--what", choices=["whole", "unit"], default="whole", help="with the notebooks, or without")
    parser.add_argument("--anew", action="store_true", help="forget the recorded runs of this kind")
    chosen = parser.parse_args(arguments)
    rows = [row for row in reliability.kept().get("flakes", []) if not (chosen.anew and row["what"] == chosen.what)]
    recorded = {row["run"] for row in rows if row["what"] == chosen.what}
    missing = [run for run in range(1, chosen.runs + 1) if run not in recorded]
    output = settings.ROOT / "build" / "flakes"
    output.mkdir(parents=True, exist_ok=True)
    with training.progress_bar(len(missing), "flakes", unit="run") as bar:
        for run in missing:
            row, text = attempt(chosen.what, run)
            (output / f"{chosen.what}-{run}.txt").write_text(text, encoding="utf-8")
            rows = sorted([*rows, row], key=lambda row: (row["what"], row["run"]))
            reliability.record("flakes", rows)
            bar.write("\n  ".join([str(row), *re.findall(r"^(?:FAILED|ERROR) \S+", text, re.MULTILINE)]))
            bar.update()
    failed = [row["run"] for row in rows if row["what"] == chosen.what and row["failed"]]
    print(f"failed in runs {failed}: see {output}" if failed else "no run failed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
