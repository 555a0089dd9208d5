"""Rules for notebooks: they read the file and run nothing. One file, Python 3.11 and nothing else; copy it.

    python notebook_rules.py [FILES]          one line for each fault; without FILES, the notebooks of the settings
    python notebook_rules.py --all [FILES]    also the faults that the baseline accepts
    python notebook_rules.py --list           every rule, its group, and what to do about its faults
    python notebook_rules.py --baseline       accept the faults that are there now; of a notebook that it knows, only
                                              ever fewer
    python notebook_rules.py --stamp [FILES]  note which sources the saved outputs came from: only after a fresh run

*Portable* rules find faults in any series; *thorough* ones find more, with false alarms for a baseline to accept;
*house* rules are the style of the series this file comes from. Settings are read from the next pyproject.toml at or
above the working directory; all of them can be left out:

    [tool.notebook_rules]
    paths = ["**/*.ipynb"]              # glob patterns
    select = ["portable"]               # groups or names of rules
    ignore = ["reaches_no_network"]
    per-notebook-ignores = {"drafts/*" = ["outputs_present"]}
    baseline = "notebook_rules.json"    # how many faults of each rule each notebook may have
    strict = ["exact/*"]                # for conftest.py: compare all outputs of these notebooks
    measures = ["probability"]          # what numbers in prose are results of, beside accuracy, loss, …

A rule takes a notebook (its JSON) and its path, and yields one sentence for each fault: which cell, and what to do.
Cells are counted from 1, text and code together.
"""

import ast
import builtins
import fnmatch
import functools
import hashlib
import inspect
import json
import re
import symtable
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

LINES, COLUMNS, WORDS, DRAWING, BYTES, ALT = 25, 79, 2600, 0.4, 500_000, 20
CHECKED, HIDDEN = "nbval-check-output", "hide-input"
TAGS = {CHECKED, HIDDEN, "nbval-ignore-output", "raises-exception"}
ENDING = ("Summary", "Exercises", "Next")
FENCED = re.compile(r"^ *(```|~~~).*?^ *\1[^\n]*$", re.MULTILINE | re.DOTALL)
CLAIMS = {"check", "assert"}  # a call of this name, or an assert statement, is a claim
_VALUES = (ast.Name, ast.Subscript, ast.BinOp, ast.Compare, ast.Tuple, ast.List, ast.Dict, ast.JoinedStr)
_SHOWS = {"print", "display", "show", "show_table", "explore", "check"}  # a call of these leaves an output

Rule = Callable[[dict, Path], Iterator[str]]
RULES: dict[str, Rule] = {}
GROUPS: dict[str, list[str]] = {"portable": [], "thorough": [], "house": []}


def rule(group: str):
    """Enter the function below as a rule of a group; its docstring says what is required, and why or how."""

    def enter(function: Rule) -> Rule:
        RULES[function.__name__] = function
        GROUPS[group].append(function.__name__)
        return function

    return enter


# Settings and baseline


class Settings(NamedTuple):
    """What [tool.notebook_rules] says; root: the folder of pyproject.toml."""

    root: Path
    paths: list[str] = ["**/*.ipynb"]  # noqa: RUF012
    select: list[str] = ["portable"]  # noqa: RUF012
    ignore: list[str] = []  # noqa: RUF012
    per_notebook_ignores: dict[str, list[str]] = {}  # noqa: RUF012
    baseline: str = "notebook_rules.json"
    strict: list[str] = []  # noqa: RUF012
    measures: list[str] = []  # noqa: RUF012

    def notebooks(self) -> list[Path]:
        """The notebooks of the series, without hidden folders and those of installed packages."""
        found = {path for pattern in self.paths for path in self.root.glob(pattern)}
        return sorted(
            path
            for path in found
            if not any((folder / "pyvenv.cfg").exists() for folder in path.parents)
            and not any(
                part[0] in "._" or part in ("site-packages", "node_modules") for part in _parts(path, self.root)
            )
        )

    def rules(self, path: Path) -> list[str]:
        """The names of the rules that a notebook has to keep."""
        ignored = set(_expanded(self.ignore))
        for pattern, names in self.per_notebook_ignores.items():
            if fnmatch.fnmatch(self.name(path), pattern):
                ignored |= set(_expanded(names))
        return [name for name in RULES if name in _expanded(self.select) and name not in ignored]

    def is_strict(self, path: Path) -> bool:
        return any(fnmatch.fnmatch(self.name(path), pattern) for pattern in self.strict)

    def name(self, path: Path) -> str:
        return "/".join(_parts(path, self.root))

    def accepted(self) -> dict[str, dict[str, int]]:
        """Notebook -> rule -> number of faults that the baseline accepts."""
        path = self.root / self.baseline
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def settings(start: Path | None = None) -> Settings:
    """The settings of the next pyproject.toml at or above a folder. Raises ValueError for wrong ones."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        if file.exists():
            table = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("notebook_rules", {})
            values = {key.replace("-", "_"): value for key, value in table.items()}
            if unknown := set(values) - set(Settings._fields[1:]):
                raise ValueError(f"{file}: [tool.notebook_rules] has no key {', '.join(sorted(unknown))}")
            found = Settings(folder, **values)
            for names in (found.select, found.ignore, *found.per_notebook_ignores.values()):
                _expanded(names)
            return found
        if (folder / Settings._field_defaults["baseline"]).exists():  # a baseline is where the settings would be
            return Settings(folder)
        if (folder / ".git").exists():
            break
    return Settings(start)


def _expanded(names: list[str]) -> list[str]:
    """Names of rules, groups replaced by theirs. Raises ValueError for a name that is neither."""
    if unknown := set(names) - set(RULES) - set(GROUPS):
        raise ValueError(f"no rule or group is called {', '.join(sorted(unknown))}: see --list")
    return [each for name in names for each in GROUPS.get(name, [name])]


def _parts(path: Path, root: Path) -> tuple[str, ...]:
    path = path.resolve()
    return path.relative_to(root).parts if path.is_relative_to(root) else path.parts


def faults(path: Path, names: list[str]) -> list[tuple[str, str]]:
    """(rule, sentence) for everything that is wrong with a notebook file."""
    notebook = read(path)
    return [(name, fault) for name in names for fault in RULES[name](notebook, path)]


def new_faults(path: Path, chosen: Settings) -> tuple[list[str], int]:
    """The faults of the rules of which a notebook has more than the baseline accepts; how many it accepts in vain."""
    found = faults(path, chosen.rules(path))
    counts, accepted = Counter(name for name, _ in found), chosen.accepted().get(chosen.name(path), {})
    lines = []
    for name, fault in found:
        if counts[name] > (allowed := accepted.get(name, 0)):
            lines.append(f"{fault} [{name}{f', {allowed} accepted' if allowed else ''}]")
    return lines, (Counter(accepted) - counts).total()


def write_baseline(chosen: Settings) -> dict[str, dict[str, int]]:
    """Accept the faults that are there, but no more of a rule than before, except of notebooks that are new or have
    another name. Returns what is accepted now."""
    file, before, accepted = chosen.root / chosen.baseline, chosen.accepted(), {}
    for path in chosen.notebooks():
        counts, name = Counter(name for name, _ in faults(path, chosen.rules(path))), chosen.name(path)
        if name in before:
            counts &= Counter(before[name])
        accepted[name] = dict(sorted(counts.items()))
    others = {name: counts for name, counts in before.items() if not name.endswith(".ipynb")}
    file.write_text(json.dumps(accepted | others, indent=1) + "\n", encoding="utf-8")
    return accepted


def read(path: Path) -> dict:
    """The JSON of a notebook. Raises ValueError for a file that is none of format 4."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): save it again") from error
    if "cells" not in notebook:
        raise ValueError(f"{path} is not in notebook format 4: save it with a current Jupyter")
    return notebook


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
        for marks, text in re.findall(r"^(#{1,6})\s+(.+?)\s*#*$", FENCED.sub("", source), re.MULTILINE):
            yield number, len(marks), text


