"""Slides from the notebooks' own cells: one self-contained HTML file per lesson, for a projector.

    python tools/site/slides.py build/slides [BEGINNING OF A NOTEBOOK'S NAME ...]

What becomes a slide is a rule, so that a new lesson has slides without any work:

- title and first paragraph; then what *You will* promises;
- every figure, without its code, under its heading and the paragraph that leads to it; a figure of much height
  stands beside them, or with its heading alone, as large as the slide allows (Alt and a click show a part larger);
- in a part without a figure, its first table; in a section with neither, its first paragraph;
- the summary, and the exercises without their hints. All other text goes into the speaker's notes (press S);
  sections called Set-up and Next are left out.

A cell's own slide metadata (slideshow: slide_type, as JupyterLab's property inspector sets it) comes first: *slide*,
*subslide* or *fragment* on a code cell shows its code and its output, *skip* leaves a cell out, and on the cell with
a section's heading the whole section.
"""

import base64
import copy
import re
import struct
import sys
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import nbformat
from nbconvert.exporters import SlidesExporter
from pygments.formatters import HtmlFormatter

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import pages  # noqa: E402

SUMMARY = ("Summary", "小结")
WORDS = 45  # of running text on a slide
# Pixels that a figure has below a heading and two or three lines, beside them, and below a heading alone; as in
# slides.css.
ROOM = {"below": (1220, 470), "beside": (850, 672), "alone": (1240, 640)}
SHOWN = {"slide", "subslide", "fragment"}
# Words that announce what a slide may not show, by what would have to be there.
ANNOUNCED = {
    "figure": re.compile(r"\b(figures?|panels?)\b|[上下该本]图|图[中里的]|[幅张个]图|面板", re.IGNORECASE),
    "table": re.compile(r"\b(?<!in a )tables?\b|[上下该本]表|表[中里]|[张个]表", re.IGNORECASE),
    "explorer": re.compile(r"\b(explorer|slider)s?\b|滑块|交互", re.IGNORECASE),
}
SENTENCE = re.compile(r"(?<!et al\.)(?<=[.?!:])\s+(?=[^a-z])|(?<=[。？！：])")
HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$", re.MULTILINE)
FENCED = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)


@dataclass
class Part:
    """What stands below one heading: its level and text, the heading of the section around it, and its pieces:
    paragraphs of text, and code cells."""

    level: int
    title: str
    section: str
    skipped: bool = False
    pieces: list = field(default_factory=list)

    def paragraphs(self) -> list[str]:
        return [piece for piece in self.pieces if isinstance(piece, str)]

    def code(self) -> list:
        return [piece for piece in self.pieces if not isinstance(piece, str)]


def parts(notebook) -> list[Part]:
    """A notebook taken apart at its headings."""
    found, section, skipped = [], "", False
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if slide_type(cell) != "skip":
                found[-1].pieces.append(cell)
            continue
        for level, title, text in _pieces_of_text(pages.ANCHOR.sub("", cell.source)):
            if level:
                if level <= 2:
                    section, skipped = title, slide_type(cell) == "skip"
                found.append(Part(level, title, section, skipped))
            if text.strip() and slide_type(cell) != "skip":
                found[-1].pieces += _paragraphs(text)
    return found


def slide_type(cell) -> str:
    return cell.metadata.get("slideshow", {}).get("slide_type", "-")


def _pieces_of_text(source: str):
    """(level, heading, text) of everything between headings; level 0 for text in front of the first."""
    fences = [match.span() for match in FENCED.finditer(source)]
    heads = [m for m in HEADING.finditer(source) if not any(a <= m.start() < b for a, b in fences)]
    yield 0, "", source[: heads[0].start()] if heads else source
    for head, following in zip(heads, [*heads[1:], None], strict=False):
        yield len(head[1]), head[2], source[head.end() : following.start() if following else None]


