"""What every notebook of the series owes its reader, as rules that read the file and run nothing.

A rule takes a notebook (its JSON) and its path, and returns one sentence for each fault: which cell, and what to do.
Cells are counted from 1, text and code together. Nothing but Python is needed, so that another series can copy it:

    python tools/notebook_rules.py notebooks/*.ipynb
"""

import ast
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

LINES, COLUMNS, CODE_CELLS, BYTES, ALT = 25, 79, (15, 40), 500_000, 20
CHECKED = "nbval-check-output"
TAGS = {CHECKED, "nbval-ignore-output", "raises-exception"}
ENDING = ("Summary", "Exercises", "Next")
FENCED = re.compile(r"^ *(```|~~~).*?^ *\1[^\n]*$", re.MULTILINE | re.DOTALL)
_SHOWS = {"print", "display", "show", "show_table", "explore", "check"}  # a call of these leaves an output

Rule = Callable[[dict, Path], Iterator[str]]
RULES: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    RULES[function.__name__] = function
    return function


def faults(path: Path) -> list[str]:
    """Everything that is wrong with a notebook file."""
    return [fault for check in RULES.values() for fault in check(read(path), path)]


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


# Reading a notebook


def cells(notebook: dict, kind: str | None = None) -> Iterator[tuple[int, dict, str]]:
    """Number, cell and source of every cell of a kind ("code", "markdown"; default: all)."""
    for number, cell in enumerate(notebook["cells"], start=1):
        if kind in (None, cell["cell_type"]):
            yield number, cell, _joined(cell["source"])


def tags(cell: dict) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def outputs(notebook: dict) -> Iterator[tuple[int, dict, dict]]:
    """Number, cell and output of every output."""
    for number, cell, _ in cells(notebook, "code"):
        for output in cell["outputs"]:
            yield number, cell, output


def output_texts(output: dict) -> Iterator[str]:
    """What an output says in words, HTML included."""
    if "text" in output:
        yield _joined(output["text"])
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text/"):
            yield _joined(value)


def headings(notebook: dict) -> Iterator[tuple[int, int, str]]:
    """Number of the cell, level and text of every heading."""
    for number, _, source in cells(notebook, "markdown"):
        for marks, text in re.findall(r"^(#{1,6})\s+(.+?)\s*#*$", _without_code(source), re.MULTILINE):
            yield number, len(marks), text


def calls(source: str) -> Iterator[tuple[str, list]]:
    """Name and arguments of the calls that stand as statements of their own at the top level of a cell."""
    for statement in _parsed(source):
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            function = statement.value.func
            yield getattr(function, "attr", getattr(function, "id", "")), statement.value.args


def links(source: str) -> Iterator[str]:
    """Targets of the links and pictures of a text cell."""
    text = _without_code(source)
    yield from re.findall(r"\]\(\s*<?([^)\s>]+)", text)
    yield from re.findall(r"""(?:href|src)\s*=\s*["']([^"']+)""", text)


def titles(markdown: str) -> list[str]:
    """The words of all headings, of links their text; what stands in fenced code is none."""
    text = FENCED.sub("", markdown)
    found = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, re.MULTILINE)
    return [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in found]


def anchors(markdown: str) -> set[str]:
    """What a link to a part of a Markdown page may name after its #: headings as GitHub and Sphinx write them
    (repeated ones are counted), any id, any label."""
    text = FENCED.sub("", markdown)
    found = set(re.findall(r"""<\w+[^>]*\b(?:id|name)=["']([^"']+)""", text))
    found |= set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))  # a label, as Sphinx has them
    seen: dict[str, int] = {}
    for heading in titles(markdown):
        name = anchor(heading)
        found.add(f"{name}-{seen[name]}" if name in seen else name)
        seen[name] = seen.get(name, 0) + 1
    return found