def sections(notebook: dict) -> Iterator[tuple[int, str, list[dict]]]:
    """First cell, heading and cells of every section (##) but the set-up and the ones that end a lesson."""
    found: list[tuple[int, str, list[dict]]] = []
    starts = {number: text for number, level, text in reversed(list(headings(notebook))) if level == 2}
    for number, cell, _ in cells(notebook):
        if number in starts:
            found.append((number, starts[number], []))
        if found:
            found[-1][2].append(cell)
    aside = re.compile(rf"(?:\d+\.\s*)?(?:{'|'.join(ENDING)}|Set[- ]?up)")
    yield from (each for each in found if not aside.match(each[1]))


def links(source: str) -> Iterator[str]:
    """Targets of the links and pictures of a text cell, those of references included."""
    text = _without_code(source)
    yield from re.findall(r"\]\(\s*<([^>\n]+)>", text)
    yield from re.findall(r"\]\(\s*([^)\s<>(]+(?:\([^)\s]*\)[^)\s(]*)*)", text)
    yield from re.findall(r"""(?:href|src)\s*=\s*["']([^"']+)""", text)
    yield from re.findall(r"^ {0,3}\[[^\]^\n]+\]:\s+<?([^\s>]+)", text, re.MULTILINE)


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


def page_anchors(path: Path) -> set[str]:
    """The anchors of a Markdown file or of a notebook, whose headings may also be named in Jupyter's words."""
    if path.suffix != ".ipynb":
        return anchors(path.read_text(encoding="utf-8"))
    return _notebook_anchors(read(path))


def _notebook_anchors(notebook: dict) -> set[str]:
    text = "\n\n".join(source for _, _, source in cells(notebook, "markdown"))
    jupyters = {re.sub(r"[*_`]", "", heading).replace(" ", "-") for heading in titles(text)}
    return anchors(text) | jupyters | {heading.replace(" ", "-") for heading in titles(text)}


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _without_code(source: str) -> str:
    """Markdown without code blocks, code spans and formulas."""
    source = FENCED.sub("", source)
    source = re.sub(r"\$\$.*?\$\$|<!--.*?-->", "", source, flags=re.DOTALL)
    source = re.sub(r"\$(-?\d[\d.,]*)(?:\\?[{%\\][^$\n]*)?\$", r"\1", source)  # a formula that is a number
    return re.sub(r"(`+)[^\n]+?\1|\$[^$\n]+\$", "", source)


def _paragraphs(source: str) -> list[str]:
    """What Markdown says, paragraph by paragraph, without code, formulas, link targets and HTML tags."""
    text = re.sub(r"(\]\()[^)\s]*|<[^>]+>", r"\1", _without_code(source))
    return [part for part in re.split(r"\n\s*\n", text) if part.strip()]


@functools.cache
def _parsed(source: str) -> list[ast.stmt]:
    """The statements of a code cell; IPython's own lines (%, !, ?) become pass, other syntax errors no statement."""
    try:
        return ast.parse(source).body
    except SyntaxError:
        if re.match(r"\s*%%(?!time|capture|prun)", source):
            return []
        lines = re.sub(r"^([ \t]*)(?:[%!].*|\?.*|[\w.]+\?{1,2}[ \t]*)$", r"\1pass", source, flags=re.MULTILINE)
        lines = re.sub(r"=[ \t]*[%!].*$", "= None", lines, flags=re.MULTILINE)
        try:
            return ast.parse(lines).body
        except SyntaxError:
            return []


def _code(notebook: dict) -> Iterator[tuple[int, dict, list[ast.stmt]]]:
    """Number, cell and statements of every code cell."""
    for number, cell, source in cells(notebook, "code"):
        yield number, cell, _parsed(source)


def _calls(nodes: list[ast.stmt]) -> Iterator[tuple[str, ast.Call]]:
    """Dotted name and node of every call in these statements, in their order."""
    for node in nodes:
        for part in ast.walk(node):
            if isinstance(part, ast.Call):
                yield _dotted(part.func), part


