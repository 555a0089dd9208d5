"""The Chinese edition: every page of the checkout, put together from catalogues of translated text.

    python tools/translate.py build   build/zh: a checkout with its pages in Chinese (make zh)
    python tools/translate.py stale   lists what has changed in English since it was translated (make zh-stale)
    python tools/translate.py mark    marks that as stale, so that the tests pass (make zh-mark)

translations/zh/PAGE.po has an entry for each Markdown cell of a notebook, under its id, and for each block of a page.
Its msgid is the English text that was translated, so a changed text has no entry, and the tests name it. Marked, the
entry is *fuzzy*, as gettext calls it: the page shows the English text, and says so, until somebody translates it.
Code and outputs are those of the English notebooks.
"""

import ast
import json
import posixpath
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import PoFileError, read_po, write_po

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from notebook_rules import FENCED, anchor, links, titles  # noqa: E402

LANGUAGE = "zh"
BUILD = ROOT / "build" / LANGUAGE
# The glossary has both languages; README and docs/results.md have pages of their own, which tools/tables writes.
PATTERNS = (
    "notebooks/*.ipynb",
    "course/source/*/*.ipynb",
    "course/*.md",
    "course/quiz/*.md",
    "course/instructor/*.md",
    "course/student/*.md",
    "docs/notebook-ci.md",
    "CONTRIBUTING.md",
)
OWN = {"course/glossary.md"}
MESSAGES = "messages"  # of the tests that a student can see, in the place of a page's name
STALE = "> （此段译文已过时，以下为英文原文。）"
HEADER = 'msgid ""\nmsgstr ""\n"Language: zh\\n"\n"Content-Type: text/plain; charset=utf-8\\n"\n\n'
HEADING = re.compile(r"^ {0,3}(#{1,6}) +(.+?)\s*#*$", re.MULTILINE)
GENERATED = re.compile(r"<!-- (\w+):begin -->.*?<!-- \1:end -->", re.DOTALL)
CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)


class BadTranslation(ValueError):
    """A translation that lost a link, a heading or the like, or a page without a catalogue."""


def pages() -> list[str]:
    found = {path.relative_to(ROOT).as_posix() for pattern in PATTERNS for path in ROOT.glob(pattern)}
    return sorted(found - OWN)


def catalogue_path(page: str) -> Path:
    return ROOT / "translations" / LANGUAGE / Path(page).with_suffix(".po")


def catalogue(page: str) -> Catalog:
    """The entries of a page. Raises BadTranslation where the file is missing or is none."""
    path = catalogue_path(page)
    try:
        with path.open("rb") as file:
            return read_po(file, locale=LANGUAGE, abort_invalid=True)
    except (OSError, PoFileError) as error:
        name = path.relative_to(ROOT)
        raise BadTranslation(f"{name} cannot be read ({error}): make zh-mark writes what is missing") from error


def pieces(page: str) -> list[tuple[str | None, str]]:
    """What is translated of a page: (the cell's id or None, English text), in order, each once."""
    if page == MESSAGES:
        return [(None, text) for text in messages()]
    text = (ROOT / page).read_text(encoding="utf-8")
    if page.endswith(".ipynb"):
        cells = json.loads(text)["cells"]
        return [(cell["id"], "".join(cell["source"])) for cell in cells if cell["cell_type"] == "markdown"]
    return [(None, block) for block in dict.fromkeys(blocks(text)) if has_words(block)]


def blocks(text: str) -> list[str]:
    """The blocks of a page, between blank lines; a fenced block is one. What tools/tables writes is left out."""
    text = GENERATED.sub("", text)
    fenced = [found.group() for found in FENCED.finditer(text)]
    parts = FENCED.sub("\0", text)
    return [
        block.replace("\0", fenced.pop(0)) if "\0" in block else block
        for block in re.split(r"\n(?:[ \t]*\n)+", parts.strip("\n"))
    ]


