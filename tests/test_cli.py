"""The commands: an error is one sentence that says what to do, an exit status, and no traceback."""

import pytest

from distill_utils import __main__, data, settings


def command(start_python, *arguments, **environment):
    process = start_python("-m", "distill_utils", *arguments, **environment)
    out, err = process.communicate()
    return process.returncode, out, err


def test_doctor_names_what_an_unknown_dataset_could_be(start_python):
    status, out, err = command(start_python, "doctor", DISTILL_DATASET="glyph")
    assert status == 1
    (failed,) = (line for line in out.splitlines() if not line.startswith("OK "))
    assert failed.startswith("FAIL  data: unknown dataset 'glyph': one of ")
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
    assert [line.split()[0] for line in lines] == ["OK"] * 7
    assert "data: digits, 719 labelled images of 10 classes" in lines[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "unknown dataset 'glyph': one of glyphs, "),
        (["study", "dropot"], "unknown study 'dropot': one of dropout, "),
        (["study", "dropout", "--dataset", "digits"], "the study dropout is made for glyphs, "),
        (["study", "dropout", "--dataset", "glyphs", "--seeds", "0"], "at least one seed, found 0"),
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
