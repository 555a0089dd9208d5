"""What browser.py can be asked without a browser: when it passes over, and that its server guards and ends."""

import os
import urllib.error
import urllib.request

import browser
import pytest


def reach(lab: dict, token: str) -> int:
    """The status with which the server answers a question about its files."""
    request = urllib.request.Request(f"{lab['url']}api/contents", headers={"Authorization": f"token {token}"})
    try:
        return urllib.request.urlopen(request, timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_server_wants_its_token_writes_only_into_its_folder_and_ends_with_a_failure_too(tmp_path):
    folder = tmp_path / "a folder"
    (folder / "notebooks").mkdir(parents=True)
    with pytest.raises(ZeroDivisionError), browser.jupyterlab(folder) as lab:
        assert reach(lab, "another") == 403
        assert reach(lab, lab["token"]) == 200
        os.kill(lab["pid"], 0)
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(lab["pid"], 0)
    assert [path.name for path in tmp_path.iterdir()] == ["a folder"]


def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path):
    with pytest.raises(RuntimeError, match=r"did not start:\n(?s:.*)No such file or directory: .*notebooks"):
        with browser.jupyterlab(tmp_path):  # there are no notebooks in this folder
            pass


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An environment in which all is found, without any of it."""
    for name in ("node", "chromium"):
        (tmp_path / name).touch(mode=0o755)
    (tmp_path / "node_modules" / "puppeteer-core").mkdir(parents=True)
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LOOK_MODULES", str(tmp_path))
    return tmp_path


def test_nothing_is_missing_where_all_is_there(machine):
    assert browser.missing(os.environ) is None


@pytest.mark.parametrize(
    ("gone", "named"), [("node", "node"), ("node_modules", "puppeteer-core"), ("chromium", "Chromium")]
)
def test_without_what_a_browser_needs_one_sentence_says_so_and_nothing_fails(machine, capsys, gone, named):
    (machine / gone).rename(machine / "elsewhere")
    browser.main([])
    printed = capsys.readouterr().out
    assert printed.startswith("no explorer was moved: this needs node, npm and Chromium")
    assert f"and {named}" in printed
    assert printed.count("\n") == 1


def test_a_lesson_that_is_not_there_is_passed_over_in_a_sentence(tmp_path, capsys):
    assert browser.try_out(("77",), tmp_path) == []
    assert capsys.readouterr().out == "77: no lesson of this number yet, passed over\n"