def _dotted(node: ast.expr) -> str:
    """numpy.random.rand for that expression; what stands before the dots may be anything."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _flow(statements: list[ast.stmt], over: tuple[ast.stmt, ...] = ()) -> Iterator[tuple[ast.stmt, tuple]]:
    """Every simple statement that a cell runs itself, and the compound statements around it; no function bodies."""
    for node in statements:
        inner = [getattr(node, part, []) for part in ("body", "orelse", "finalbody")]
        inner += [handler.body for handler in getattr(node, "handlers", [])]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        if not any(inner):
            yield node, over
        for body in inner:
            yield from _flow(body, (*over, node))


def _is_claim(node: ast.stmt) -> bool:
    called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _dotted(node.value.func)
    return (isinstance(node, ast.Assert) and "assert" in CLAIMS) or bool(called and called.split(".")[-1] in CLAIMS)


# Portable: it was run from top to bottom, and shows it


@rule("portable")
def run_in_order(notebook, path):
    """The cells were executed from top to bottom in a fresh kernel, and saved."""
    counts = [cell["execution_count"] for _, cell, source in cells(notebook, "code") if source.strip()]
    if counts != list(range(1, len(counts) + 1)):
        wrong = next(i for i, count in enumerate(counts, start=1) if count != i)
        yield (
            f"code cell {wrong} has execution count {counts[wrong - 1]}, not {wrong}: "
            "restart the kernel, run all cells in order, save"
        )


@rule("portable")
def names_are_defined(notebook, path):
    """Every name that a cell uses is bound in it or in a cell above: deleted and swapped cells show."""
    known = {*dir(builtins), "__file__", "get_ipython", "display", "In", "Out", "exit", "quit"}
    later: dict[str, int] = {}  # what functions use, and the first cell with one
    for number, cell, source in cells(notebook, "code"):
        if re.search(r"^\s*%(run|pylab|load|store)|\bexec\(|\bimport \*|globals\(\)", source, re.MULTILINE):
            return  # binds names that cannot be read here
        bound, used, deferred = _names(source)
        for name in deferred:
            later.setdefault(name, number)
        known |= bound
        if "raises-exception" not in tags(cell) and not any(o["output_type"] == "error" for o in cell["outputs"]):
            for name in sorted(used - known):
                yield f"cell {number} uses {name}, which no cell above binds: put its definition before it"
    for name, number in later.items():
        if name not in known:
            yield f"a function in cell {number} uses {name}, which no cell binds: define it"


@functools.cache
def _names(source: str) -> tuple[set[str], set[str], set[str]]:
    """The names that a cell binds, that it looks up while it runs, and that its functions look up when called."""
    table = symtable.symtable(ast.unparse(ast.Module(_parsed(source), [])), "cell", "exec")
    bound = {each.get_name() for each in table.get_symbols() if each.is_assigned() or each.is_imported()}
    used = {each.get_name() for each in table.get_symbols() if each.is_referenced()}
    deferred: set[str] = set()
    for name, at_once, binds in _free(table):
        (bound if binds else used if at_once else deferred).add(name)
    blanks = {name for name in used | deferred if not name.strip("_")}  # for the reader to fill in
    return bound, used - blanks, deferred - blanks


def _free(table: symtable.SymbolTable) -> Iterator[tuple[str, bool, bool]]:
    """Global names of the scopes below one: name, whether it is looked up when the cell runs, whether it is bound."""
    for child in table.get_children():
        at_once = child.get_type() == "class" or child.get_name() in ("listcomp", "setcomp", "dictcomp", "genexpr")
        for each in child.get_symbols():
            if each.is_declared_global() and each.is_assigned():
                yield each.get_name(), False, True
            elif each.is_global() and each.is_referenced():
                yield each.get_name(), at_once, False
        for name, now, binds in _free(child):
            yield name, now and at_once, binds


@rule("portable")
def outputs_present(notebook, path):
    """What prints or shows something has an output, also in a loop, and so has a value on the last line."""
    for number, cell, statements in _code(notebook):
        words = [
            output["data"].get("text/plain", "") for output in cell["outputs"] if len(output.get("data", "")) == 1
        ]
        if any(re.match(r"<Figure size .* Axes>", _joined(each)) for each in words):
            yield f"cell {number} shows a figure as words, its picture is lost: see why it draws nothing, and run it"
        if cell["outputs"] or "raises-exception" in tags(cell):
            continue
        last = statements[-1].value if statements and isinstance(statements[-1], ast.Expr) else None
        if isinstance(last, _VALUES) and not _joined(cell["source"]).rstrip().endswith(";"):
            yield f"cell {number} ends with a value but has no output: run it and save with outputs"
            continue
        for node, over in _flow(statements):
            if any(isinstance(each, (ast.If, ast.Try, ast.With)) for each in over):
                continue  # may be skipped, or be captured
            call = node.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
            name = _dotted(call.func).split(".")[-1] if call else ""
            if name in _SHOWS and not any(keyword.arg == "file" for keyword in call.keywords):
                yield f"cell {number} calls {name} but has no output: run it and save with outputs"
                break


@rule("portable")
def outputs_belong_to_their_sources(notebook, path):
    """Sources and outputs are those of the last --stamp: an edit without a new run, or an edited output, shows."""
    noted = notebook["metadata"].get("notebook_rules", {}).get("stamp")
    if noted is None:
        return
    numbers, now = [number for number, _, _ in cells(notebook, "code")], stamp(notebook)
    if len(noted) != len(now):
        yield f"the stamp is of {len(noted)} code cells, there are {len(now)}: run it, save, and stamp it again"
    elif noted != now:
        number = next(number for number, old, new in zip(numbers, noted, now, strict=True) if old != new)
        yield f"cell {number} or its output changed after the last run: run the notebook, save, and stamp it again"


def stamp(notebook: dict) -> list[str]:
    """For each code cell a digest of its outputs, addresses in memory left out, and of all sources above."""
    above, found = hashlib.sha256(), []
    for _, cell, source in cells(notebook, "code"):
        above.update(source.encode() + b"\0")
        shown = [
            {key: value for key, value in output.items() if key != "execution_count"} for output in cell["outputs"]
        ]
        said = re.sub(r"\b0x[0-9a-f]{6,}", "0x", json.dumps(_plain(shown), sort_keys=True))
        found.append(hashlib.sha256(above.digest() + said.encode()).hexdigest()[:8])
    return found


def _plain(value):
    """JSON in which a list of lines is one text: tools save the same output either way."""
    if isinstance(value, list):
        return "".join(value) if value and all(isinstance(each, str) for each in value) else [*map(_plain, value)]
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, dict) else value


@rule("portable")
def no_failed_cell(notebook, path):
    """No saved error that is not tagged as meant."""
    for number, cell, output in outputs(notebook):
        if output["output_type"] == "error" and "raises-exception" not in tags(cell):
            yield f"cell {number} failed with {output['ename']}: fix it, or tag it raises-exception if that is meant"


@rule("portable")
def claims_can_fail(notebook, path):
    """No check or assert that a branch skips silently, that a try catches, or in a cell tagged as raising."""
    for number, cell, statements in _code(notebook):
        for node, over in _flow(statements):
            if not _is_claim(node):
                continue
            caught = any(isinstance(each, ast.Try) and each.handlers and _within(node, each.body) for each in over)
            if caught or any(
                isinstance(each, ast.With) and "suppress" in ast.unparse(each.items[0]) for each in over
            ):
                yield f"cell {number} makes a claim inside try, which hides its failure: take it out"
            elif any(isinstance(each, ast.If) and not each.orelse for each in over):
                yield f"cell {number} makes a claim inside if, which may skip it: make it in every case"
            elif "raises-exception" in tags(cell):
                yield f"cell {number} makes a claim but is tagged raises-exception, so it may fail: move it out"


def _within(node: ast.stmt, body: list[ast.stmt]) -> bool:
    return any(part is node for each in body for part in ast.walk(each))


@rule("portable")
def no_exception_is_swallowed(notebook, path):
    """No handler of every exception that only passes or prints."""
    for number, _, statements in _code(notebook):
        for node in (part for each in statements for part in ast.walk(each)):
            if isinstance(node, ast.ExceptHandler):
                name = node.type and _dotted(node.type)
                idle = all(isinstance(each, (ast.Pass, ast.Continue, ast.Break, ast.Expr)) for each in node.body)
                names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
                silent = idle and node.name not in names
                if name in (None, "Exception", "BaseException") and silent:
                    yield f"cell {number} swallows every exception: name the expected one, or show what failed"
            elif isinstance(node, ast.With) and re.search(
                r"suppress\((Base)?Exception\)", ast.unparse(node.items[0])
            ):
                yield f"cell {number} suppresses every exception: name the one that is expected"


_DRAWS = {
    "numpy": r"(np|numpy)\.random\.(?!seed|default_rng|Generator|RandomState|SeedSequence|[gs]et_state|PCG|MT)\w+",
    "torch": r"torch\.(rand|randn|randint|randperm|normal|bernoulli|multinomial|rand_like|randn_like|randint_like)",
    "random": r"random\.(random|randint|randrange|choice|choices|sample|shuffle|uniform|gauss|normalvariate)",
    "tensorflow": r"tf\.random\.(?!set_seed|Generator|experimental)\w+",
}
_SEEDS = {
    "numpy": r"(np|numpy)\.random\.seed",
    "torch": r"torch\.(cuda\.)?manual_seed(_all)?",
    "random": r"random\.seed",
    "tensorflow": r"tf\.random\.set_seed",
}


@rule("portable")
def draws_are_seeded(notebook, path):
    """Random numbers come after a seed, whether or not their output is compared."""
    seeded: set[str] = set()
    for number, _, statements in _code(notebook):
        unseeded = ""
        for name, call in sorted(_calls(statements), key=lambda each: (each[1].lineno, each[1].col_offset)):
            libraries = [library for library, seed in _SEEDS.items() if re.fullmatch(seed, name)]
            if not libraries and re.search(r"seed", name.split(".")[-1], re.IGNORECASE):
                libraries = list(_SEEDS)  # set_random_seed, seed_everything
            seeded |= set(libraries)
            if re.fullmatch(r"(np\.random\.|numpy\.random\.)?(default_rng|RandomState)", name) and not (
                call.args or call.keywords
            ):
                unseeded = unseeded or name
            for library, draw in _DRAWS.items():
                own = any(keyword.arg in ("generator", "seed", "key") for keyword in call.keywords)
                if re.fullmatch(draw, name) and library not in seeded and not own:
                    unseeded = unseeded or name
        if unseeded:
            yield f"cell {number} calls {unseeded} without a seed: set one above it, so that every run draws the same"


# Portable: what it says is what it shows


_NUMBER = r"(?<![\w.,/-])-?\d+(?:,\d{3})*(?:\.\d+)?"
_MEASURE = (
    r"accurac(?:y|ies)|precision|recall|F1|score|loss|error|R?MSE|MAE|AUR?O?C|gain|perplexity|correlation|ECE|NLL"
)


@functools.cache
def _said(measures: tuple[str, ...]) -> re.Pattern:
    """What states a result: a number beside one of the words above or of these."""
    words = "|".join([_MEASURE, *map(re.escape, measures)])
    after = "|".join(
        [r"accura\w+|correct|right|better|worse|higher|lower|fewer|faster|slower|smaller", *map(re.escape, measures)]
    )
    value = rf"\**({_NUMBER})\**\s?(%|percent)?"
    return re.compile(
        rf"\b(?:{words})\b[^.;:\d\n|]{{0,24}}?\b(?:of|is|was|to|at|about|around|reaches|by|only|over|under)\s"
        rf"(?:about\s|around\s|only\s|roughly\s|~)?{value}"
        rf"|\b(?:differ|differs|differed|rises?|falls?|drops?|improves?)\s(?:by|to)\s(?:about\s)?{value}"
        rf"|\**({_NUMBER})\**\s?(%|percent|points?|times)\s(?:{after})",
        re.IGNORECASE,
    )


_SOURCE = re.compile(  # a source, or what is expected and not yet found
    r"\(?(?:19|20)\d\d\)|et al\.|https?://|\bpublished\b|\barticle\b|\bpaper\b|\bfor example\b|\be\.g\."
    r"|\bshould (?:get|be|obtain|reach)\b|\blikely\b|\bexercise\b|\bfor reference\b|\bsee if you can\b",
    re.IGNORECASE,
)


@rule("portable")
def numbers_in_prose_are_shown(notebook, path):
    """A result in prose, or in a table of it, is a number of an output beside it (or of the code there), rounded."""
    every, states = list(cells(notebook)), _said(tuple(settings(path.parent).measures))
    for number, _, source in cells(notebook, "markdown"):
        beside = every[max(0, number - 7) : number + 4]
        shown = [value for _, cell, text in beside if cell["cell_type"] == "code" for value in _values(cell, text)]
        if not any(cell.get("outputs") for _, cell, _ in beside):
            continue
        for raw in re.split(r"\n\s*\n", source):
            if _SOURCE.search(raw):
                continue
            paragraph = "".join(_paragraphs(raw))
            said = [[each for each in found.groups() if each] for found in states.finditer(paragraph)]
            if re.search(r"^\s*\|[\s:|-]+\|\s*$", paragraph, re.MULTILINE):
                said += [[each] for each in re.findall(r"(?<![\w.,/-])\d+\.\d+(?!\.?\d)", paragraph)]
            for value in said:
                if not _is_among(value[0], shown):
                    yield f"cell {number} says {' '.join(value)}, which no output beside it shows: print it"
                    break


ANY_NUMBER = re.compile(r"(?<![\w.,/#§–-])(\d[\d,]*(?:\.\d+)?)(?:/(\d+))?(?![\w/-])(\s?(?:%|percent))?")
NO_RESULT = re.compile(r"(?:19|20)\d\d|\d")  # a year, one digit


@rule("thorough")
def every_number_in_prose_is_shown(notebook, path):
    """A number of two digits or more, or a fraction, in prose is also in the code or the outputs beside it."""
    every = list(cells(notebook))
    for number, _, source in cells(notebook, "markdown"):
        beside = every[max(0, number - 7) : number + 4]
        shown = [value for _, cell, text in beside if cell["cell_type"] == "code" for value in _values(cell, text)]
        for paragraph in _paragraphs(source):
            if re.search(r"\((?:19|20)\d\d|et al\.", paragraph):  # published ones
                continue
            for said, under, percent in ANY_NUMBER.findall(paragraph):
                said = said.rstrip(",")
                if under and float(under):
                    value = float(said.replace(",", "")) / float(under)
                    parts = {float(said.replace(",", "")), float(under)}
                    fits = parts <= set(shown) or any(abs(each - value) < 1e-3 for each in shown)
                else:
                    factors = (1, 0.01, 100) if percent else (1,)
                    fits = bool(NO_RESULT.fullmatch(said)) or _is_among(said, shown, factors)
                if not fits:
                    words = f"{said}/{under}" if under else said + percent
                    yield f"cell {number} says {words}, which nothing beside it shows: print it, or accept it"


def _values(cell: dict, source: str) -> Iterator[float]:
    """The numbers of a code cell: of its text outputs and of its source."""
    for text in (source, *(text for output in cell["outputs"] for text in output_texts(output))):
        yield from (
            float(each.replace("_", "").replace(",", ""))
            for each in re.findall(r"\d[\d,_]*\.?\d*(?:e[+-]?\d+)?", text)
            if re.match(r"[\d.,_]+(e[+-]?\d+)?$", each) and each.strip(",_")
        )


def _is_among(said: str, shown: list[float], factors: tuple = (1, 100, 0.01)) -> bool:
    """Whether a number, by default as a share or in per cent, is one of these rounded to its decimals."""
    value, digits = abs(float(said.replace(",", ""))), len(said.partition(".")[2])
    half = 0.5001 * 10.0**-digits
    return any(abs(factor * each - value) <= half for each in shown for factor in factors)


# Portable: it can be read, by anybody and anywhere


@rule("portable")
def alternative_text(notebook, path):
    """Every picture is described: in Markdown in words that are no filler, in an output in at least 20 characters."""
    for number, _, output in outputs(notebook):
        for kind in output.get("data", {}):
            if kind.startswith("image/"):
                alt = output.get("metadata", {}).get(kind, {}).get("alt", "")
                if len(alt.strip()) < ALT or _is_filler(alt):
                    yield (
                        f"cell {number} shows a picture without a description: show it with "
                        'display(figure, metadata={"image/png": {"alt": "what it shows"}})'
                    )
    for number, _, source in cells(notebook, "markdown"):
        text = _without_code(source)
        said = re.findall(r"!\[([^\]]*)\][\[(]", text)
        for picture in re.findall(r"<img\b[^>]*>", text):
            alt = re.search(r"""alt\s*=\s*(?:"([^"]*)"|'([^']*)')""", picture)
            said.append((alt[1] or alt[2] or "") if alt else "")
        for alt in said:
            if _is_filler(alt):
                yield f"cell {number} has a picture whose alternative text is {alt!r}: say what it shows"


