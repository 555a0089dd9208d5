"""Reads the built pages and says what is wrong: links and anchors that lead nowhere, pictures without a description,
anything that a page would fetch from elsewhere while it is read.

    python tools/site/check.py build/site
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

FETCHED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class _Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.anchors, self.links, self.fetched, self.undescribed = set(), [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        fetched = found.get(FETCHED.get(tag))
        if fetched and found.get("rel") not in ("next", "prev", "index", "search", "canonical"):
            self.fetched.append(fetched)
        if tag == "img" and not (found.get("alt") or "").strip():
            self.undescribed += 1


def faults(folder: Path) -> list[str]:
    """One sentence for each fault of the pages in a folder, without the theme's own and without files to download."""
    paths = [path for path in sorted(folder.rglob("*.html")) if not {"_static", "_downloads"} & set(path.parts)]
    pages = {path.resolve(): _Page(path.read_text(encoding="utf-8")) for path in paths}
    found = [] if pages else [f"there is no page in {folder}"]
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        if page.undescribed:
            found.append(f"{name} has {page.undescribed} pictures without a description")
        for target in page.fetched:
            if re.match(r"(https?:)?//", target):
                found.append(f"{name} fetches {target}: a page must be whole without a network")
            elif not target.startswith("data:") and not _file(path, target).exists():
                found.append(f"{name} fetches {target}, which is not there")
        for target in page.links:
            if not re.match(r"[a-z]+:|//", target):
                found += _lost(pages, path, name, target)
    return found


def _file(path: Path, target: str) -> Path:
    return (path.parent / unquote(re.split(r"[?#]", target)[0])).resolve()


def _lost(pages: dict[Path, _Page], path: Path, name: Path, target: str) -> list[str]:
    anchor = unquote(target.partition("#")[2])
    there = path if target.startswith("#") else _file(path, target)
    if not there.exists():
        return [f"{name} links to {target}, which is not there"]
    if anchor and there in pages and anchor not in pages[there].anchors:
        return [f"{name} links to {target}, and there is no such anchor"]
    return []


if __name__ == "__main__":
    found = faults(Path(sys.argv[1]))
    print("\n".join(found) or f"{sys.argv[1]}: every link and anchor leads somewhere, every picture is described")
    sys.exit(bool(found))
