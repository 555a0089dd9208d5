"""Every link inside the project leads to a file, and to a heading of it where it names one.

Links out of the project are asked once a week, not in tests: PYTHONPATH=tools python tests/notebooks/test_links.py
"""

import http.server
import re
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import notebook_rules
import pytest

ROOT = Path(__file__).resolve().parents[2]
KEPT = {"build", "runs", "data", ".venv", "node_modules", ".pytest_cache"}
PAGES = sorted(
    path
    for kind in ("*.md", "*.ipynb")
    for path in ROOT.rglob(kind)
    # The students' edition has another layout; tests/notebooks/test_course.py looks at its links where they lie.
    if not KEPT & set(path.relative_to(ROOT).parts) and not {".ipynb_checkpoints", "student"} & set(path.parts)
)


def texts(path: Path) -> list[str]:
    """A page's Markdown: one text, or one for each text cell."""
    if path.suffix == ".md":
        return [path.read_text(encoding="utf-8")]
    return [source for _, _, source in notebook_rules.cells(notebook_rules.read(path), "markdown")]


def outward(target: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.IGNORECASE) is not None


def dead(path: Path) -> Iterator[str]:
    """The links of a page that lead nowhere inside the project."""
    for target in (target for text in texts(path) for target in notebook_rules.links(text)):
        if outward(target):
            continue
        file, _, anchor = unquote(target).partition("#")
        aim = path.parent / file if file else path
        if not aim.exists():
            yield f"{target}: no such file"
        elif anchor and aim.suffix in (".md", ".ipynb") and anchor not in notebook_rules.page_anchors(aim):
            yield f"{target}: no such heading"


def test_there_are_pages():
    assert {"README.md", "CONTRIBUTING.md", "docs/notebook-ci.md"} <= {str(p.relative_to(ROOT)) for p in PAGES}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_inside_the_project_lead_somewhere(path):
    assert not list(dead(path))


@pytest.fixture
def page(tmp_path):
    (tmp_path / "other.md").write_text(
        "# One  two, three!\n\n## Again\n\n## Again\n\n```\n# no heading\n```\n<a id='here'>"
    )
    (tmp_path / "book.ipynb").write_text('{"cells": [{"cell_type": "markdown", "source": ["## 1. A part\\n"]}]}')

    def write(words):
        (tmp_path / "page.md").write_text(f"# Title\n\n{words}\n")
        return list(dead(tmp_path / "page.md"))

    return write


@pytest.mark.parametrize(
    "link",
    [
        "other.md", "other.md#one--two-three", "other.md#again", "other.md#again-1", "other.md#here", "#title",
        "book.ipynb#1.-A-part", "book.ipynb#1-a-part", "https://example.org/gone", "mailto:a@example.org",
    ],
)  # fmt: skip
def test_a_good_link_passes(link, page):
    assert page(f"[link]({link})") == []


@pytest.mark.parametrize(
    "link",
    ["gone.md", "other.md#gone", "other.md#no-heading", "other.md#again-2", "#gone", "book.ipynb#1-no-part"],
)
def test_a_dead_link_is_found(link, page):
    assert [line.split(":")[0] for line in page(f"[link]({link}) and `[code](gone.md)`")] == [link]
    assert page(f'<a href="{link}">link</a>')


# Links out of the project


def unreachable(address: str, seconds: float = 20) -> str | None:
    """What is wrong with an address; None if it answers, or answers that it is not for programs."""
    request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (link check)"})
    try:
        with urllib.request.urlopen(request, timeout=seconds):
            return None
    except urllib.error.HTTPError as error:
        return None if error.code in (401, 403, 405, 429) else f"answers {error.code}"
    except OSError as error:
        return f"does not answer ({getattr(error, 'reason', error)})"


def main() -> int:
    """Ask every address once; print those that are gone with the pages that name them."""
    named: dict[str, set[str]] = {}
    for path in PAGES:
        for target in (target for text in texts(path) for target in notebook_rules.links(text)):
            if urlsplit(target).scheme in ("http", "https"):
                named.setdefault(target.split("#")[0], set()).add(str(path.relative_to(ROOT)))
    gone = {address: fault for address in sorted(named) if (fault := unreachable(address))}
    for address, fault in gone.items():
        print(f"{address} {fault}: named in {', '.join(sorted(named[address]))}")
    print(f"{len(named) - len(gone)} of {len(named)} addresses answer")
    return bool(gone)


@pytest.mark.parametrize(("status", "fault"), [(200, None), (403, None), (404, "answers 404"), (500, "answers 500")])
def test_an_address_that_is_gone_is_told_from_one_that_wants_no_programs(status, fault):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert unreachable(f"http://127.0.0.1:{server.server_port}/") == fault


def test_a_host_that_is_not_there_does_not_answer():
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        port = server.server_port
    assert unreachable(f"http://127.0.0.1:{port}/").startswith("does not answer")


if __name__ == "__main__":
    sys.exit(main())