def messages() -> list[str]:
    """What the tests of the exercises say, each once, with {0}, {1}, ... for values; hidden tests are left out."""
    found: dict[str, None] = {}
    for path in sorted(ROOT.glob("course/source/*/*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code" and cell["metadata"].get("nbgrader", {}).get("grade"):
                source = re.sub(
                    r"### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS", "", "".join(cell["source"]), flags=re.S
                )
                found |= dict.fromkeys(_said(ast.parse(source)))
    return list(found)


def _said(test: ast.Module) -> Iterator[str]:
    """The messages of a test's assertions, and the hints that these quote: its other texts of three words or more."""
    messages = [node.msg for node in ast.walk(test) if isinstance(node, ast.Assert) and node.msg]
    for message in messages:
        parts, holes = message.values if isinstance(message, ast.JoinedStr) else [message], count()
        yield "".join(part.value if isinstance(part, ast.Constant) else f"{{{next(holes)}}}" for part in parts)
    inside = {node for message in messages for node in ast.walk(message)}
    for node in ast.walk(test):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
            yield from [node.value] if len(node.value.split()) >= 3 else []


def has_words(block: str) -> bool:
    return bool(re.search(r"[A-Za-z]{2}", re.sub(r"<[^>]+>", "", FENCED.sub("", block))))


def state(page: str) -> dict[tuple, tuple[str | None, bool]]:
    """For each piece of a page its translation, or None, and whether that is marked as stale."""
    entries, found = catalogue(page), {}
    for context, english in pieces(page):
        entry = entries.get(english, context)
        found[context, english] = (entry.string if entry and entry.string else None, bool(entry and entry.fuzzy))
    return found


def short(context: str | None, english: str) -> str:
    """What a message calls a piece: its cell, or its first words."""
    return context or f"“{' '.join(english.split())[:60]}”"


def stale() -> list[str]:
    """One line for each piece without a translation that fits; those that are marked say so."""
    lines = []
    for page in [*pages(), MESSAGES]:
        for (context, english), (chinese, marked) in state(page).items():
            if chinese is None or marked:
                why = "marked as stale" if marked else "changed since it was translated"
                lines.append(f"{page}, {short(context, english)}: {why}")
    return lines


def mark() -> None:
    """Give every piece that changed an entry that is marked, with its old translation where the cell had one."""
    for page in [*pages(), MESSAGES]:
        path = catalogue_path(page)
        before = catalogue(page) if path.exists() else Catalog(locale=LANGUAGE)
        by_cell = {entry.context: entry for entry in before if entry.id and entry.context}
        after = Catalog(locale=LANGUAGE)
        for context, english in pieces(page):
            entry = before.get(english, context)
            old = entry or by_cell.get(context) or Message(english)
            after[english] = Message(
                english,
                old.string or english,
                context=context,
                flags={"fuzzy"} if entry is None or entry.fuzzy else set(),
                previous_id=() if entry else old.id,
            )
        _write(path, after)


def _write(path: Path, entries: Catalog) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(HEADER.encode())
        write_po(file, entries, width=0, omit_header=True, include_previous=True)


# What a translation must keep


def kept(text: str) -> dict[str, Counter]:
    """What must be the same in both languages: structure, links, code and tags."""
    plain = FENCED.sub("", text)
    return {
        "headings": Counter(level for level, _ in HEADING.findall(plain)),
        "links": Counter(re.findall(r"\]\(([^)\s]+)\)", plain)),
        "code": Counter(" ".join(found[1].split()) for found in CODE.findall(plain)),
        "tags": Counter(re.findall(r"</?[a-zA-Z][^>]*>", plain)),
        "fenced blocks": Counter(re.findall(r"^ *(?:```|~~~)", text, re.MULTILINE)),
        "table rows": Counter(
            len(re.findall(r"(?<!\\)\|", line)) for line in plain.splitlines() if re.fullmatch(r"\|.*\|\s*", line)
        ),
    }


def broken(page: str) -> list[str]:
    """One sentence for each translation that lost or added a heading, a link, code, a tag or a row of a table."""
    found = []
    for (context, english), (chinese, marked) in state(page).items():
        if chinese is None or marked:
            continue
        there = kept(chinese)
        for what, here in kept(english).items():
            if here != there[what]:
                lost, added = (
                    ", ".join(map(str, part)) or "none" for part in (here - there[what], there[what] - here)
                )
                found.append(f"{page}, {short(context, english)}: {what} differ (lost: {lost}; added: {added})")
    return found


def broken_strings() -> list[str]:
    """One sentence for each text of a figure, table, check or test whose translation has other numbers or values."""
    entries = [entry for name in ("strings", MESSAGES) for entry in catalogue(name) if entry.id and entry.string]
    numbers = re.compile(r"\{\d+\}")
    return [
        f"“{entry.id}”: its translation has other placeholders, “{entry.string}”"
        for entry in entries
        if Counter(numbers.findall(entry.id)) != Counter(numbers.findall(entry.string))
    ]


# The edition


def linked() -> dict[str, set[str]]:
    """Page → the anchors on it that a page of the checkout leads to."""
    found: dict[str, set[str]] = {}
    texts = {page: "\n\n".join(english for _, english in pieces(page)) for page in pages()}
    for page in (*OWN, "README.md", "docs/results.md"):
        texts[page] = (ROOT / page).read_text(encoding="utf-8")
    for page, text in texts.items():
        for target in links(text):
            path, _, name = target.partition("#")
            if name and ":" not in path:
                there = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
                found.setdefault(there, set()).add(name)
    return found


def anchored(english: str, chinese: str, wanted: set[str]) -> str:
    """The Chinese text with the English anchor before each heading that is wanted, so that links need no translation.

    Raises BadTranslation where the two have not the same headings.
    """
    names = [anchor(title) for title in titles(english)]
    fences = [found.group() for found in FENCED.finditer(chinese)]
    chinese = FENCED.sub("\0", chinese)
    if len(names) != len(HEADING.findall(chinese)):
        raise BadTranslation(
            f"{len(names)} headings in English and {len(HEADING.findall(chinese))} in Chinese: {', '.join(names)}"
        )
    following = iter(names)

    def with_anchor(found: re.Match) -> str:
        name = next(following)
        return f'<a id="{name}"></a>\n\n{found[0]}' if name in wanted else found[0]

    chinese = HEADING.sub(with_anchor, chinese)
    for fence in fences:
        chinese = chinese.replace("\0", fence, 1)
    return chinese


def translation(english: str, found: tuple[str | None, bool], wanted: set[str]) -> str:
    chinese, marked = found
    return f"{STALE}\n\n{english}" if chinese is None or marked else anchored(english, chinese, wanted)


def notebook(page: str, wanted: set[str]) -> str:
    """A notebook with its text in Chinese; outputs of its last run in Chinese stay if its code is the same."""
    content, found = json.loads((ROOT / page).read_text(encoding="utf-8")), state(page)
    ran = {}
    if (BUILD / page).exists():
        ran = {cell["id"]: cell for cell in json.loads((BUILD / page).read_text(encoding="utf-8"))["cells"]}
    same = all(
        ran.get(cell["id"], {}).get("source") == cell["source"]
        for cell in content["cells"]
        if cell["cell_type"] == "code"
    )
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            english = "".join(cell["source"])
            cell["source"] = translation(english, found[cell["id"], english], wanted)
        elif same:
            cell["outputs"] = ran[cell["id"]]["outputs"]
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def page_text(page: str, wanted: set[str]) -> str:
    """A page of Markdown in Chinese."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for (_, english), found in sorted(state(page).items(), key=lambda item: -len(item[0][1])):
        text = re.sub(
            rf"(?<=\n\n){re.escape(english)}(?=\n\n|\n*\Z)|\A{re.escape(english)}(?=\n\n)",
            lambda _, english=english, found=found: translation(english, found, wanted),
            text,
        )
    return GENERATED.sub(lambda part: _in_words_of_tables(part[0]), text)


def _in_words_of_tables(part: str) -> str:
    """What tools/tables wrote, with those of its cells and link texts in Chinese that zh.json has."""
    words = json.loads((ROOT / "tools" / "tables" / "zh.json").read_text(encoding="utf-8"))
    return re.sub(
        r"(?<=\| )[^|\n\[\]]+(?= \|)|(?<=\[)[^]\n]+(?=\]\()", lambda cell: words.get(cell[0], cell[0]), part
    )


def build() -> None:
    """build/zh anew: all files of the checkout, its pages in Chinese. Raises BadTranslation, naming the cell.

    The old one is replaced when the new one is complete: it may hold outputs of a run in Chinese.
    """
    faults = [line for page in pages() for line in broken(page)] + broken_strings()
    if faults:
        raise BadTranslation("\n".join(faults))
    wanted = linked()
    texts = {
        page: (notebook if page.endswith(".ipynb") else page_text)(page, wanted.get(page, set())) for page in pages()
    }
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    new = BUILD.with_name(f"{BUILD.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    for name in filter(lambda name: (ROOT / name).is_file(), listed):
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, new / name)
    for name in ("README.md", "docs/results.md"):
        chinese = (new / name).with_suffix(".zh-CN.md")
        text = chinese.read_text(encoding="utf-8").replace(".zh-CN.md", ".md")
        text = re.sub(r"^\[English\].*\n\n", "", text, flags=re.MULTILINE)
        text = anchored((ROOT / name).read_text(encoding="utf-8"), text, wanted.get(name, set()))
        (new / name).write_text(text, encoding="utf-8")
        chinese.unlink()
    for page, text in texts.items():
        (new / page).write_text(text, encoding="utf-8")
    shutil.rmtree(BUILD, ignore_errors=True)
    new.rename(BUILD)
    print(f"{len(texts)} pages in {BUILD.relative_to(ROOT)}/")


def main(arguments: list[str]) -> int:
    if arguments == ["build"]:
        build()
    elif arguments == ["mark"]:
        mark()
    elif arguments == ["stale"]:
        lines = stale()
        print("\n".join(lines) or "every translation is up to date")
        return bool(lines)
    else:
        print(__doc__)
        return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BadTranslation as error:
        sys.exit(f"error: {error}")