_FILLERS = "image images picture figure fig plot chart graph screenshot img photo alt text diagram a an the of todo"


def _is_filler(alt: str) -> bool:
    """Whether a description says nothing: no words, words for any picture, a file's name, one word repeated."""
    words = re.findall(r"\w+", alt.lower())
    empty = set(_FILLERS.split())
    file = re.fullmatch(r"\S+\.(png|jpe?g|svg|gif|webp)", alt.strip(), re.IGNORECASE)
    return (
        bool(file) or not {word for word in words if not word.isdigit()} - empty or len(words) > 2 > len(set(words))
    )


@rule("portable")
def no_widget_state(notebook, path):
    """Nothing is saved that keeps GitHub from showing the page."""
    if "widgets" in notebook["metadata"]:
        yield "metadata.widgets is saved, which stops GitHub from showing the page: delete it"
    for number, _, output in outputs(notebook):
        if any("widget-view" in kind for kind in output.get("data", {})):
            yield f"cell {number} has a widget as its output: keep only its text form"


_PLACE = re.compile(
    r"(?<![\w.:/~-])/(?:home|root|Users|Volumes|work|tmp|mnt|opt|var|content|kaggle|private)/[^\s'\")\]]+"
    r"|\bfile:/+[^\s'\")\]]+|(?<![\w/])(?:[A-Za-z]:[\\/]+(?:Users|home)|[A-Z]:[\\/]+\w+[\\/])[\w.\\/-]*"
)


