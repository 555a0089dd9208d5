"""Settings: a path means the same folder wherever a process starts."""

import runpy
import shutil
from pathlib import Path

import pytest

from distill_utils import settings


@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        ("DISTILL_DATA", settings.data_folder),
        ("DISTILL_RUNS", settings.runs_folder),
        ("DISTILL_BUILD", settings.build_folder),
    ],
)
def test_a_folder_does_not_depend_on_where_the_process_starts(variable, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value, expected in {
        "": settings.ROOT / variable.removeprefix("DISTILL_").lower(),
        "somewhere/else": settings.ROOT / "somewhere" / "else",
        str(tmp_path / "here"): tmp_path / "here",
    }.items():
        monkeypatch.setenv(variable, value)
        assert folder() == expected


def test_the_root_is_the_checkout_in_a_kernel_too_where_the_package_is_installed_elsewhere(tmp_path, monkeypatch):
    """A kernel starts in notebooks/."""
    installed = Path(shutil.copy(settings.__file__, tmp_path / "settings.py"))
    monkeypatch.chdir(settings.ROOT / "notebooks")
    assert runpy.run_path(str(installed))["ROOT"] == settings.ROOT
    monkeypatch.chdir(tmp_path)
    assert runpy.run_path(str(installed))["ROOT"] == tmp_path
