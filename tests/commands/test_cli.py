"""The commands: an error is one sentence that says what to do, an exit status, and no traceback."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from distill_utils import __main__, data, settings
from distill_utils.commands import run


def command(start_python, *arguments, **environment):
    process = start_python("-m", "distill_utils", *arguments, **environment)
    out, err = process.communicate()
    return process.returncode, out, err


def test_doctor_names_what_an_unknown_dataset_could_be(start_python):
    status, out, err = command(start_python, "doctor", DISTILL_DATASET="glyph")
    assert status == 1
    (failed,) = (line for line in out.splitlines() if not line.startswith("OK "))
    assert failed.startswith("FAIL  data: unknown dataset 'glyph': must be one of ")
    assert all(name in failed for name in data.DATASETS)
    assert "Traceback" not in out + err


def test_an_unknown_notebook_is_told_the_known_ones(start_python):
    status, out, err = command(start_python, "run", "99")
    assert status == 1
    assert err.startswith("error: no notebook begins with 99: the series has ")
    assert all(path.stem in err for path in (settings.ROOT / "notebooks").glob("*.ipynb"))
    assert "Traceback" not in out + err


def test_doctor_names_a_package_that_cannot_be_imported(start_python):
    code = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = ['', 'doctor']; "
        "runpy.run_module('distill_utils', run_name='__main__')"
    )
    out, err = start_python("-c", code).communicate()
    assert "Traceback" not in err
    assert "FAIL  torch" in out
    assert "OK    Python" in out


def test_doctor_finds_nothing_to_mend_here(monkeypatch, capsys):
    monkeypatch.setenv("DISTILL_DATASET", "digits")
    assert __main__.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["OK"] * 6
    assert "data: digits, 719 labelled images of 10 classes" in lines[3]


@pytest.mark.parametrize("variable", ["DISTILL_RUNS", "DISTILL_BUILD"])
def test_doctor_finds_a_folder_that_cannot_be_written_to(variable, monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DISTILL_DATASET", "digits")
    monkeypatch.setenv(variable, str(tmp_path / "file" / "folder"))
    assert __main__.main(["doctor"]) == 1
    (failed,) = (line for line in capsys.readouterr().out.splitlines() if not line.startswith("OK "))
    assert failed.startswith("FAIL  disk: ")
    assert f"cannot write {tmp_path}/file/folder/.doctor (" in failed
    assert "DISTILL_RUNS" in failed


def test_doctor_leaves_nothing_behind(monkeypatch):
    monkeypatch.setenv("DISTILL_DATASET", "digits")
    __main__.main(["doctor"])
    assert [*settings.runs_folder().iterdir(), *settings.build_folder().iterdir()] == []


@pytest.fixture
def one_notebook(monkeypatch, tmp_path):
    """A function that makes the series one notebook of these cells."""

    def put(*sources):
        cells = [new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(sources)]
        nbformat.write(new_notebook(cells=cells), tmp_path / "00_only.ipynb")
        monkeypatch.setattr(run, "NOTEBOOKS", tmp_path)

    return put


def test_what_an_explorer_shows_is_not_written_back_to_the_kernel(one_notebook):
    """The message shares a socket with the reply to the cell, which a busy client then missed."""
    show = "from ipywidgets import Output\nout = Output()\nwith out:\n    print('shown')"
    one_notebook(show, "pass", "assert not out.outputs, out.outputs")
    assert __main__.main(["run"]) == 0


def test_a_kernel_that_dies_is_told_in_one_sentence(one_notebook, capsys):
    one_notebook("import os; os._exit(1)")
    assert __main__.main(["run"]) == 1
    out, err = capsys.readouterr()
    message = err.split("\r")[-1].strip(" ")
    assert message.startswith("error: 00_only.ipynb failed: the kernel died while it ran a cell (out of memory?)")
    assert (out, message.count("\n")) == ("", 1)
    assert (settings.build_folder() / "html" / "00_only.html").exists()


def test_what_a_cell_prints_in_pieces_is_kept_as_one_without_its_bars(one_notebook):
    flush = "flush=True)"
    bar = f"print('50 %\\r', file=sys.stderr, {flush}"
    one_notebook(f"import sys\nprint('a', {flush}\n{bar}\nprint('b', {flush}\n{bar}\nprint('c')")
    assert __main__.main(["run"]) == 0
    (cell,) = nbformat.read(settings.build_folder() / "notebooks" / "00_only.ipynb", as_version=4).cells
    assert cell.outputs == [{"name": "stdout", "output_type": "stream", "text": "a\nb\nc\n"}]


def test_the_bar_of_cells_says_how_far_the_running_cell_is(one_notebook, capsys):
    begin = "from distill_utils.training import progress_bar\nwith progress_bar(4, 'distilling') as bar:\n"
    one_notebook(begin + "    bar.update(2)\n    bar.refresh()", "print(1)")
    assert __main__.main(["run"]) == 0
    bars = capsys.readouterr().err.split("\r")
    assert any("| 0/2 " in bar and ", distilling: 50%, 00:00 left]" in bar for bar in bars), bars
    assert not any("| 2/2 " in bar and "distilling" in bar for bar in bars), bars


def test_a_damaged_file_of_timings_is_named(one_notebook, capsys):
    one_notebook("print(1)")
    settings.build_folder().mkdir()
    (settings.build_folder() / "timings.json").write_text('{"00_only": {"sec')
    assert __main__.main(["run"]) == 1
    message = capsys.readouterr().err.split("\r")[-1].strip(" ")
    assert message.startswith(f"error: {settings.build_folder()}/timings.json is damaged (")
    assert message.endswith("): delete it and run again\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "unknown dataset 'glyph': must be one of glyphs, "),
        (["study", "dropot"], "unknown study 'dropot': one of biased_cue, dropout, "),
        (["study", "dropout", "--dataset", "digits"], "the study dropout is made for glyphs, "),
    ],
)
def test_what_cannot_be_done_is_one_sentence(arguments, message, capsys, monkeypatch):
    monkeypatch.setenv("DISTILL_DATASET", "glyph")
    assert __main__.main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_checks_prints_the_table_when_nothing_was_run(capsys):
    assert __main__.main(["checks"]) == 0
    assert "claim" in capsys.readouterr().out


@pytest.mark.parametrize("console", ["ascii", "cp437"])
def test_a_console_of_other_letters_shows_help_and_checks(console, start_python, tmp_path):
    (tmp_path / "checks").mkdir()
    row = {"notebook": "02", "name": "θ₁ beats θ₂ …", "value": 1, "low": 0, "high": None, "passed": True}
    (tmp_path / "checks" / "02.jsonl").write_text(json.dumps(row), encoding="utf-8")
    for command in ("--help", "checks"):
        process = start_python("-m", "distill_utils", command, PYTHONIOENCODING=console, DISTILL_BUILD=str(tmp_path))
        printed, error = process.communicate()
        assert (process.returncode, error) == (0, "")
        assert command == "--help" or "?? beats" in printed or "θ? beats" in printed