def _paragraphs(text: str) -> list[str]:
    """Blocks between blank lines; fenced code, and what is indented below a list's line, stay whole."""
    blocks, fence = [], None
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        inside = fence is not None
        for mark in re.findall(r"^(```|~~~)", block, re.MULTILINE):
            fence = None if fence == mark else fence or mark
        if blocks and (inside or re.match(r"[ \t]", block)):
            blocks[-1] += f"\n\n{block}"
        elif block.strip():
            blocks.append(block)
    return blocks


def brief(text: str, words: int = WORDS) -> str:
    """The first sentences of a paragraph that fit, at least one."""
    if length(text) <= words:
        return text
    kept = ""
    for sentence in SENTENCE.split(text):
        if kept and length(kept) + length(sentence) > words:
            break
        kept = joined([kept, sentence])
    return re.sub("[:：]$", lambda mark: "." if mark[0] == ":" else "。", kept)


def length(text: str) -> float:
    """In English words; a Chinese character counts as 0.6."""
    han = len(re.findall(r"[\u3400-\u9fff]", text))
    return len(re.sub(r"[\u3400-\u9fff]+", " ", text).split()) + 0.6 * han


def joined(sentences: list[str]) -> str:
    """Sentences one after the other; Chinese ones without a space between."""
    return re.sub(r"(?<=[。？！：；，]) (?=\S)", "", " ".join(filter(None, sentences)).strip())


def without_lost(text: str, shown: str | None) -> str:
    """A paragraph without the sentences that announce a figure, a table or an explorer which the slide lacks.

    shown: "figure", "table" or None.
    """
    lost = [words for what, words in ANNOUNCED.items() if what != shown]
    kept, sentences = [], re.split(r"(?<!et al\.)(?<=[.?!])\s+|(?<=[。？！])", text)
    for sentence in sentences:
        clauses = re.split(r"(?<=[;:])\s+|(?<=[；：])", sentence)
        first = next((i for i, clause in enumerate(clauses) if any(words.search(clause) for words in lost)), None)
        if first is None:
            kept.append(sentence)
        else:
            end = joined(clauses[:first])
            kept.append(re.sub("[;:；：]$", "." if end[-1:] in ";:" else "。", end))
    return text if kept == sentences else joined(kept)


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph can stand alone on a slide: no list, table or code, and no sentence's second half."""
    return not re.match(r"\s*([-*+>|<]\s|[>|<]|\d+[.)]\s|```|~~~|#|[a-z]| {4})", paragraph)


def outputs(cell, kind: str) -> list:
    """The outputs of a code cell that carry a kind of data, such as image/png."""
    return [output for output in cell.outputs if kind in output.get("data", {})]


# From parts to slides


def slides(notebook) -> list:
    """Cells of a slide show, in nbconvert's terms: each has its slide_type, text and code in the order shown."""
    found = parts(notebook)
    opening, rest = found[0], found[1:]
    shown = _opening(opening)
    if any(map(_is_figure, opening.code())):
        shown += _part(opening, alone=False)
    for part in rest:
        if part.skipped or re.fullmatch(r"(\d+\. )?(set[- ]up|next|准备|下一步)", part.section, re.IGNORECASE):
            continue
        if part.title in (*SUMMARY, "Exercises", "练习"):
            shown += _closing(part)
            continue
        members = [other for other in rest if other.section == part.section]
        shown += _part(part, alone=part is members[0] and not any(_has_something(other) for other in members))
    return shown


def _opening(part: Part) -> list:
    first, *others = part.paragraphs()
    will = r"^(?:> )?\*\*(You will|你将)\*\*.*?$\n(.*?)(?=^(?:> )?\*\*|\Z)"
    promise = re.search(will, "\n\n".join(others), re.MULTILINE | re.DOTALL)
    cells = [_text("slide", f"# {_without_number(part.title)}\n\n{first}", others)]
    if promise:
        items = re.sub(r"^> ?", "", promise[2], flags=re.MULTILINE).strip()
        cells.append(_text("slide", f"## {promise[1]}\n\n{items}"))
    return cells


