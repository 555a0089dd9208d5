"""browser.py without a browser: what it needs, and how its server protects itself and ends."""

import os
import urllib.error
import urllib.request

import browser
import pytest


def status(lab: dict, token: str) -> int:
    """The status of the server's answer to a request for its files."""
    request = urllib.request.Request(f"{lab['url']}api/contents", headers={"Authorization": f"token {token}"})
    try:
        return urllib.request.urlopen(request, timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_server_requires_its_token_writes_only_into_its_folder_and_ends_with_a_failure_too(tmp_path):
    folder = tmp_path / "a folder"
    (folder / "notebooks").mkdir(parents=True)
    with pytest.raises(ZeroDivisionError), browser.jupyterlab(folder) as lab:
        assert status(lab, "another") == 403
        assert status(lab, lab["token"]) == 200
        os.kill(lab["pid"], 0)
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(lab["pid"], 0)
    assert [path.name for path in tmp_path.iterdir()] == ["a folder"]


@pytest.mark.parametrize(
    ("gone", "named"),
    [("", None), ("node", "node"), ("node_modules", "puppeteer-core"), ("chromium", "Chromium")],
)
def test_without_what_a_browser_needs_one_sentence_says_so_and_nothing_fails(
    tmp_path, monkeypatch, capsys, gone, named
):
    for name in ("node", "chromium"):
        (tmp_path / name).touch(mode=0o755)
    (tmp_path / "node_modules" / "puppeteer-core").mkdir(parents=True)
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LOOK_MODULES", str(tmp_path))
    if not gone:
        assert browser.missing(os.environ) is None
        return
    (tmp_path / gone).rename(tmp_path / "elsewhere")
    browser.main([])
    printed = capsys.readouterr().out
    assert printed.startswith("no explorer was moved: this needs node, npm and Chromium")
    assert f"and {named}" in printed
    assert printed.count("\n") == 1
