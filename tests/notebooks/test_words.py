"""Messages and pages keep to the words of notebook_rules.AVOID, but for those that the baseline still counts.

After some were fixed: PYTHONPATH=tools python tests/notebooks/test_words.py
"""

import ast
import json
from pathlib import Path

import notebook_rules
import pytest

ROOT = Path(__file__).resolve().parents[2]
BASELINE = Path(__file__).with_name("baseline.json")
PAGES = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "course/**/*.md")
    for path in ROOT.glob(pattern)
]
MODULES = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("distill_utils/**/*.py")]
FILES = sorted({*PAGES, *MODULES})


def said(file: str) -> str:
    """A page without its code; of a module its docstrings and the texts that it raises, prints or returns."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".md"):
        return "\n".join(notebook_rules._paragraphs(text))
    constants = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    return "\n".join(node.value for node in constants if isinstance(node.value, str) and " " in node.value)


def found(file: str) -> list[str]:
    return [f"{' '.join(words.split())!r}: say instead: {cure}" for words, cure in notebook_rules.avoided(said(file))]


@pytest.mark.parametrize("file", FILES)
def test_words_to_avoid_do_not_come_back(file):
    accepted = json.loads(BASELINE.read_text(encoding="utf-8")).get(file, {}).get("plain_words", 0)
    assert len(found(file)) <= accepted, f"{accepted} accepted in {file}:\n" + "\n".join(found(file))


def test_a_word_to_avoid_is_found_with_its_cure():
    cures = list(
        notebook_rules.avoided("It errs; mend it. The images as they are. Learnt by heart. It is no folder.")
    )
    assert [words for words, _ in cures] == ["errs", "mend", "images as they are", "Learnt by heart", "is no folder"]
    assert all(cure for _, cure in cures)
    assert list(notebook_rules.avoided("The error is fixed; an amendment; heart; the folder is not empty.")) == []


if __name__ == "__main__":
    counts = json.loads(BASELINE.read_text(encoding="utf-8"))
    for file in FILES:
        least = min(len(found(file)), counts.get(file, {}).get("plain_words", 10**6))
        counts.pop(file, None)
        if least:
            counts[file] = {"plain_words": least}
    BASELINE.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
