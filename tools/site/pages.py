"""Lays out what Sphinx reads: the repository's own Markdown and notebooks, with links that lead on in the site.

    python tools/site/pages.py build/site-source

Nothing is written twice: README.md becomes the start page, every notebook and every page of course/ and docs/ a page
of its own, and the package's docstrings, read without importing anything, the API reference. A relative link that
works in the repository works in the site: to a page, to a module's reference, to a page that shows the file, to a
copy of a file that is data, or to a list, for a folder. DISTILL_LANGUAGE=zh lays out the Chinese edition, build/zh.
"""

import ast
import json
import os
import posixpath
import re
import shutil
import sys
import textwrap
from pathlib import Path

LANGUAGE = os.environ.get("DISTILL_LANGUAGE") or "en"
ROOT = Path(__file__).resolve().parents[2] / ("" if LANGUAGE == "en" else f"build/{LANGUAGE}")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
CHINESE = {
    "Lessons": "课程", "Course": "教学", "Package": "软件包", "About the series": "关于本系列",
    "Notebook": "笔记本", "Slides": "幻灯片", "API reference": "API 参考",
}  # fmt: skip

import launch  # noqa: E402  (the package's only part here: it needs nothing but Python)

LANGUAGES = {
    ".py": "python",
    ".md": "markdown",
    ".toml": "toml",
    ".yml": "yaml",
    ".mjs": "javascript",
    ".txt": "text",
    "": "text",
}
CODE = re.compile(
    r"(^ *(?:```|~~~).*?^ *(?:```|~~~)[^\n]*$|(?P<ticks>`+)[^\n]+?(?P=ticks))", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"""(\]\(\s*<?|\b(?:href|src)\s*=\s*["'])([^"')\s>]+)""")
ANCHOR = re.compile(r"""<a\s+(?:id|name)=["']([\w-]+)["']\s*>\s*</a>""")
ABROAD = re.compile(r"[a-z][a-z0-9+.-]*:|//|#", re.IGNORECASE)


class BadLink(ValueError):
    """A relative link of a page that leads nowhere in the repository."""


def pages(root: Path = ROOT) -> dict[str, str]:
    """Every file of the repository that is a page → its place in the site."""
    found = ["README.md", "README.zh-CN.md", "CONTRIBUTING.md"]
    for pattern in ("notebooks/*.ipynb", "course/*.md", "course/quiz/*.md", "docs/*.md"):
        found += sorted(path.relative_to(root).as_posix() for path in root.glob(pattern))
    return {name: re.sub(r"README\.md$", "index.md", name) for name in found if (root / name).exists()}


def place(target: str, known: dict[str, str], root: Path = ROOT) -> str:
    """Where a file or folder of the repository is found in the site."""
    if target in known:
        return known[target]
    if target == "distill_utils":
        return "api/index.md"
    if (name := module_name(target)) is not None:
        return f"api/{name}.md"
    if f"{target}/README.md" in known:
        return known[f"{target}/README.md"]
    if (root / target).is_dir():
        return f"files/{target}/index.md"
    return f"files/{target}.md" if _is_text(root / target) else f"files/{target}"


def module_name(target: str) -> str | None:
    """The name below distill_utils of a public module or folder of modules, such as explain.metrics; else None."""
    names = target.removesuffix("/__init__.py").removesuffix(".py").split("/")
    is_public = names[0] == "distill_utils" and len(names) > 1 and not any(name.startswith("_") for name in names)
    return ".".join(names[1:]) if is_public else None


def _is_text(path: Path) -> bool:
    return path.suffix in LANGUAGES or path.name == "Makefile"


def relinked(text: str, page: str, known: dict[str, str], wanted: set[str], root: Path = ROOT) -> str:
    """Markdown whose relative links fit the site; code is left alone.

    page: where the text lies in the repository; wanted: grows by every target in the repository. Raises BadLink for
    one that is not there.
    """
    here = posixpath.dirname(place(page, known, root))

    def changed(match: re.Match) -> str:
        target, _, anchor = match[2].partition("#")
        if ABROAD.match(match[2]):
            return match[0]
        found = posixpath.normpath(posixpath.join(posixpath.dirname(page), target.replace("%20", " ")))
        if found.startswith("..") or not (root / found).exists():
            raise BadLink(f"{page} links to {match[2]}, which does not exist: correct the link")
        if found.endswith(".ipynb") and found not in known:
            raise BadLink(
                f"{page} links to {match[2]}, which is no page of the site: link to a page that leads there"
            )
        wanted.add(found)
        there = posixpath.relpath(place(found, known, root), here or ".")
        if "href" in match[1]:  # raw HTML is passed on as it is: it needs the name of the page that comes out
            there = re.sub(r"\.(md|ipynb)$", ".html", there)
        return f"{match[1]}{there}{'#' + anchor if anchor else ''}"

    parts = CODE.split(text)
    # split returns text, code, its ticks, text, ...: only what lies between code is changed.
    return "".join(
        LINK.sub(changed, part) if i % 3 == 0 else part if i % 3 == 1 else "" for i, part in enumerate(parts)
    )


