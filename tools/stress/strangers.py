"""The machines of strangers: the oldest and the newest versions, on every Python that is found here.

    python tests/strangers.py          every machine, into results/reliability.json (make strangers)
    python tests/strangers.py 3.12     those whose name or Python holds one of these words; the other rows stay

The machines are those of the weekly workflow, and its own line installs them, in a clone of the last commit with an
environment of its own; both are removed after. Then: doctor, the unit tests, two notebooks. A Python is looked for as
uv does (PATH, its own, the system's), and not fetched. Not part of `make test`: it fetches gigabytes.
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

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distill_utils import training  # noqa: E402

JOBS = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))["jobs"]
UV = [sys.executable, "-m", "uv"]
NOTEBOOKS = ("notebooks/00_start_here.ipynb", "notebooks/02_distill.ipynb")  # the cheapest proof that notebooks run
SHOWN = ("torch", "torchvision", "numpy")
UNTRIED = "–"
VERSIONS = """
import importlib.metadata, json, platform
print(json.dumps({"Python": platform.python_version()} | {name: importlib.metadata.version(name) for name in %r}))
"""


def machines() -> list[dict]:
    """The weekly workflow's machines: name, python, options and pair of each."""
    return JOBS["versions"]["strategy"]["matrix"]["include"]


def install_line(machine: dict) -> str:
    """The shell line by which the workflow installs this machine's packages into .venv."""
    (line,) = (step["run"] for step in JOBS["versions"]["steps"] if "uv pip install" in step.get("run", ""))
    for name, value in machine.items():
        line = line.replace(f"${{{{ matrix.{name} }}}}", value)
    return line


def interpreter(version: str) -> str:
    """The path of a Python of this version, or "" where none is found."""
    command = [*UV, "python", "find", "--no-project", "--system", "--no-python-downloads", version]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def row_of(machine: dict, commit: str, installed: str, versions: dict | None = None, **found) -> dict:
    """A row of the table; what was not found out is a dash."""
    versions = {"Python": machine["python"]} | dict.fromkeys(SHOWN, UNTRIED) | (versions or {})
    found = dict.fromkeys(("doctor", "passed", "failed", "skipped"), UNTRIED) | found
    return {"machine": machine["name"], "commit": commit} | versions | found | {"how": installed}


def attempt(machine: dict, told: Path) -> dict:
    """Try a machine; its row. What was printed goes to the file `told`."""
    commit, python = flakes.commit().rstrip("+"), interpreter(machine["python"])
    if not python:
        how = f"not tried: no Python {machine['python']} here; the workflow tries it every week"
        return row_of(machine, commit, how)
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder) / "checkout"
        environment = {name: value for name, value in os.environ.items()
                       if name not in ("PYTHONPATH", "VIRTUAL_ENV", "DISTILL_RUNS", "DISTILL_BUILD")}  # fmt: skip

        def said(command, **options) -> subprocess.CompletedProcess:
            done = subprocess.run(
                command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
            )
            with told.open("a", encoding="utf-8") as file:
                file.write(f"$ {command}\n{done.stdout}\n")
            return done

        own = str(checkout / ".venv" / "bin" / "python")
        said(["git", "clone", "--quiet", str(ROOT), str(checkout)]).check_returncode()
        said(["git", "-C", str(checkout), "checkout", "--quiet", commit]).check_returncode()  # while ROOT's goes on
        said([*UV, "venv", "--quiet", "--python", python, str(checkout / ".venv")]).check_returncode()
        line = install_line(machine)
        here = line.replace(".venv/bin/python -m uv", f'"{sys.executable}" -m uv')
        if said(["bash", "-c", here], cwd=checkout).returncode:
            return row_of(machine, commit, f"not installed: {line}", doctor=False)
        versions = json.loads(said([own, "-c", VERSIONS % (SHOWN,)], cwd=folder).stdout)
        well = said([own, "-m", "distill_utils", "doctor"], cwd=checkout).returncode == 0
        tests = said([own, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", *NOTEBOOKS], cwd=checkout)
        return row_of(machine, commit, line, versions, doctor=well, **flakes.outcome(tests.stdout))


def conda() -> dict:
    """environment.yml's bounds, solved with the packages that pip has; conda's own are the workflow's business."""
    wanted = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    lines = [line.replace("pytorch", "torch") for line in wanted if isinstance(line, str)]
    (python,) = (line for line in lines if line.startswith("python>="))
    lines.remove(python)
    version = max((machine["python"] for machine in machines()), key=lambda text: [int(n) for n in text.split(".")])
    solve = [*UV, "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate", "--no-emit-index-url",
             "--python-version", version]  # fmt: skip
    solved = subprocess.run(solve, input="\n".join(lines), capture_output=True, text=True)
    pins = dict(line.split("==") for line in solved.stdout.splitlines() if line.partition("==")[0] in SHOWN)
    systems = JOBS["conda"]["strategy"]["matrix"]["os"].rpartition("'[")[2].partition("]")[0].replace('"', "")
    how = "solved with pip's packages" if not solved.returncode else "not solved with pip's packages"
    how += f", nothing installed; the workflow installs conda's every week on {systems}"
    found = {name: pins.get(name, UNTRIED) for name in SHOWN}
    return row_of({"name": "environment.yml", "python": version}, flakes.commit().rstrip("+"), how, found)


def main(words: list[str]) -> int:
    everything = [*machines(), {"name": "environment.yml", "python": "conda"}]
    chosen = [m for m in everything if not words or any(word in f"{m['name']} {m['python']}" for word in words)]
    rows = {row["machine"]: row for row in reliability.kept("machines")}
    told = ROOT / "build" / "strangers"
    told.mkdir(parents=True, exist_ok=True)
    with training.progress_bar(len(chosen), "machines", unit="machine") as bar:
        for machine in chosen:
            file = told / f"{machine['name']}.txt"
            file.unlink(missing_ok=True)
            row = conda() if machine["python"] == "conda" else attempt(machine, file)
            rows[row["machine"]] = row
            reliability.record("machines", [rows[m["name"]] for m in everything if m["name"] in rows])
            bar.write(", ".join(f"{name} {value}" for name, value in row.items()))
            bar.update()
    broken = [row["machine"] for row in rows.values() if row["doctor"] is False or row["failed"] not in (0, UNTRIED)]
    print(f"fails on: {', '.join(broken)}; what was said lies in {told}" if broken else "nothing fails")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
