"""environment.yml, requirements.txt and pyproject.toml say the same."""

import os
import re
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
PINS_TEXT = (ROOT / "requirements.txt").read_text(encoding="utf-8")
ON_CONDA = {"torch": "pytorch"}  # every other package has one name on both
TRIED_PAIR = {"torch": "2.15.0", "torchvision": "0.29.2"}
LEAST_PAIR = {"torch": ">=2.9", "torchvision": ">=0.24"}


def bounds(requirements: list[str]) -> dict[str, str]:
    """Package name → what is asked of its version, such as ">=2.0"."""
    return {name: rest for name, rest in (re.fullmatch(r"([\w.-]+)(.*)", line).groups() for line in requirements)}


def wanted() -> dict[str, str]:
    extras = PROJECT["optional-dependencies"]
    return bounds(PROJECT["dependencies"] + extras["test"] + extras["course"])


def pins() -> dict[str, list[str]]:
    """Package name → its pinned versions: more than one where they depend on Python's version."""
    found = {}
    for line in PINS_TEXT.splitlines():
        if line and not line.startswith("#"):
            name, version = re.fullmatch(r"([\w.-]+)==([\w.+]+)(?: ; .*)?", line).groups()
            found.setdefault(name, []).append(version)
    return found


def test_conda_and_pip_ask_for_the_same_packages_and_versions():
    conda = bounds([line for line in ENVIRONMENT["dependencies"] if isinstance(line, str)])
    expected = {ON_CONDA.get(name, name): bound for name, bound in wanted().items()}
    expected |= {"python": PROJECT["requires-python"], "pip": ""}
    assert conda == expected


def test_the_conda_environment_ends_with_this_checkout():
    assert ENVIRONMENT["dependencies"][-1] == {"pip": ["-e .[zh]"]}
    assert ENVIRONMENT["channels"] == ["conda-forge"]


def test_every_line_of_the_conda_environment_says_what_it_is_for():
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    packages = [line for line in lines if re.match(r"  - [a-z]", line) and "conda-forge" not in line]
    bare = [line for line in packages if "  # " not in line and not re.match(r"  - (python>|pip:)", line)]
    assert not bare


PINNED = wanted() | bounds(PROJECT["optional-dependencies"]["zh"])


@pytest.mark.parametrize("name", sorted(PINNED))
def test_every_dependency_has_an_exact_pin_within_its_bound(name):
    assert name in pins(), f"{name} is not in requirements.txt: make lock"
    assert all(version in SpecifierSet(PINNED[name]) for version in pins()[name])


def test_pins_hold_no_address_and_no_index_option():
    assert "://" not in PINS_TEXT
    assert not re.search(r"^\s*-", PINS_TEXT, re.MULTILINE)
    assert "@" not in PINS_TEXT


def test_torch_and_torchvision_are_pairs_that_fit():
    assert {name: pins()[name] for name in TRIED_PAIR} == {name: [pin] for name, pin in TRIED_PAIR.items()}
    assert {name: wanted()[name] for name in LEAST_PAIR} == LEAST_PAIR


def test_no_upper_bound_locks_readers_out():
    """A package that cannot be installed on next year's Python is the commonest complaint about such series."""
    assert all("<" not in bound for bound in [*wanted().values(), PROJECT["requires-python"]])


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_make_sets_up_once_though_a_clock_was_moved_back(tmp_path):
    """What the set-up is made from is dated a year ahead; a Python that does nothing stands in for the real one."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    ahead = time.time() + 365 * 24 * 3600
    os.utime(tmp_path / "requirements.txt", (ahead, ahead))
    python = tmp_path / "python"
    made = 'mkdir -p .venv/bin; printf "#!/bin/sh\\n" > .venv/bin/python; chmod +x .venv/bin/python'
    python.write_text(f'#!/bin/sh\ncase "$*" in *--clear*) {made};; esac\n')
    python.chmod(0o755)
    command = ["make", "-C", tmp_path, "run", f"PYTHON={python}"]
    told = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert ["Setting up" in words for words in told] == [True, False]