def anchored(text: str) -> str:
    """Markdown in which <a id="x"></a> in front of a block is a target that Sphinx knows, and checks links to."""
    return re.sub(rf"^{ANCHOR.pattern}\s*$\n?", r"(\1)=\n", text, flags=re.MULTILINE)


# Notebooks


def lesson(path: Path, known: dict[str, str], wanted: set[str], root: Path = ROOT) -> dict:
    """A notebook as a page: links adjusted, its figures' descriptions where the page looks for them."""
    page = path.relative_to(root).as_posix()
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        source = _joined(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["source"] = anchored(relinked(source, page, known, wanted, root))
            continue
        cell["source"] = for_readers(source)
        for output in cell.get("outputs", []):
            for kind, details in output.get("metadata", {}).items():
                if kind.startswith("image/") and "alt" in details:
                    cell["metadata"]["mystnb"] = {"image": {"alt": details["alt"]}}
    opening = notebook["cells"][0]
    unnumbered = re.sub(r"^# +\d+\. +", "# ", _joined(opening["source"]), flags=re.MULTILINE)
    opening["source"] = f"{unnumbered.rstrip()}\n\n{ways_to_open(path)}"
    return notebook


def for_readers(code: str) -> str:
    """Code without what it says to a formatter."""
    return re.sub(r" *# fmt: (skip|off|on)$", "", code, flags=re.MULTILINE)


def say(words: str) -> str:
    """The site's own words in the edition's language."""
    return CHINESE[words] if LANGUAGE == "zh" else words


def ways_to_open(path: Path) -> str:
    """One line of links below a lesson's title: run it elsewhere, take it along."""
    ways = [f"[{name}]({address})" for name, address in launch.links(path.stem).items()]
    ways += [
        f"{{download}}`{say('Notebook')} </files/notebooks/{path.name}>`",
        f'<a href="../slides/{path.stem}.html">{say("Slides")}</a>',
    ]
    return " · ".join(ways)


def title(path: Path) -> str:
    """What a page is called in the contents: for a notebook, its number and its title without one."""
    if path.suffix == ".ipynb":
        source = _joined(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        return f"{path.stem.partition('_')[0]} {_heading(source)}"
    return _heading(path.read_text(encoding="utf-8"))


def _heading(text: str) -> str:
    found = re.search(r"^# +(?:\d+\.?\s+)?(.+?)\s*$", text, re.MULTILINE)
    return found[1] if found else ""


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


# The package, read and never imported


def reference(path: Path) -> str:
    """A module's page: its docstring, then every public function and class with signature and docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    source = path.as_posix().rpartition("/distill_utils/")[2]
    name = module_name(f"distill_utils/{source}")
    parts = [f"# {name}", f"```{{py:module}} distill_utils.{name}\n```", plain(ast.get_docstring(tree) or "")]
    parts.append(f"[The source of this module](../files/distill_utils/{source}.md)")
    parts += [_entry(node, "function") for node in tree.body if _is_public(node)]
    return "\n\n".join(parts) + "\n"


def public_modules(root: Path = ROOT) -> dict[str, Path]:
    """Name below distill_utils → file of every public module."""
    paths = sorted((root / "distill_utils").rglob("*.py"))
    names = {module_name(path.relative_to(root).as_posix()): path for path in paths}
    return {name: path for name, path in names.items() if name}


def _is_public(node: ast.stmt) -> bool:
    named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    return named and (isinstance(node, ast.ClassDef) or ast.get_docstring(node) is not None)


def _entry(node: ast.FunctionDef | ast.ClassDef, kind: str, ticks: int = 4) -> str:
    inner = []
    if isinstance(node, ast.ClassDef):
        kind = "class"
        inner = [_entry(child, "method", ticks - 1) for child in node.body if _is_public(child)]
        signature = _class_signature(node)
    else:
        signature = ast.unparse(node.args)
        if kind == "method":
            signature = re.sub(r"^(self|cls)(, )?", "", signature)
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        signature = f"({signature}){returns}"
    fence = "`" * ticks
    options = ":classmethod:\n" if any(ast.unparse(mark) == "classmethod" for mark in node.decorator_list) else ""
    body = "\n\n".join([plain(ast.get_docstring(node) or ""), *inner])
    return f"{fence}{{py:{kind}}} {node.name}{signature}\n{options}\n{body}\n{fence}"


def _class_signature(node: ast.ClassDef) -> str:
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return f"({re.sub(r'^self(, )?', '', ast.unparse(child.args))})"
    fields = [child for child in node.body if isinstance(child, ast.AnnAssign)]
    if not fields:
        return ""
    return f"({', '.join(ast.unparse(field) for field in fields)})"


def first_sentence(path: Path) -> str:
    """What a module is, from its docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=[.?!])\s|\n\n|:\n", docstring.strip())[0].replace("\n", " ")


def plain(docstring: str) -> str:
    """A docstring as Markdown that says the same: nothing in it is markup but `code`, *word* and indented blocks."""
    blocks = []
    for block in docstring.split("\n\n"):
        if all(line.startswith("    ") for line in block.splitlines()):
            blocks.append(f"```text\n{textwrap.dedent(block)}\n```")
            continue
        spans = re.split(r"(`[^`\n]+`|(?<!\S)\*[\w-]+\*(?!\w))", block)
        blocks.append(
            "".join(
                part if i % 2 else re.sub(r"([\\*_\[\]<>|#~^{}$+-])", r"\\\1", part) for i, part in enumerate(spans)
            )
        )
    return "\n\n".join(blocks)


# Files and folders that are no pages of their own


def shown(path: Path, root: Path = ROOT) -> str:
    """A page that shows a text file."""
    text = path.read_text(encoding="utf-8").rstrip("\n")
    fence = "`" * (3 + max((len(run) for run in re.findall(r"`{3,}", text)), default=0))
    language = "make" if path.name == "Makefile" else LANGUAGES[path.suffix]
    name = plain(path.relative_to(root).as_posix())
    return f"---\norphan: true\n---\n# {name}\n\n{fence}{language}\n{text}\n{fence}\n"


def listed(folder: Path, wanted: set[str], known: dict[str, str], root: Path = ROOT) -> str:
    """A page that lists the files of a folder."""
    name = folder.relative_to(root).as_posix()
    files = sorted(path.relative_to(root).as_posix() for path in folder.rglob("*") if path.is_file())
    files = [file for file in files if "/." not in file and "__pycache__" not in file]
    wanted |= set(files)
    here = f"files/{name}"
    lines = [f"- [{plain(file)}]({posixpath.relpath(place(file, known, root), here)})" for file in files]
    return f"---\norphan: true\n---\n# {plain(name)}\n\n" + "\n".join(lines) + "\n"


# All of it


def write(folder: Path, root: Path = ROOT) -> None:
    """Everything that Sphinx reads, into an empty folder."""
    known, wanted = pages(root), {"distill_utils"}
    shutil.rmtree(folder, ignore_errors=True)
    for page, spot in known.items():
        path = root / page
        if path.suffix == ".ipynb":
            _put(folder / spot, json.dumps(lesson(path, known, wanted, root), ensure_ascii=False))
            wanted.add(page)
            _put(folder / "files" / page, path.read_text(encoding="utf-8"))
        else:
            text = anchored(relinked(path.read_text(encoding="utf-8"), page, known, wanted, root))
            _put(folder / spot, text + (contents(known, root) if page == "README.md" else ""))
    modules = public_modules(root)
    for name, path in modules.items():
        _put(folder / "api" / f"{name}.md", reference(path))
        _put(folder / "files" / f"{path.relative_to(root).as_posix()}.md", shown(path, root))
    opening = ast.get_docstring(ast.parse((root / "distill_utils" / "__init__.py").read_text(encoding="utf-8")))
    names = "\n".join(modules)
    tree = f"```{{toctree}}\n:hidden:\n\n{names}\n```"
    listing = "\n".join(f"- [{name}]({name}.md): {plain(first_sentence(path))}" for name, path in modules.items())
    _put(folder / "api" / "index.md", f"# {say('API reference')}\n\n{plain(opening)}\n\n{listing}\n\n{tree}\n")
    _others(folder, known, wanted, root)


def _others(folder: Path, known: dict[str, str], wanted: set[str], root: Path) -> None:
    done = set()
    while wanted - done:
        target = (wanted - done).pop()
        done.add(target)
        spot = folder / place(target, known, root)
        if spot.exists() or not (root / target).exists():
            continue
        if (root / target).is_dir():
            _put(spot, listed(root / target, wanted, known, root))
        elif spot.suffix == ".md":
            _put(spot, shown(root / target, root))
        else:
            spot.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / target, spot)


def contents(known: dict[str, str], root: Path = ROOT) -> str:
    """The site's contents, for the sidebar and for previous and next."""
    course = ["course/README.md", "course/glossary.md", "course/cheatsheet.md"]
    quizzes = [page for page in known if page.startswith("course/quiz/")]
    others = [page for page in known if page.startswith("course/") and page not in course + quizzes]
    groups = {
        "Lessons": [page for page in known if page.endswith(".ipynb")],
        "Course": [page for page in course if page in known] + quizzes + others,
        "Package": ["api/index"],
        "About the series": [
            page for page in known if page.startswith(("docs/", "CONTRIBUTING")) and ".zh-CN." not in page
        ],
    }
    if LANGUAGE == "en":
        groups["Other languages"] = [page for page in known if ".zh-CN." in page]
    text = ""
    for caption, members in groups.items():
        lines = [
            f"{title(root / page)} </{known[page].rsplit('.', 1)[0]}>" if page in known else page for page in members
        ]
        if lines:
            text += f"\n```{{toctree}}\n:hidden:\n:caption: {say(caption)}\n\n" + "\n".join(lines) + "\n```\n"
    return text


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        write(Path(sys.argv[1]))
    except BadLink as error:
        sys.exit(f"error: {error}")
