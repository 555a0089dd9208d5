"""Whoever adds a lesson learns from one test what else it needs."""

import json
import re
from pathlib import Path

import notebook_rules
import pytest
import tables

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def forgotten(path: Path, root: Path = ROOT) -> list[str]:
    """One sentence for each thing that a lesson still needs outside its notebook.

    Lesson 00 has no exercises. A second page, such as 06b, shares quiz, exercises and the list of what a learner can
    do with the first one.
    """

    def text(name: str) -> str:
        return (root / name).read_text(encoding="utf-8")

    stem, number = path.stem, path.stem.partition("_")[0]
    title, question = tables.opening(path)
    said = "\n".join(source for _, _, source in notebook_rules.cells(notebook_rules.read(path), "markdown"))
    todo = [
        f"add {json.dumps(words, ensure_ascii=False)} with its Chinese to tools/tables/zh.json"
        for words in (title, question)
        if words not in tables.CHINESE
    ]
    todo += [
        f"{page} has no row for {stem}: run make tables"
        for page in ("README.md", "README.zh-CN.md", "course/README.md")
        if f"notebooks/{path.name})" not in text(page)
    ]
    if stem not in json.loads(text("results/timings.json")):
        todo.append(f"results/timings.json has no minutes of {stem}: python -m distill_utils run {number} --in-place")
    if "course/glossary.md#" not in said:
        todo.append(f"{stem} links to no term of course/glossary.md: link the terms where they are first used")
    if number.isdigit() and f"**[{number} " not in text("course/README.md"):
        todo.append(f"course/README.md does not list what a learner can do after {stem}: add it beside the others")
    if number.isdigit() and number != "00" and not (root / "course" / "quiz" / f"{number}.md").exists():
        todo.append(f"{stem} has no quiz: write course/quiz/{number}.md in the form of the others")
    source = root / "course" / "source" / stem / f"{stem}.ipynb"
    if number.isdigit() and number != "00" and not source.exists():
        todo.append(
            f"{stem} has no graded exercises: write course/source/{stem}/{stem}.ipynb (see course/exercises.py)"
        )
        todo.append(f"its exercises must say that they fit the lesson: python course/exercises.py reviewed {stem}")
    if not (root / "translations" / "zh" / "notebooks" / f"{stem}.po").exists():
        todo.append(f"translations/zh has no catalogue of {stem}, its quiz and its exercises: run make zh-mark")
    heads = {
        other.stem.partition("_")[0]: next(notebook_rules.cells(notebook_rules.read(other)))[2] for other in NOTEBOOKS
    }
    lost = [other for other, head in heads.items() if f"{number} " not in head]
    if lost:
        todo.append(f"the map at the head of {', '.join(lost)} does not lead to {stem}: add it there")
    return todo


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_is_forgotten_for_a_lesson(path):
    assert not forgotten(path), "\n" + "\n".join(forgotten(path))


def test_everything_that_a_new_lesson_needs_is_named(tmp_path):
    path = tmp_path / "90_more.ipynb"
    cell = {"cell_type": "markdown", "metadata": {}, "source": "# A new lesson\n\nWhat is asked?"}
    path.write_text(json.dumps({"cells": [cell]}), encoding="utf-8")
    named = "\n".join(forgotten(path))
    for what in ("A new lesson", "What is asked", "README.md has", "README.zh-CN.md has", "timings", "glossary",
                 "learner can do", "course/quiz/90.md", "course/source/90_more", "reviewed 90_more", "make zh-mark",
                 "map at the head of 00, 01, 02"):  # fmt: skip
        assert what in named
    assert not re.search(r"\n\n", named)
    assert len(forgotten(path)) == 13