def _closing(part: Part) -> list:
    text = re.sub(r"<details>.*?</details>", "", "\n\n".join(part.paragraphs()), flags=re.DOTALL)
    text = re.sub(r"\n\s*\n(\s*\n)+", "\n\n", text).strip()
    if part.title in SUMMARY:  # an exercise is done in the notebook, where the figure is
        points = re.split(r"(\n(?=- |\n))", text)
        text = "".join(without_lost(point, None) if point.strip() else point for point in points)
    cells = [_text("slide", f"## {part.title}\n\n{text}")]
    table = next(filter(_is_table, part.code()), None)
    return [*cells, _text("subslide", f"## {part.title}"), _result(table, "text/markdown")] if table else cells


def _has_something(part: Part) -> bool:
    return any(_is_figure(cell) or _is_table(cell) or slide_type(cell) in SHOWN for cell in part.code())


def _is_figure(cell) -> bool:
    return bool(outputs(cell, "image/png"))


def _is_table(cell) -> bool:
    found = outputs(cell, "text/markdown")
    return bool(found) and "".join(found[0].data["text/markdown"]).startswith("|")


def _part(part: Part, alone: bool) -> list:
    """The slides of one part. alone: nothing in its section can be shown but what it says."""
    figures = any(map(_is_figure, part.code()))
    table = None if figures else next(filter(_is_table, part.code()), None)
    cells, lead, text = [], "", []
    kind = "figure" if figures else "table" if table else None
    for piece, following in zip_longest(part.pieces, part.pieces[1:]):
        if isinstance(piece, str):
            text.append(piece)
            leads_on = isinstance(following, str) and re.match(
                r"([-*+]|\d+[.)])\s", following
            )  # the list stays behind
            if is_prose(piece) and not leads_on:
                lead = without_lost(piece, kind) or lead
            continue
        marked = slide_type(piece) in SHOWN
        if marked or _is_figure(piece) or piece is table:
            shown = _shown(piece) if marked else _result(piece, "image/png" if figures else "text/markdown")
            alone_there = any(found.metadata.room == "alone" for found in outputs(shown, "image/png"))
            head = f"## {part.title}" if alone_there else _head(part, brief(lead))
            cells += [_text("subslide" if cells else "slide", head, text), shown]
            lead, text = "", []
    if not cells and alone:
        cells = [_text("slide", _head(part, without_lost(_opening_words(part.paragraphs()), None)), text)]
    elif cells and text:  # what is said after the last figure belongs to it
        cells.insert(-1, _notes(text))
    return cells


def _opening_words(paragraphs: list[str]) -> str:
    """The first paragraph that can stand alone, with what its colon or its unfinished sentence leads to."""
    first = next((i for i, paragraph in enumerate(paragraphs) if is_prose(paragraph)), None)
    if first is None:
        return ""
    text, following = paragraphs[first], (paragraphs[first + 1 :] or [""])[0]
    if re.match(r"[a-z]", following):
        following = brief(following, 1)
    elif not (text.endswith(":") and following.startswith("|")):
        return brief(text, 2 * WORDS)
    return f"{text}\n\n{following}"


def _head(part: Part, lead: str) -> str:
    above = f'<p class="section">{part.section}</p>\n\n' if part.level > 2 else ""
    return f"{above}## {part.title}\n\n{lead}"


def _without_number(title: str) -> str:
    return re.sub(r"^\d+\.\s+", "", title)


def _text(kind: str, source: str, notes: list[str] = ()):
    cell = nbformat.v4.new_markdown_cell(_unlinked(source))
    cell.metadata["slideshow"] = {"slide_type": kind}
    if notes:
        cell.metadata["notes"] = "\n\n".join(notes)
    return cell


