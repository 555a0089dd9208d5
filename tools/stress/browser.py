"""Widgets in a real browser: Chromium opens lessons in JupyterLab, runs every cell and moves every control.

    python tools/stress/browser.py          lessons 02, 08 and 09, into results/reliability.json (make browser-test)
    python tools/stress/browser.py 00 04    lessons of these numbers; no table is written

Works on copies of the lessons; pictures of every explorer before and after each move go into build/browser, and
browser.mjs drives the browser. Without node, its modules or Chromium nothing is tried: one sentence says so, and that
is no failure. LOOK_MODULES names the folder of the modules, CHROMIUM the browser, as for tools/site/look.mjs.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import reliability

ROOT = reliability.ROOT
NUMBERS = ("02", "08", "09")
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing(environment: dict) -> str | None:
    """The first thing that this machine lacks for a test in a browser, in words; None if nothing."""
    path = environment.get("PATH", "")
    if not shutil.which("node", path=path):
        return "node"
    if not (Path(environment.get("LOOK_MODULES", ".")) / "node_modules" / "puppeteer-core").exists():
        return "puppeteer-core (LOOK_MODULES names no folder with node_modules)"
    return None if chromium(environment) else "Chromium"


def chromium(environment: dict) -> str | None:
    """The browser's program: what CHROMIUM names, or the first that is in PATH."""
    found = (shutil.which(name, path=environment.get("PATH", "")) for name in CHROMIUMS)
    return environment.get("CHROMIUM") or next(filter(None, found), None)


@contextlib.contextmanager
def jupyterlab(folder: Path, *options: str) -> Iterator[dict]:
    """A JupyterLab of its own on a free port, which shows `folder`/notebooks: {"url": …, "token": …, "pid": …}.

    Its settings and all that it writes stay in `folder`. It is stopped, with its kernels, whatever happens.
    """
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython",
           "DISTILL_BUILD": "build"}  # fmt: skip
    command = [sys.executable, "-m", "jupyter", "lab", str(folder / "notebooks")]
    command += ["--no-browser", "--port=0", *options]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container
        command.append("--allow-root")
    log = folder / "jupyter.log"
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches this program alone, which then stops the server in order.
        environment = os.environ | {name: str(folder / own[name]) for name in own}
        server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                  start_new_session=True)  # fmt: skip
    try:
        yield _address(server, folder / "runtime", log)
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _address(server: subprocess.Popen, runtime: Path, log: Path, limit: float = 120) -> dict:
    """The server's own record of its address, once it listens. Raises RuntimeError with its log if it does not."""
    end = time.monotonic() + limit
    while server.poll() is None and time.monotonic() < end:
        for path in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(ValueError, OSError):  # half written, or written before the server listens
                found = json.loads(path.read_text(encoding="utf-8"))
                socket.create_connection((found["hostname"], found["port"]), timeout=5).close()
                return found
        time.sleep(0.1)
    raise RuntimeError("JupyterLab did not start:\n" + log.read_text(encoding="utf-8", errors="replace")[-2000:])


def try_out(numbers: tuple[str, ...], pictures: Path) -> list[dict]:
    """One row per control of every explorer in the lessons of these numbers."""
    with tempfile.TemporaryDirectory(prefix="browser-") as temporary:
        folder = Path(temporary)
        (folder / "notebooks").mkdir()
        names = []
        for number in numbers:
            found = sorted((ROOT / "notebooks").glob(f"{number}_*.ipynb"))
            names += [Path(shutil.copy(path, folder / "notebooks")).name for path in found]
            if not found:
                print(f"{number}: no lesson of this number yet, passed over")
        if not names:
            return []
        with jupyterlab(folder, "--LabApp.expose_app_in_browser=True") as lab:
            environment = os.environ | {"LAB": json.dumps(lab), "CHROMIUM": chromium(os.environ)}
            script = Path(__file__).with_suffix(".mjs")
            run = subprocess.run(["node", script, folder / "rows.json", pictures, *names], env=environment)
        rows = json.loads((folder / "rows.json").read_text(encoding="utf-8")) if run.returncode < 2 else []
        if run.returncode:
            sys.exit(f"a lesson failed in the browser: see above, and {pictures}")
        return rows


def main(numbers: list[str]) -> None:
    lacking = missing(os.environ)
    if lacking:
        print(f"no explorer was moved: this needs node, npm and Chromium, and {lacking} is missing")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped then, too
    rows = try_out(tuple(numbers) or NUMBERS, ROOT / "build" / "browser")
    if rows and not numbers:
        reliability.record("browser", rows)


if __name__ == "__main__":
    main(sys.argv[1:])