@rule("portable")
def no_path_of_a_machine(notebook, path):
    """No absolute path of one machine, of Colab or of a volume, in sources and outputs."""
    for number, _, source in cells(notebook):
        if found := _PLACE.search(source):
            yield f"cell {number} names {found[0]}, which is one machine's: use a path relative to the repository"
    for number, _, output in outputs(notebook):
        for text in output_texts(output):
            if found := _PLACE.search(text):
                yield f"the output of cell {number} names {found[0]}, which is one machine's: print no absolute path"


@rule("portable")
def links_resolve(notebook, path):
    """Links lead to files, headings, references and attachments that are there; addresses are not asked."""
    references = {
        name.lower()
        for _, _, source in cells(notebook, "markdown")
        for name in re.findall(r"^ {0,3}\[([^\]^\n]+)\]:", _without_code(source), re.MULTILINE)
    }
    for number, cell, source in cells(notebook, "markdown"):
        for target in links(source):
            if target.startswith("attachment:"):
                if unquote(target.partition(":")[2]) not in cell.get("attachments", {}):
                    yield f"cell {number} shows {target}, which is not attached to it: attach the picture again"
                continue
            if re.match(r"[a-z][a-z0-9+.-]*:|//|#$", target, re.IGNORECASE):
                continue
            file, _, part = unquote(target).partition("#")
            aim = path.parent / file.partition("?")[0] if file else path
            if file and not aim.exists():
                yield f"cell {number} links to {target}, which does not exist: fix the link"
            elif part and (not file or aim.suffix in (".md", ".ipynb")):
                there = page_anchors(aim) if file else _notebook_anchors(notebook)
                if part not in there and part.lower() not in {each.lower() for each in there}:
                    yield f"cell {number} links to {target}, but there is no such heading: fix the link"
        for words, name in re.findall(r"\[([^\]\[\n]+)\]\[([^\]\n]*)\]", _without_code(source)):
            if (name or words).lower() not in references:
                yield f"cell {number} refers to [{name or words}], which is defined nowhere: define it"