def _notes(paragraphs: list[str]):
    cell = nbformat.v4.new_markdown_cell(_unlinked("\n\n".join(paragraphs)))
    cell.metadata["slideshow"] = {"slide_type": "notes"}
    return cell


def _unlinked(text: str) -> str:
    """Text without relative links, which lead nowhere from a single file."""
    return re.sub(r"(?<!!)\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)


def _shown(cell):
    cell = copy.deepcopy(cell)
    cell.metadata["slideshow"] = {"slide_type": "-"}
    cell.source = re.sub(
        r"\n{3,}", "\n\n", pages.for_readers(cell.source)
    )  # one empty line between two functions is enough there
    for output in outputs(cell, "image/png"):
        output.metadata["room"] = room(*_size(output.data["image/png"]))
    return cell


def _result(cell, kind: str):
    """A code cell without its code, with its outputs of one kind alone."""
    cell = _shown(cell)
    cell.outputs = outputs(cell, kind)[:1]
    cell.metadata["transient"] = {"remove_source": True}
    return cell


def room(width: int, height: int) -> str:
    """Where a figure goes on a slide of 1280 × 720: below its text, beside it, or below its heading alone.

    Below, where it keeps nine tenths of its own size there; else beside, where that is a sixth larger; else alone.
    """
    size = {place: min(wide / width, high / height) for place, (wide, high) in ROOM.items()}
    if size["below"] >= 0.9:
        return "below"
    return next((place for place in ("beside", "alone") if size[place] > 7 / 6 * size["below"]), "below")


def _size(png: str) -> tuple[int, int]:
    """Width and height in pixels, from the head of a picture in base64."""
    return struct.unpack(">II", base64.b64decode(png[:32])[16:24])


def _with_notes(cells: list) -> list:
    """Notes that were kept with a slide's text, as cells of their own behind it."""
    for cell in cells:
        yield cell
        if "notes" in cell.metadata:
            yield _notes([cell.metadata.pop("notes")])


# From slides to a file


def page(notebook, name: str, language: str = "en") -> str:
    """The slide show as one HTML file that needs no other and no network."""
    show = nbformat.v4.new_notebook(metadata=notebook.metadata, cells=list(_with_notes(slides(notebook))))
    exporter = SlidesExporter(template_name="slides", extra_template_basedirs=[str(HERE)], embed_images=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = exporter.exclude_anchor_links = True
    title = _without_number(parts(notebook)[0].title)
    kept = {
        "metadata": {"name": name},
        "show": {"title": title, "language": language, "css": _styles(), "js": _scripts()},
    }
    return exporter.from_notebook_node(show, resources=kept)[0]


def _styles() -> str:
    code = HtmlFormatter(style="a11y-high-contrast-light").get_style_defs(".highlight")
    files = [_reveal() / "reset.css", _reveal() / "reveal.css", HERE / "slides" / "slides.css"]
    return "\n".join([*(path.read_text(encoding="utf-8") for path in files), code])


def _scripts() -> list[str]:
    plugins = [_reveal().parent / "plugin" / name / f"{name}.js" for name in ("notes", "zoom")]
    files = [_reveal() / "reveal.js", *plugins]
    return [path.read_text(encoding="utf-8").replace("</script", "<\\/script") for path in files]


def _reveal() -> Path:
    """reveal.js as sphinx-revealjs brings it along: only its files are used."""
    import sphinx_revealjs

    return Path(sphinx_revealjs.__file__).parent / "_static" / "revealjs" / "dist"


def main(folder: str, names: list[str]) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for path in sorted((pages.ROOT / "notebooks").glob("*.ipynb")):
        if not names or any(path.stem.startswith(name) for name in names):
            notebook = nbformat.read(path, as_version=4)
            target = Path(folder) / f"{path.stem}.html"
            target.write_text(page(notebook, path.stem, pages.LANGUAGE), encoding="utf-8")
            count = sum(slide_type(cell) in SHOWN for cell in slides(notebook))
            print(f"{target}: {count} slides")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
