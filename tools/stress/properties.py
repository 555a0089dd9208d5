"""The property tests with 1,000 generated cases for every public function; what came of them is kept.

    python tests/properties.py              all of them, into results/reliability.json (make properties)
    python tests/properties.py losses stats the functions of these modules alone (commands: those of the command
                                            line); their rows replace the earlier ones

make test draws fifty cases a function, the same ones on every run; this takes minutes.
"""

import os
import sys
from pathlib import Path

import pytest
import reliability

ROOT = Path(__file__).resolve().parent.parent
FILES = ("test_properties.py", "test_words.py", "test_laws.py")
CASES = 1000


class _Watch:
    """What failed: functions by name, and laws."""

    def __init__(self):
        self.failed = []

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)


def main(words: list[str]) -> int:
    os.environ["DISTILL_PROPERTIES"] = "many"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    watch = _Watch()
    chosen = ["whatever_is_typed" if word == "commands" else f"[{word}." for word in words]
    asked = ["-k", " or ".join(chosen)] if words else []
    files = [str(ROOT / "tests" / name) for name in FILES]
    pytest.main(["-o", "addopts=", "-p", "no:cacheprovider", "-q", *files, *asked], plugins=[watch])
    from generated import RAN  # the one that the tests have counted in

    rows = {}
    for name in sorted(key for key in RAN if isinstance(key, str)):
        errors = {key[1]: times for key, times in RAN.items() if key[0] == name and not isinstance(key, str)}
        rows[name] = {
            "function": name, "cases": RAN[name],
            "documented errors": ", ".join(f"{times} {error}" for error, times in sorted(errors.items())) or "none",
            "failures": sum(f"[{name}]" in node or ("test_words" in node and name == "__main__.main")
                            for node in watch.failed),
        }  # fmt: skip
    few = [name for name, row in rows.items() if row["cases"] < CASES]
    path = reliability.settings.results_folder() / "reliability.json"
    kept = reliability.store.read_json(path).get("properties", [])
    earlier = {row["function"]: row for row in kept} if words else {}
    reliability.record("properties", [row for _, row in sorted((earlier | rows).items())])
    print(f"{len(rows)} functions, {sum(row['cases'] for row in rows.values())} cases, {len(watch.failed)} failures")
    for name in few:
        print(f"{name}: {rows[name]['cases']} cases ran, of {CASES} wanted")
    return int(bool(watch.failed or few))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