_FETCHES = re.compile(
    r"(.*\.)?(urlopen|urlretrieve|from_pretrained|hf_hub_download|snapshot_download|load_dataset|fetch_openml|YouTubeVideo)"
    r"|(.*\.)?hub\.load\w*|requests\.(get|post|head|request|Session)|httpx\.\w+|wget\.download|gdown\.\w+"
)


@rule("portable")
def reaches_no_network(notebook, path):
    """No cell fetches anything, on no branch: what it needs is in the repository, or fetched once by a set-up."""
    for number, _, statements in _code(notebook):
        for name, call in _calls(statements):
            first = call.args[0] if call.args else None
            address = isinstance(first, ast.Constant) and re.match(r"(https?|ftp|s3|gs)://", str(first.value))
            reads = re.match(r"(read_|load|get_file|open)", name.split(".")[-1])
            if _FETCHES.fullmatch(name) or (address and reads):
                yield f"cell {number} calls {name}, which needs a network: keep the file here"
                break


# House: its shape


@rule("house")
def three_checked_cells(notebook, path):
    """At least three cells whose output is compared."""
    checked = [(number, cell) for number, cell, _ in cells(notebook, "code") if CHECKED in tags(cell)]
    if len(checked) < 3:
        yield f"{len(checked)} cells are tagged {CHECKED}: tag at least three whose output is the same everywhere"
    for number, cell in checked:
        if not cell["outputs"]:
            yield f"cell {number} is tagged {CHECKED} but has no output to compare: run it and save, or untag it"


@rule("house")
def known_tags(notebook, path):
    """Tags that the tests and the site read, and no comments that steer nbval."""
    for number, cell, source in cells(notebook):
        for tag in sorted(set(tags(cell)) - TAGS):
            yield f"cell {number} has the tag {tag}, which is not one of {', '.join(sorted(TAGS))}: take it off"
        if cell["cell_type"] == "code" and re.search(r"#\s*(NBVAL|PYTEST_VALIDATE)_", source):
            yield f"cell {number} steers nbval by a comment, which readers see: use a tag"


@rule("house")
def checks_named_after_the_notebook(notebook, path):
    """`checks.begin` names the file."""
    named = [
        (number, call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None)
        for number, _, statements in _code(notebook)
        for name, call in _calls(statements)
        if name.split(".")[-1] == "begin"
    ]
    if not named:
        yield f'no cell calls checks.begin("{path.stem}"): do so before the first check'
    for number, name in named:
        if name != path.stem:
            yield f'cell {number} begins the checks of {name}: say checks.begin("{path.stem}")'


@rule("house")
def small_file(notebook, path):
    """Less than 500 KB."""
    size = len(json.dumps(notebook, indent=1, ensure_ascii=False).encode())
    if size >= BYTES:
        yield f"the file has {size / 1000:.0f} KB, more than {BYTES / 1000:.0f}: show fewer or smaller pictures"


@rule("house")
def one_title_first(notebook, path):
    """One title, in the first cell."""
    first = notebook["cells"][0]
    if first["cell_type"] != "markdown" or not re.match(r"# \S", _joined(first["source"])):
        yield "the first cell does not begin with the title: start it with '# '"
    titles = [number for number, level, _ in headings(notebook) if level == 1]
    if len(titles) != 1:
        yield f"there are titles (one #) in cells {titles}: keep the first, make the others ##"


@rule("house")
def heading_levels_in_order(notebook, path):
    """No level of headings is skipped."""
    before = 0
    for number, level, text in headings(notebook):
        if level > before + 1:
            yield f"cell {number} skips from heading level {before} to {level} at {text!r}: use {'#' * (before + 1)}"
        before = level


@rule("house")
def ends_with_summary_exercises_next(notebook, path):
    """The last sections are Summary, Exercises, Next."""
    last = [text for _, level, text in headings(notebook) if level == 2][-3:]
    if len(last) < 3 or not all(text.startswith(name) for text, name in zip(last, ENDING, strict=True)):
        yield f"the last sections are {', '.join(last) or 'none'}: end with ## {', ## '.join(ENDING)}"