def anchor(heading: str) -> str:
    """Lower case, hyphens for spaces, nothing else but letters, digits, hyphens and underscores."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _without_code(source: str) -> str:
    """Markdown without code blocks, code spans and formulas."""
    source = FENCED.sub("", source)
    source = re.sub(r"\$\$.*?\$\$", "", source, flags=re.DOTALL)
    return re.sub(r"(`+)[^\n]+?\1|\$[^$\n]+\$", "", source)


def _parsed(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:
        return []  # plain_python says so


# It was run from top to bottom, and shows it


@rule
def run_in_order(notebook, path):
    counts = [cell["execution_count"] for _, cell, source in cells(notebook, "code") if source.strip()]
    if counts != list(range(1, len(counts) + 1)):
        wrong = next(i for i, count in enumerate(counts, start=1) if count != i)
        yield (
            f"code cell {wrong} has execution count {counts[wrong - 1]}, not {wrong}: "
            "restart the kernel, run all cells in order, save"
        )


@rule
def outputs_present(notebook, path):
    for number, cell, source in cells(notebook, "code"):
        shown = {name for name, _ in calls(source)} & _SHOWS
        if shown and not cell["outputs"]:
            yield f"cell {number} calls {shown.pop()} but has no output: run it and save with outputs"


@rule
def no_failed_cell(notebook, path):
    for number, cell, output in outputs(notebook):
        if output["output_type"] == "error" and "raises-exception" not in tags(cell):
            yield f"cell {number} failed with {output['ename']}: mend it, or tag it raises-exception if that is meant"


@rule
def three_checked_cells(notebook, path):
    checked = [(number, cell) for number, cell, _ in cells(notebook, "code") if CHECKED in tags(cell)]
    if len(checked) < 3:
        yield f"{len(checked)} cells are tagged {CHECKED}: tag at least three whose output is the same everywhere"
    for number, cell in checked:
        if not cell["outputs"]:
            yield f"cell {number} is tagged {CHECKED} but has no output to compare: run it and save, or untag it"


@rule
def known_tags(notebook, path):
    for number, cell, source in cells(notebook):
        for tag in sorted(set(tags(cell)) - TAGS):
            yield f"cell {number} has the tag {tag}, which is not one of {', '.join(sorted(TAGS))}: take it off"
        if cell["cell_type"] == "code" and re.search(r"#\s*(NBVAL|PYTEST_VALIDATE)_", source):
            yield f"cell {number} steers nbval by a comment, which readers see: use a tag"


@rule
def checks_named_after_the_notebook(notebook, path):
    named = [
        (number, arguments[0].value if arguments and isinstance(arguments[0], ast.Constant) else None)
        for number, _, source in cells(notebook, "code")
        for name, arguments in calls(source)
        if name == "begin"
    ]
    if not named:
        yield f'no cell calls checks.begin("{path.stem}"): do so before the first check'
    for number, name in named:
        if name != path.stem:
            yield f'cell {number} begins the checks of {name}: say checks.begin("{path.stem}")'


# It can be read: on GitHub, on a projector, by ear


@rule
def no_widget_state(notebook, path):
    if "widgets" in notebook["metadata"]:
        yield "metadata.widgets is saved, which stops GitHub from showing the page: delete it"
    for number, _, output in outputs(notebook):
        if any("widget-view" in kind for kind in output.get("data", {})):
            yield f"cell {number} has a widget as its output: keep only its text form"


@rule
def alternative_text(notebook, path):
    for number, _, output in outputs(notebook):
        for kind in output.get("data", {}):
            if kind.startswith("image/"):
                alt = output.get("metadata", {}).get(kind, {}).get("alt", "")
                if len(alt.strip()) < ALT:
                    yield f"cell {number} shows a picture without a description: use plots.show(figure, alt=…)"
    for number, _, source in cells(notebook, "markdown"):
        text = _without_code(source)
        unsaid = re.findall(r"!\[\s*\]\(", text) + [
            picture for picture in re.findall(r"<img\b[^>]*>", text) if not re.search(r'alt\s*=\s*"[^"]+"', picture)
        ]
        if unsaid:
            yield f"cell {number} has a picture without alternative text: describe it"


@rule
def small_file(notebook, path):
    size = len(json.dumps(notebook, indent=1, ensure_ascii=False).encode())
    if size >= BYTES:
        yield f"the file has {size / 1000:.0f} KB, more than {BYTES / 1000:.0f}: show fewer or smaller pictures"


@rule
def one_title_first(notebook, path):
    first = notebook["cells"][0]
    if first["cell_type"] != "markdown" or not re.match(r"# \S", _joined(first["source"])):
        yield "the first cell does not begin with the title: start it with '# '"
    titles = [number for number, level, _ in headings(notebook) if level == 1]
    if len(titles) != 1:
        yield f"titles (one #) stand in cells {titles}: keep the first, make the others ##"


@rule
def heading_levels_in_order(notebook, path):
    before = 0
    for number, level, text in headings(notebook):
        if level > before + 1:
            yield f"cell {number} skips from heading level {before} to {level} at {text!r}: use {'#' * (before + 1)}"
        before = level


@rule
def ends_with_summary_exercises_next(notebook, path):
    sections = [text for _, level, text in headings(notebook) if level == 2]
    last = sections[-3:]
    if len(last) < 3 or not all(text.startswith(name) for text, name in zip(last, ENDING, strict=True)):
        yield f"the last sections are {', '.join(last) or 'none'}: end with ## {', ## '.join(ENDING)}"


@rule
def three_exercises(notebook, path):
    texts = "\n\n".join(_without_code(source) for _, _, source in cells(notebook, "markdown"))
    section = re.search(r"^## Exercises.*?$(.*?)(?=^## |\Z)", texts, re.MULTILINE | re.DOTALL)
    body = re.sub(r"<details>.*?</details>", "", section[1], flags=re.DOTALL) if section else ""
    ways = (r"^### ", r"^\*\*(?:Exercise )?\d", r"^\d+[.)]\s")
    count = next((n for n in (len(re.findall(way, body, re.MULTILINE)) for way in ways) if n), 0)
    if count != 3:
        yield f"the section Exercises holds {count} exercises: number three of them, 1. 2. 3."


@rule
def length(notebook, path):
    least, most = CODE_CELLS
    code, text = len(list(cells(notebook, "code"))), len(list(cells(notebook, "markdown")))
    if not least <= code <= most:
        yield f"there are {code} code cells: between {least} and {most} make a lesson"
    if text < code:
        yield f"there are {text} text cells for {code} code cells: say before each what it asks"


@rule
def short_cells(notebook, path):
    for number, _, source in cells(notebook, "code"):
        lines = source.splitlines()
        if len(lines) > LINES:
            yield f"cell {number} has {len(lines)} lines, more than {LINES}: split it, or move a part to the package"
        for line in lines:
            if len(line) > COLUMNS:
                start = line.strip()[:40]
                yield f"cell {number} has a line of {len(line)} columns, more than {COLUMNS}: break {start!r}"


# It runs anywhere


@rule
def plain_python(notebook, path):
    for number, _, source in cells(notebook, "code"):
        try:
            ast.parse(source)
        except SyntaxError as error:
            yield f"cell {number} is not plain Python ({error.msg}, line {error.lineno}): no ! and no % lines"


@rule
def nothing_installed(notebook, path):
    for number, _, source in cells(notebook, "code"):
        found = re.search(r"\b(pip3? install|conda install|git clone|wget|os\.system|subprocess)\b", source)
        if found:
            yield f"cell {number} says {found[0]}: what a notebook needs is set up by make or environment.yml"


@rule
def no_path_of_a_machine(notebook, path):
    place = re.compile(r"(?<![\w.:/~-])/(?:home|root|Users|work|tmp|mnt|opt|var)/\S*|\b[A-Z]:\\(?:Users|[A-Z])\w*")
    for number, _, source in cells(notebook):
        if found := place.search(source):
            yield f"cell {number} names {found[0]}, which is one machine's: use a path relative to the repository"
    for number, _, output in outputs(notebook):
        for text in output_texts(output):
            if found := place.search(text):
                yield f"the output of cell {number} names {found[0]}, which is one machine's: print no absolute path"


@rule
def links_resolve(notebook, path):
    for number, _, source in cells(notebook, "markdown"):
        for target in links(source):
            if re.match(r"[a-z][a-z0-9+.-]*:|#", target, re.IGNORECASE):
                continue
            file, _, anchor = target.partition("#")
            file = path.parent / file.replace("%20", " ")
            if not file.exists():
                yield f"cell {number} links to {target}, which does not exist: mend the link"
            elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
                yield f"cell {number} links to {target}, but the page has no such heading: mend the link"


@rule
def nothing_from_outside(notebook, path):
    outside = re.compile(
        r"<script|<iframe|<img[^>]+src=[\"']?(?:https?:)?//|!\[[^\]]*\]\(\s*<?(?:https?:)?//", re.IGNORECASE
    )
    texts = [(number, source) for number, _, source in cells(notebook, "markdown")]
    texts += [(number, text) for number, _, output in outputs(notebook) for text in output_texts(output)]
    for number, text in texts:
        if found := outside.search(text):
            yield f"cell {number} has {found[0]!r}: a page must be whole without a network and without scripts"


# It says only what was measured


@rule
def no_typed_result(notebook, path):
    """A measured number belongs into a figure, a table or a check: typed, it is wrong on the next machine.

    Looks only for what is almost surely a result (a percentage with decimals; an accuracy, a gain or a time with a
    number) and leaves out paragraphs that name a source: a year in brackets, "et al." or a link out.
    """
    number_ = r"\d+(?:[.,]\d+)?"
    result = re.compile(
        rf"\b\d+\.\d+\s?(?:%|percent\b|points\b)"
        rf"|\b{number_}\s?(?:%|percent|points?)\s(?:accura|correct|right|better|worse|higher|lower|more|less|fewer)"
        rf"|\b(?:accuracy|gains?|loss|error)\s(?:of|is|was|reaches|rises to|falls to)\s(?:about\s)?{number_}"
    )
    source_named = re.compile(r"\(?(?:19|20)\d\d\)|et al\.|https?://|\bpublished\b|\barticle\b")
    for number, _, source in cells(notebook, "markdown"):
        for paragraph in re.split(r"\n\s*\n", _without_code(source)):
            found = result.search(paragraph)
            if found and not source_named.search(paragraph):
                yield f"cell {number} types a result, {found[0]!r}: show it in a table, or name its source"


def main(paths: list[str]) -> int:
    found = [f"{path}: {fault}" for path in paths for fault in faults(Path(path))]
    print("\n".join(found) or f"{len(paths)} notebooks, nothing to mend")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
