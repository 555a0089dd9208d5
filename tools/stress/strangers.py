"""Other machines: the oldest and the newest versions of all packages, on every Python that is found here.

    python tools/stress/strangers.py          every machine, into results/reliability.json (make strangers)
    python tools/stress/strangers.py 3.12     those whose name or Python contains one of these words; other rows stay

The machines are those of the weekly workflow, and its own line installs them, in a clone of the last commit with an
environment of its own; both are removed afterwards. Then: doctor, the unit tests, two notebooks. A Python is looked
for as uv does it (PATH, its own, the system's), and not downloaded; packages are, gigabytes of them.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import flakes
import reliability
import yaml

from distill_utils import training

ROOT = reliability.ROOT
JOB = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))["jobs"]["versions"]
UV = [sys.executable, "-m", "uv"]
NOTEBOOKS = ("notebooks/00_start_here.ipynb", "notebooks/02_distill.ipynb")
SHOWN = ("torch", "torchvision", "numpy")
VERSIONS = f"""
import importlib.metadata, json, platform
print(json.dumps({{"Python": platform.python_version()}} | {{n: importlib.metadata.version(n) for n in {SHOWN}}}))
"""


def machines() -> list[dict]:
    """The weekly workflow's machines: name, python, options and pair of each."""
    return JOB["strategy"]["matrix"]["include"]


def install_line(machine: dict) -> str:
    """The shell line by which the workflow installs this machine's packages into .venv."""
    (line,) = (step["run"] for step in JOB["steps"] if "uv pip install" in step.get("run", ""))
    for name, value in machine.items():
        line = line.replace(f"${{{{ matrix.{name} }}}}", value)
    return line


def attempt(machine: dict, log: Path) -> dict:
    """Try a machine; its row. All output goes to the file log."""
    commit = flakes.commit().rstrip("+")
    row = {"machine": machine["name"], "commit": commit, "Python": machine["python"]}
    row |= dict.fromkeys([*SHOWN, "doctor", "passed", "failed", "skipped"], "–")
    find = [*UV, "python", "find", "--no-project", "--system", "--no-python-downloads", machine["python"]]
    python = subprocess.run(find, capture_output=True, text=True).stdout.strip()
    if not python:
        return row | {"how": f"not tried: no Python {machine['python']} here; the workflow tries it every week"}
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "DISTILL_RUNS", "DISTILL_BUILD")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    with tempfile.TemporaryDirectory() as folder, log.open("w", encoding="utf-8") as file:
        checkout = Path(folder) / "checkout"

        def call(*command, cwd: Path = checkout) -> subprocess.CompletedProcess:
            done = subprocess.run(command, env=environment, cwd=cwd, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT)  # fmt: skip
            file.write(f"$ {command}\n{done.stdout}\n")
            return done

        own = str(checkout / ".venv" / "bin" / "python")
        call("git", "clone", "--quiet", str(ROOT), str(checkout), cwd=ROOT).check_returncode()
        call("git", "checkout", "--quiet", commit).check_returncode()  # while ROOT's goes on
        call(*UV, "venv", "--quiet", "--python", python, ".venv").check_returncode()
        line = install_line(machine)
        if call("bash", "-c", line.replace(".venv/bin/python -m uv", f'"{sys.executable}" -m uv')).returncode:
            return row | {"doctor": False, "how": f"not installed: {line}"}
        row |= json.loads(call(own, "-c", VERSIONS, cwd=Path(folder)).stdout)
        row["doctor"] = call(own, "-m", "distill_utils", "doctor").returncode == 0
        tests = call(own, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", *NOTEBOOKS)
        return row | flakes.outcome(tests.stdout) | {"how": line}


def main(words: list[str]) -> int:
    chosen = [m for m in machines() if not words or any(word in f"{m['name']} {m['python']}" for word in words)]
    rows = {row["machine"]: row for row in reliability.kept().get("machines", [])}
    logs = ROOT / "build" / "strangers"
    logs.mkdir(parents=True, exist_ok=True)
    with training.progress_bar(len(chosen), "machines", unit="machine") as bar:
        for machine in chosen:
            row = rows[machine["name"]] = attempt(machine, logs / f"{machine['name']}.txt")
            reliability.record("machines", [rows[m["name"]] for m in machines() if m["name"] in rows])
            bar.write(str(row))
            bar.update()
    broken = [row["machine"] for row in rows.values() if row["doctor"] is False or row["failed"] not in (0, "–")]
    print(f"fails on: {', '.join(broken)}; the output is in {logs}" if broken else "nothing fails")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