@rule("house")
def three_exercises(notebook, path):
    """Three exercises, numbered, with hints or answers under `<details>`."""
    texts = "\n\n".join(_without_code(source) for _, _, source in cells(notebook, "markdown"))
    section = re.search(r"^## Exercises.*?$(.*?)(?=^## |\Z)", texts, re.MULTILINE | re.DOTALL)
    body = re.sub(r"<details>.*?</details>", "", section[1], flags=re.DOTALL) if section else ""
    ways = (r"^### ", r"^\*\*(?:Exercise )?\d", r"^\d+[.)]\s")
    count = next((n for n in (len(re.findall(way, body, re.MULTILINE)) for way in ways) if n), 0)
    if count != 3:
        yield f"the section Exercises holds {count} exercises: number three of them, 1. 2. 3."


@rule("house")
def length(notebook, path):
    """At most 2,600 words, code and formulas not counted."""
    words = sum(len(part.split()) for _, _, source in cells(notebook, "markdown") for part in _paragraphs(source))
    if words > WORDS:
        yield f"there are {words} words, more than {WORDS}: cut what the question of the lesson does not need"


@rule("house")
def sections_conclude(notebook, path):
    """Every section states a finding, guarded by a check."""
    for number, heading, inside in sections(notebook):
        if not any(_claims(cell) for cell in inside):
            yield f"the section {heading!r} in cell {number} has no check: guard what it found, or join it to another"


@rule("house")
def sections_show(notebook, path):
    """Every section has a figure or a table."""
    for number, heading, inside in sections(notebook):
        shown = [kind for cell in inside for output in cell.get("outputs", []) for kind in output.get("data", {})]
        tables = [
            cell for cell in inside if re.search(r"^\s*\|[\s:|-]+\|\s*$", _joined(cell["source"]), re.MULTILINE)
        ]
        if not tables and not {"image/png", "image/svg+xml", "text/html", "text/markdown"} & set(shown):
            yield f"the section {heading!r} in cell {number} has no figure and no table: show what it found"


def _claims(cell: dict) -> bool:
    statements = _parsed(_joined(cell["source"])) if cell["cell_type"] == "code" else []
    return any(_is_claim(node) for node, _ in _flow(statements))


@rule("house")
def code_shows_the_idea(notebook, path):
    """At most 40 % of the visible code lines draw or tabulate; cells tagged hide-input are not visible."""
    drawing, total = 0, 0
    drawers = {"plt", "plots", "widgets", "fig", "figure", "ax", "axes", "axis", "display"}
    for _, cell, statements in _code(notebook):
        for node in (part for each in statements for part in ast.walk(each) if isinstance(part, ast.stmt)):
            names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            if isinstance(node, (ast.Assign, ast.For)) and names & drawers:
                value = node.value if isinstance(node, ast.Assign) else node.iter
                if {part.id for part in ast.walk(value) if isinstance(part, ast.Name)} & drawers:
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    drawers |= {part.id for each in targets for part in ast.walk(each) if isinstance(part, ast.Name)}
            if HIDDEN not in tags(cell) and not hasattr(node, "body"):
                lines = node.end_lineno - node.lineno + 1
                total, drawing = total + lines, drawing + lines * bool(names & drawers)
    if drawing > DRAWING * total:
        yield (
            f"{100 * drawing / total:.0f} % of the visible code draws, more than {100 * DRAWING:.0f} %: "
            f"move drawing into functions, or tag its cells {HIDDEN}"
        )


@rule("house")
def short_cells(notebook, path):
    """At most 25 lines of 79 columns in a visible cell, so that nothing wraps on a projector."""
    for number, cell, source in cells(notebook, "code"):
        lines = source.splitlines()
        if len(lines) > LINES and HIDDEN not in tags(cell):
            yield f"cell {number} has {len(lines)} lines, more than {LINES}: split it, or move a part to the package"
        for line in lines:
            if len(line) > COLUMNS:
                start = line.strip()[:40]
                yield f"cell {number} has a line of {len(line)} columns, more than {COLUMNS}: break {start!r}"


# House: it runs anywhere


@rule("house")
def plain_python(notebook, path):
    """No `!` and no `%` lines."""
    for number, _, source in cells(notebook, "code"):
        try:
            ast.parse(source)
        except SyntaxError as error:
            yield f"cell {number} is not plain Python ({error.msg}, line {error.lineno}): no ! and no % lines"


@rule("house")
def nothing_installed(notebook, path):
    """No installing, cloning or shelling out."""
    for number, _, source in cells(notebook, "code"):
        found = re.search(r"\b(pip3? install|conda install|git clone|wget|os\.system|subprocess)\b", source)
        if found:
            yield f"cell {number} says {found[0]}: what a notebook needs is set up by make or environment.yml"


@rule("house")
def nothing_from_outside(notebook, path):
    """No scripts, frames or pictures from elsewhere: a page is whole without a network."""
    outside = re.compile(
        r"<script|<iframe|<img[^>]+src=[\"']?(?:https?:)?//|!\[[^\]]*\]\(\s*<?(?:https?:)?//", re.IGNORECASE
    )
    texts = [(number, source) for number, _, source in cells(notebook, "markdown")]
    texts += [(number, text) for number, _, output in outputs(notebook) for text in output_texts(output)]
    for number, text in texts:
        if found := outside.search(text):
            yield f"cell {number} has {found[0]!r}: a page must be whole without a network and without scripts"


# House: its words


