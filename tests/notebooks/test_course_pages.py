"""The course and the two READMEs keep what is promised of each page; test_links.py follows their links."""

import importlib
import re
from importlib.util import find_spec
from pathlib import Path

import nbformat
import notebook_rules
import pytest
import quizzes

from distill_utils import stats, studies
from distill_utils.commands import run

ROOT = Path(__file__).resolve().parents[2]
COURSE, NOTEBOOKS = ROOT / "course", sorted((ROOT / "notebooks").glob("*.ipynb"))
QUIZZES = sorted(COURSE.glob("quiz/*.md"))
HERE = {path.stem[:2] for path in NOTEBOOKS}  # lessons that are not in preparation


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# Links


def test_lessons_that_are_there_are_linked_and_not_only_named():
    pages = [COURSE / "README.md", COURSE / "glossary.md", *QUIZZES]  # test_new_lesson.py finds a missing quiz
    for page in pages:
        named = set(re.findall(r"^\*\*(\d\d) |[Ll]esson\s(\d\d)\b", read(page), re.MULTILINE))
        assert not {one or other for one, other in named} & HERE, f"{page.name}: write a link to the notebook"


def test_pages_of_executed_notebooks_find_the_glossary():
    text = "[teacher](../course/glossary.md#teacher), [next](02_distill.ipynb)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    links = set(re.findall(r'href="([^"]+)"', run.page(notebook, "01")))
    assert {f"{ROOT.as_uri()}/course/glossary.md#teacher", "02_distill.html"} <= links


# The glossary


def terms() -> dict[str, tuple[str, str]]:
    """Heading, English and Chinese text of every entry, by anchor."""
    text = read(COURSE / "glossary.md").partition("## Words that are not used")[0]
    entries = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    found = {}
    for entry in entries:
        heading, english, chinese = entry.strip().split("\n\n")
        assert notebook_rules.anchor(heading) not in found, f"{heading} stands twice"
        found[notebook_rules.anchor(heading)] = (heading, english, chinese)
    return found


def linked_terms() -> set[str]:
    texts = [
        source for path in NOTEBOOKS for _, _, source in notebook_rules.cells(notebook_rules.read(path), "markdown")
    ]
    return {
        target.partition("#")[2]
        for text in texts
        for target in notebook_rules.links(text)
        if "glossary.md#" in target
    }


def test_terms_stand_in_alphabetical_order():
    headings = [re.sub("[^a-z0-9]", "", heading.lower()) for heading, _, _ in terms().values()]
    assert headings == sorted(headings)
    assert 45 <= len(headings) <= 90


def test_every_term_is_explained_in_both_languages_and_says_where():
    for heading, english, chinese in terms().values():
        assert re.match(r"\*\*.+?\*\*：", chinese), f"{heading}: the Chinese text begins with the term"
        assert re.search(r"[\u4e00-\u9fff]", chinese), heading
        assert len(re.findall(r"[.!?](?=\s|$)", english)) <= 4, (
            f"{heading}: three sentences and where it is explained"
        )
        assert re.search(r"\.\./notebooks/|lesson \d\d", english), f"{heading}: where is it explained?"


def test_every_term_is_linked_from_a_notebook():
    waiting = {
        anchor
        for anchor, (_, english, _) in terms().items()
        if (lesson := re.search(r"lesson\s(\d\d)", english)) and lesson[1] not in HERE
    }
    assert not set(terms()) - linked_terms() - waiting, "link them where the notebooks use them first"


# Quizzes

OPTION = quizzes.OPTION


def test_every_quiz_has_its_lesson():
    assert {path.stem for path in QUIZZES} <= HERE


@pytest.mark.parametrize("path", QUIZZES, ids=lambda path: path.stem)
def test_every_question_has_one_right_answer_and_every_answer_an_explanation(path):
    questions = re.split(r"^## ", read(path), flags=re.MULTILINE)[1:]
    assert 5 <= len(questions) <= 6
    for number, question in enumerate(questions, start=1):
        assert question.startswith(f"{number}. ")
        options = OPTION.findall(question)
        letters = [letter for letter, _, _, _ in options]
        assert letters == list("ABCD"[: len(letters)])
        assert len(letters) >= 3
        assert question.count("<details>") == question.count("</details>") == len(options), "one is not of the form"
        assert [word for _, _, word, _ in options].count("Right") == 1
        assert len({text for _, text, _, _ in options}) == len(options)
        assert all(len(why.split()) >= 4 for _, _, _, why in options), question


def test_the_right_answer_has_no_favourite_place():
    places = [letter for path in QUIZZES for letter, _, word, _ in OPTION.findall(read(path)) if word == "Right"]
    assert max(places.count(letter) for letter in "ABCD") < len(places) / 2


def test_the_length_of_an_answer_does_not_tell_whether_it_is_right():
    longest = shortest = count = 0
    for path in QUIZZES:
        for options in quizzes.questions(path).values():
            right = next(len(option.text) for option in options if option.right)
            wrong = [len(option.text) for option in options if not option.right]
            longest, shortest, count = longest + (right > max(wrong)), shortest + (right < min(wrong)), count + 1
    assert count / 8 < longest < 3 * count / 8, f"the right answer is the longest in {longest} of {count} questions"
    assert shortest < count / 4


@pytest.mark.parametrize("path", QUIZZES, ids=lambda path: path.stem)
def test_an_exported_quiz_has_every_question_with_one_right_answer(path):
    found = quizzes.questions(path)
    gift, text = quizzes.gift(path), quizzes.qti_text(path)
    assert (
        len(re.findall(r"^::", gift, re.MULTILINE)) == len(re.findall(r"^\d+\. ", text, re.MULTILINE)) == len(found)
    )
    for block in gift.split("\n::")[1:]:
        answers = re.findall(r"^([=~])(.+?)(?<!\\)#(.+)$", block, re.MULTILINE)
        assert [mark for mark, _, _ in answers].count("=") == 1
        assert len(answers) == len(re.findall(r"^[=~}]", block, re.MULTILINE)) - 1
    assert len(re.findall(r"^\*[a-d]\) ", text, re.MULTILINE)) == len(found)
    assert not re.search(r"&\w+;|\]\(", gift + text)


# The cheat sheet


def module_of_the_package(name: str):
    """A module of distill_utils or of distill_utils.explain; None where neither has it."""
    found = [name for name in (f"distill_utils.{name}", f"distill_utils.explain.{name}") if find_spec(name)]
    return importlib.import_module(found[0]) if found else None


def test_every_function_of_the_cheat_sheet_exists():
    named = re.findall(r"`(\w+)\.(\w+)`", read(COURSE / "cheatsheet.md"))
    named = [(module, name) for module, name in named if module != "F"]
    assert len(named) > 30
    missing = [f"{module}.{name}" for module, name in named if not hasattr(module_of_the_package(module), name)]
    assert not missing


# Two READMEs


def parts(text: str) -> dict[str, list[str]]:
    """What a README names: commands without their comments, files and addresses, and words set as code."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    targets = {target for target in notebook_rules.links(text) if not target.startswith(("#", "README"))}
    targets = {target.replace(".zh-CN.md", ".md") for target in targets}
    return {"commands": lines, "links": sorted(targets), "code": sorted(set(re.findall(r"`([^`]+)`", prose)))}


@pytest.mark.parametrize("what", ["commands", "links", "code"])
def test_both_readmes_name_the_same(what):
    english, chinese = (parts(read(ROOT / name))[what] for name in ("README.md", "README.zh-CN.md"))
    assert english == chinese


def test_the_readmes_link_to_each_other_at_the_top():
    for name, other in (("README.md", "README.zh-CN.md"), ("README.zh-CN.md", "README.md")):
        assert f"]({other})" in read(ROOT / name).split("\n\n")[1]


def test_the_readmes_have_the_same_sections():
    levels = [[len(marks) for marks in re.findall(r"^(#+) ", read(ROOT / name), re.MULTILINE)]
              for name in ("README.md", "README.zh-CN.md")]  # fmt: skip
    assert levels[0] == levels[1]


# The instructor's page


def plan(name: str) -> str:
    return read(COURSE / "README.md").split(f"### {name}\n")[1].split("\n#")[0]


@pytest.mark.parametrize(("name", "minutes"), [("One afternoon", 240), ("Two days", 720)])
def test_the_minutes_of_a_plan_add_up(name, minutes):
    rows = [int(found) for found in re.findall(r"^\|[^|]*\| (\d+) \|", plan(name), re.MULTILINE)]
    total = [rows.pop()] if name == "Two days" else [minutes]
    assert (sum(rows), total) == (minutes, [minutes])


def test_the_weeks_of_the_module_are_of_one_length():
    rows = [line.split("|")[2:5] for line in plan("Four weeks").splitlines() if re.match(r"\| \d", line)]
    spent = [
        [sum(map(int, re.findall(r"\((\d+)\)", cell))) for cell in (teaching, work)] for teaching, work, _ in rows
    ]
    assert spent == [[90, 90]] * 4
    said = re.search(r"That is (\d+) minutes in class and (\d+) at home", plan("Four weeks"))
    assert (int(said[1]), int(said[2])) == (4 * 180, sum(int(home) for *_, home in rows))


def test_the_finished_project_says_what_the_study_says():
    arms = {"alone": {}, "distilled": {}}
    for row in studies.results("dropout", "glyphs")["runs"]:
        if {"width": 8, "rate": 0.0, "teacher_rate": 0.1}.items() <= row["arm"].items():
            arms[row["arm"]["method"]][row["seed"]] = 100 * row["metrics"]["test_accuracy"]
    gains = [arms["distilled"][seed] - arms["alone"][seed] for seed in sorted(arms["alone"])]
    assert len(gains) == 5
    assert all(11 < gain < 15 for gain in gains)
    assert stats.t_interval(gains)[1] > 2


def test_the_exam_asks_two_questions_of_each_lesson_and_answers_them():
    text = read(COURSE / "instructor" / "exam.md")
    parts = re.split(r"^## (\d\d)$", text, flags=re.MULTILINE)[1:]
    assert parts[::2] == [f"{n:02}" for n in range(10)]
    assert all(len(re.findall(r"^\*\*\d+\.\*\*", part, re.MULTILINE)) == 2 for part in parts[1::2])
    assert all(part.count("*Solution.*") == 2 for part in parts[1::2])


def test_the_points_are_those_of_the_exercises():
    by_person = {}
    for path in sorted((COURSE / "source").glob("*/*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        graded = [cell.metadata.get("nbgrader", {}) for cell in cells]
        by_person[path.stem[:2]] = sum(found["points"] for found in graded if found.get("task"))
    assert by_person == {n: 3 if n == "06" else 2 for n in by_person}, "correct course/README.md, Marking"
    marking = " ".join(read(COURSE / "README.md").split("## Marking")[1].split())
    assert "12 points. Ten of them (in 06 nine)" in marking
    assert "The other two (in 06 three)" in marking