@rule("house")
def no_typed_result(notebook, path):
    """Measured numbers are shown, not typed: typed, they are wrong on the next machine. Published ones name a source.

    Looks only for what is almost surely a result (a percentage with decimals; an accuracy, a gain or a time with a
    number; a table of decimals) and leaves out paragraphs with a source: a year in brackets, "et al.", a link out.
    """
    number_ = r"\d+(?:[.,]\d+)?"
    result = re.compile(
        rf"\b\d+\.\d+\s?(?:%|percent\b|points\b)"
        rf"|\b{number_}\s?(?:%|percent|points?|times)\s(?:accura|correct|right|better|worse|higher|lower|more|less|fewer)"
        rf"|\b(?:accuracy|gains?|loss|error)\s(?:of|is|was|reaches|rises to|falls to)\s(?:about\s)?{number_}"
        rf"|\bdiffers?\sby\s(?:about\s)?\d+[.,]\d+|^\s*\|[^\n]*\|\s*\d+\.\d+\s*\|",
        re.MULTILINE,
    )
    source_named = re.compile(r"\(?(?:19|20)\d\d\)|et al\.|https?://|\bpublished\b|\barticle\b")
    for number, _, source in cells(notebook, "markdown"):
        for paragraph in re.split(r"\n\s*\n", _without_code(source)):
            found = result.search(paragraph)
            if found and not source_named.search(paragraph):
                yield f"cell {number} types a result, {found[0].strip()!r}: show it in a table, or name its source"


# What to avoid -> what to write. Words first, then patterns that read as if translated.
AVOID = {
    r"mend(?:s|ed|ing)?": "fix",
    r"foretell\w*|foretold": "predict",
    r"errs?|erred": "make mistakes, be wrong",
    r"endlessly(?: many)?": "an infinite number of",
    r"(?:by heart|learnt by heart)": "memorise",
    r"veterans?|whims?|in earnest|puts? to shame|henceforth|whence|whereof": "a plain word",
    r"equal means": "the same budget",
    r"shares? out": "sum to",
    r"images? as (?:they are|it is)": "unaugmented images",
    r"(?:says?|said) of (?:an?|the|each|every) (?:image|images|view)": "predicts for",
    r"speaks? (?:for|against)": "is evidence for, against",
    r"knows? (?:itself|nothing|doubt)|hardly knows|judges nobody|in any company": "what happens, and what does it",
    r"said once, plainly|one (?:line|marker|row|colou?r) an? \w+": "a full sentence with its articles",
    r"is no (?:tensor|folder|class|module|finite number|file|number|list|dict|network)": "is not a, must be a",
    r"names no (?:folder|file|class)|the real thing|a coin's worth": "the field's phrase",
}  # fmt: skip
_AVOIDED = re.compile("|".join(rf"\b(?:{pattern})\b" for pattern in AVOID), re.IGNORECASE)


def avoided(text: str) -> Iterator[tuple[str, str]]:
    """The words and patterns to avoid in a text, and what to write instead."""
    for found in _AVOIDED.finditer(text):
        yield (
            found[0],
            next(cure for pattern, cure in AVOID.items() if re.fullmatch(pattern, found[0], re.IGNORECASE)),
        )


@rule("house")
def plain_words(notebook, path):
    """The field's words in full sentences: none of the words and patterns of AVOID, in prose and in claims."""
    for number, cell, source in cells(notebook):
        said = "\n".join(_paragraphs(source)) if cell["cell_type"] == "markdown" else ""
        if cell["cell_type"] == "code":
            calls = _calls(_parsed(source))
            said = "\n".join(
                str(call.args[0].value)
                for name, call in calls
                if name.split(".")[-1] in CLAIMS and call.args and isinstance(call.args[0], ast.Constant)
            )
        for words, cure in avoided(said):
            yield f"cell {number} says {' '.join(words.split())!r}: say instead: {cure}"


# The command


def cures(function: Rule) -> list[str]:
    """What the sentences of a rule say after their first colon."""
    found = []
    for node in ast.walk(ast.parse(inspect.getsource(function))):
        if isinstance(node, ast.Yield) and isinstance(node.value, (ast.JoinedStr, ast.Constant)):
            parts = node.value.values if isinstance(node.value, ast.JoinedStr) else [node.value]
            said = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
            found.append(said.partition(": ")[2])
    return [*dict.fromkeys(filter(None, found))]


def main(arguments: list[str]) -> int:
    options = {each for each in arguments if each.startswith("-")}
    if unknown := options - {"--all", "--list", "--baseline", "--stamp"}:
        print(f"no option is called {', '.join(sorted(unknown))}\n\n{__doc__}", file=sys.stderr)
        return 2
    if "--list" in options:
        for group, names in GROUPS.items():
            print(group)
            for name in names:
                print(f"  {name:33} {RULES[name].__doc__.splitlines()[0]}")
                print("".join(f"{'':38}{cure}\n" for cure in cures(RULES[name])), end="")
        return 0
    try:
        return _apply(options, [Path(each) for each in arguments if not each.startswith("-")])
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def _apply(options: set[str], paths: list[Path]) -> int:
    chosen = settings()
    paths = paths or chosen.notebooks()
    if not paths:
        raise ValueError(f"no notebook matches {', '.join(chosen.paths)} in {chosen.root}: name some, or set paths")
    if "--stamp" in options:
        stamped = 0
        for path in paths:
            notebook = read(path)
            if unrun := [*run_in_order(notebook, path), *outputs_present(notebook, path)]:
                print(f"{path} is not stamped: {unrun[0]}")
            else:
                write_stamp(path)
                stamped += 1
        print(f"stamped {stamped} of {len(paths)} notebooks")
    if "--baseline" in options:
        count = sum(sum(counts.values()) for counts in write_baseline(chosen).values())
        print(f"{chosen.baseline} accepts {count} faults")
    if "--all" in options:
        chosen = chosen._replace(baseline="")
    compared = {path: new_faults(path, chosen) for path in paths}
    found = [f"{path}: {fault}" for path, (lines, _) in compared.items() for fault in lines]
    print("\n".join(found) or f"{len(paths)} notebooks, nothing new to fix")
    if gone := sum(count for _, count in compared.values()):
        print(f"{gone} accepted faults are gone: run --baseline, so that they do not come back")
    return bool(found)


def write_stamp(path: Path) -> None:
    """Note in a notebook's metadata which sources its outputs came from; nothing else in the file changes."""
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    notebook["metadata"].setdefault("notebook_rules", {})["stamp"] = stamp(notebook)
    indent = len(re.match(r"\{\n?( *)", text)[1]) or None
    path.write_text(
        json.dumps(notebook, indent=indent, ensure_ascii=False) + "\n" * text.endswith("\n"), encoding="utf-8"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
