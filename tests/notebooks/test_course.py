"""The graded exercises: every solution passes, every named wrong answer fails with a helpful message, the students'
version contains no solution, and the exercises were reviewed against the lesson as it is now.

Cells run in this process: a kernel for every wrong answer would take minutes. One lesson goes through nbgrader's own
autograder, to show that it reads the format as we do.
"""

import ast
import json
import re
import sys
import tarfile
import warnings
from pathlib import Path

import notebook_rules
import pytest
import torch
from nbformat import from_dict, validate
from nbgrader.nbgraderformat import MetadataValidator

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "course"))
import course_run
import edition
import exercises
import guard

SOURCES = exercises.sources()
NAMES = [path.stem for path in SOURCES]
RULES = [  # the lessons' rules that hold for exercises, too
    "one_title_first", "heading_levels_in_order", "short_cells", "plain_python", "nothing_installed",
    "no_path_of_a_machine", "nothing_from_outside", "no_typed_result",
]  # fmt: skip
SECRETS = re.compile(r"(BEGIN|END) (SOLUTION|HIDDEN TESTS|MARK SCHEME)|model answer|marking guide", re.IGNORECASE)

HIDDEN = "### BEGIN HIDDEN TESTS"

each_source = pytest.mark.parametrize("path", SOURCES, ids=NAMES)


def tasks_of(path):
    return exercises.parts(exercises.read(path))[1]


def all_tasks():
    return [pytest.param(path, i, id=f"{path.stem}-{i + 1}") for path in SOURCES for i in range(len(tasks_of(path)))]


def all_wrong_answers():
    return [
        pytest.param(path, i, wrong["id"], id=f"{wrong['id']}: {wrong['metadata']['wrong']['name']}")
        for path in SOURCES
        for i, task in enumerate(tasks_of(path))
        for wrong, _ in exercises.wrong_answers(task.cells)
    ]


def is_test(cell):
    return cell["cell_type"] == "code" and bool(exercises.grading(cell).get("grade"))


def run(cell, names):
    exec(compile(cell["source"], f"<cell {cell['id']}>", "exec"), names)


def run_task(path, i, *, wrong=None):
    """Run the set-up and one task in a fresh namespace; wrong: the id of the wrong answer to put in.

    Returns the points that it earns and the first failure. What follows the last test of a wrong answer is not run.
    """
    before, tasks = exercises.parts(exercises.read(path))
    pairs = exercises.wrong_answers(tasks[i].cells)
    replaced = {solution["id"]: cell for cell, solution in pairs if cell["id"] == wrong}
    last = max(k for k, cell in enumerate(tasks[i].cells) if is_test(cell))
    names, points, failure = {"__name__": "__main__"}, 0, None
    for cell in before + (tasks[i].cells[: last + 1] if wrong else tasks[i].cells):
        if cell["cell_type"] == "code" and not exercises.is_wrong(cell):
            try:
                run(replaced.get(cell["id"], cell), names)
            except Exception as error:
                if not is_test(cell):
                    raise
                failure = failure or error
            else:
                points += exercises.grading(cell).get("points", 0)
    return points, failure


@pytest.fixture
def same_draws(monkeypatch):
    """Hidden tests draw their inputs anew at every grading; here they draw the same ones in every run."""
    monkeypatch.setattr(torch, "seed", lambda: torch.manual_seed(7))


# (a) The sources


def test_every_lesson_from_01_has_exercises():
    assert [path.parent.name for path in SOURCES] == NAMES
    assert [name[:2] for name in NAMES] == [f"{i:02}" for i in range(1, len(NAMES) + 1)], "numbers without a gap"
    assert SOURCES


@each_source
def test_a_source_follows_nbgraders_format_and_the_rules_of_the_lessons(path):
    notebook = from_dict(json.loads(path.read_text(encoding="utf-8")))
    validate(notebook)
    MetadataValidator().validate_nb(notebook)
    book = notebook_rules.read(path)
    for cell in book["cells"]:  # what a class never sees may be longer
        cell["source"] = "".join(cell["source"]).partition(HIDDEN)[0]
    assert not [found for rule in RULES for found in notebook_rules.RULES[rule](book, path)]


@each_source
def test_a_source_has_no_output_and_stable_ids(path):
    cells = exercises.read(path)["cells"]
    ids = [cell["id"] for cell in cells]
    assert len(set(ids)) == len(ids)
    assert all(name.startswith(f"{path.stem[:2]}-") for name in ids)
    assert all(exercises.grading(cell).get("grade_id", cell["id"]) == cell["id"] for cell in cells)
    for cell in cells:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), f"cell {cell['id']} has been run"
        assert not re.search(r"\]\((?!https?:)", cell["source"]), f"cell {cell['id']}: a link breaks when handed out"


@each_source
def test_a_source_has_three_tasks_of_twelve_points(path):
    before, tasks = exercises.parts(exercises.read(path))
    assert [task.title.split(":")[0] for task in tasks] == [f"{i}. {way}" for i, way in enumerate(exercises.WAYS, 1)]
    worth = [sum(exercises.grading(cell).get("points", 0) for cell in task.cells) for task in tasks]
    assert all(worth)
    assert sum(worth) == exercises.POINTS
    assert all(exercises.grading(cell).get("locked") for cell in before if cell["cell_type"] == "code")
    cells = [cell for task in tasks for cell in task.cells]
    assert any("### BEGIN HIDDEN TESTS" in cell["source"] for cell in cells if is_test(cell))
    judgements = [cell["source"] for cell in cells if exercises.grading(cell).get("task")]
    assert judgements, "at least one task requires a judgement"
    for source in judgements:
        (scheme,) = re.findall(r"=== BEGIN MARK SCHEME ===(.*)=== END MARK SCHEME ===$", source, re.DOTALL)
        assert "**A model answer.**" in scheme
        assert "**Marking guide.**" in scheme


@each_source
def test_every_code_cell_of_a_task_has_its_role(path):
    """Solutions with markers, inside functions; tests and data that nbgrader restores if a student changed them."""
    for task in tasks_of(path):
        assert all(solution for _, solution in exercises.wrong_answers(task.cells)), "they follow their solution"
        for cell in task.cells:
            if cell["cell_type"] == "code" and not exercises.is_wrong(cell):
                grading = exercises.grading(cell)
                assert grading["solution"] != grading["locked"], f"cell {cell['id']} is solution or locked"
                assert grading["solution"] == ("### BEGIN SOLUTION" in cell["source"]), f"cell {cell['id']}"
                if grading["solution"]:
                    assert "\n    ### BEGIN SOLUTION" in cell["source"], (
                        f"{cell['id']}: put the solution into a function"
                    )
                    assert exercises.wrong_answers(task.cells), f"{cell['id']}: name a wrong answer"


@each_source
def test_every_assertion_has_a_message_and_tests_name_a_section_of_the_lesson(path):
    known = {
        page.stem: {text.split(". ")[0] for _, _, text in notebook_rules.headings(notebook_rules.read(page))}
        for page in exercises.pages(path.stem)
    }
    for task in tasks_of(path):
        for cell in task.cells:
            if is_test(cell):
                asserts = [node for node in ast.walk(ast.parse(cell["source"])) if isinstance(node, ast.Assert)]
                assert asserts, f"cell {cell['id']} tests nothing"
                assert all(node.msg for node in asserts), f"cell {cell['id']} has an assertion without a message"
        text = " ".join(cell["source"] for cell in task.cells if not exercises.is_wrong(cell))
        text = re.sub(r'"\s+f?"', "", re.sub(r"\s+", " ", text))
        sections = re.findall(r"[Ss]ection (\d+)(?: of (\w+))?", text)
        assert sections, f"{task.title!r} names no section of the lesson"
        for section, page in sections:
            of_page = known[page] if page in known else set().union(*known.values())
            assert section in of_page, f"{page or path.stem} has no section {section}"


# (b) and (d) Solutions and wrong answers


@pytest.mark.parametrize(("path", "i"), all_tasks())
def test_a_solution_passes_its_tests_with_nothing_but_the_set_up(path, i, capsys):
    cells = [cell for cell in tasks_of(path)[i].cells if is_test(cell)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        points, failure = run_task(path, i)
    assert (points, failure) == (sum(exercises.grading(cell)["points"] for cell in cells), None)
    assert not capsys.readouterr().err, "nbgrader gives no points for a test that writes to stderr"


@pytest.mark.usefixtures("same_draws")
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.filterwarnings("ignore:reduction. .mean. divides")
@pytest.mark.parametrize(("path", "i", "wrong"), all_wrong_answers())
def test_a_named_wrong_answer_fails_with_a_helpful_message_and_earns_what_the_table_says(path, i, wrong):
    cell = next(cell for cell in tasks_of(path)[i].cells if cell["id"] == wrong)
    points, failure = run_task(path, i, wrong=wrong)
    message = str(failure)
    assert isinstance(failure, AssertionError), message
    assert cell["metadata"]["wrong"]["says"] in message
    assert re.search(r"[Ss]ection \d", message), f"does not name a section that helps: {message}"
    assert not exercises.grading(cell)
    assert points == cell["metadata"]["wrong"]["earns"], "the points of this answer have changed"


def test_there_are_at_least_four_wrong_answers_per_lesson_and_a_third_of_all_was_written_without_the_tests():
    wrong = [exercises.wrong_answers(task.cells) for path in SOURCES for task in tasks_of(path)]
    blind = [cell["metadata"]["wrong"].get("blind", False) for pairs in wrong for cell, _ in pairs]
    assert len(blind) >= max(60, 4 * len(SOURCES))
    assert 3 * sum(blind) >= len(blind), "whoever knows the tests thinks of the mistakes that they see"


def test_returning_what_the_visible_tests_expect_earns_no_point():
    typed = [
        cell["metadata"]["wrong"]
        for path in SOURCES
        for task in tasks_of(path)
        for cell, _ in exercises.wrong_answers(task.cells)
        if "typed in" in cell["metadata"]["wrong"]["name"]
    ]
    assert len(typed) >= 5
    own = {"the visible targets, typed in": 2}  # the other function of that task is right
    assert all(wrong["earns"] == own.get(wrong["name"], 0) for wrong in typed)


@each_source
def test_every_test_has_a_hidden_part_on_inputs_drawn_when_grading(path):
    tests = [cell for task in tasks_of(path) for cell in task.cells if is_test(cell)]
    blind = [cell["id"] for cell in tests if "torch.seed()" not in cell["source"].partition(HIDDEN)[2]]
    assert not blind


# (c) What students get, and nbgrader's autograder


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course folder with the students' versions of all sources."""
    root = tmp_path_factory.mktemp("course")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILL_COURSE", str(root))
        exercises.release()
        yield root


@each_source
def test_the_students_version_contains_no_solution(course, path):
    released = exercises.read(course / "release" / path.stem / path.name)
    kept = [cell for cell in exercises.read(path)["cells"] if not exercises.is_wrong(cell)]
    assert [cell["id"] for cell in released["cells"]] == [cell["id"] for cell in kept]
    text = json.dumps(released, ensure_ascii=False)
    assert not SECRETS.search(text)
    assert exercises.WRONG not in text
    for source, given in zip(kept, released["cells"], strict=True):
        if exercises.grading(source).get("solution"):
            solution = source["source"].split("### BEGIN SOLUTION")[1].split("### END SOLUTION")[0]
            shown = {line.strip() for line in given["source"].splitlines()}
            assert not {line.strip() for line in solution.splitlines() if len(line.strip()) > 12} & shown


@each_source
def test_the_students_version_fails_every_test(course, path):
    before, tasks = exercises.parts(exercises.read(course / "release" / path.stem / path.name))
    for task in tasks:
        names, tests = {"__name__": "__main__"}, [cell for cell in task.cells if is_test(cell)]
        for cell in before + task.cells[: task.cells.index(tests[-1]) + 1]:  # what comes after needs a solution
            if is_test(cell):
                with pytest.raises((NotImplementedError, AssertionError)):
                    run(cell, names)
            elif cell["cell_type"] == "code":
                run(cell, names)


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")  # nbgrader's own
def test_nbgrader_gives_points_and_feedback_that_tells_nothing(course, monkeypatch):
    """A right, an empty, a spying and a broken submission; tools/course_run.py tries all kinds in all lessons."""
    monkeypatch.setenv("DISTILL_COURSE", str(course))
    monkeypatch.delenv("DISTILL_EXCHANGE", raising=False)
    lesson = "03_train_student"
    exercises.gradebook().gradebook.add_student("absent")
    assert course_run.run(lesson, ["right", "empty", "peeks_in_every_answer", "no_notebook"], course, 1) == []
    rows = {row["learner"]: (row["state"], row["points"]) for row in exercises.report(lesson)}
    states = {"right": ("graded", 10.0), "empty": ("empty", 0.0), "peeks_in_every_answer": ("0 points", 0.0)}
    assert rows == states | {"absent": ("not submitted", 0.0), "no_notebook": ("crashed", 0.0)}
    submission = exercises.gradebook().get_submission(lesson, "right")
    assert submission["max_score"] == exercises.POINTS
    assert submission["needs_manual_grade"], "the judgement waits for a person"
    page = (course / "feedback" / "empty" / lesson / f"{lesson}.html").read_text(encoding="utf-8")
    assert "NotImplementedError" in page, "a learner sees why a test failed"


def test_a_test_sees_python_as_it_is_and_the_submission_what_it_has_made_of_it(monkeypatch):
    monkeypatch.setattr(torch, "equal", torch.equal)
    names = {"torch": torch}
    kept = guard.Guard(names)
    kept.keep()
    exec("def abs(x):\n    return 0\n\n\ndef gap(x):\n    return abs(x)", names)
    torch.equal = lambda *_: True
    kept.run(
        "assert abs(-1) == 1\nassert gap(-1) == 0\nassert not torch.equal(torch.ones(1), torch.zeros(1))\nx = 3", "t"
    )
    assert (names["x"], names["abs"](-1)) == (3, 0)


def test_the_students_edition_is_whole_and_gives_nothing_away(course, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_COURSE", str(course))
    archive = edition.write(tmp_path / "student", course / "release")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    folder = tmp_path / "distillation"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"Makefile", "README.md", "pyproject.toml", "distill_utils", "notebooks", "exercises"} <= {
        path.name for path in folder.iterdir()
    }
    assert not {"source", "tests", "tools", "instructor"} & {part for path in files for part in path.parts}
    told = [
        path.name for path in files if path.suffix in (".md", ".ipynb") and SECRETS.search(path.read_text("utf-8"))
    ]
    assert not told
    for path in files:
        if path.suffix == ".md":
            texts = [path.read_text("utf-8")]
        elif path.suffix == ".ipynb":
            texts = [cell["source"] for cell in exercises.read(path)["cells"] if cell["cell_type"] == "markdown"]
        else:
            continue
        for target in (target for text in texts for target in notebook_rules.links(text)):
            file = target.partition("#")[0]
            assert re.match(r"\w+:", target) or not file or (path.parent / file).exists(), f"{path.name}: {target}"
    makefile = (folder / "Makefile").read_text("utf-8")
    assert set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE)) == {"help", "setup", "run", "lab", "clean"}
    assert not re.search(r"tools/|tests/|course/", makefile)
    outbound = tmp_path / "student" / "exchange" / "distillation" / "outbound"
    assert sorted(path.name for path in outbound.iterdir()) == NAMES


# (e) A lesson that changed


@each_source
def test_the_exercises_were_reviewed_against_the_lesson_as_it_is(path):
    assert exercises.read(path)["metadata"]["reviewed"] == exercises.digest(*exercises.pages(path.stem)), (
        f"code or headings of {path.stem} have changed since its exercises were reviewed: read both, fix what no "
        f"longer fits, then run python course/exercises.py reviewed {path.stem}"
    )


def test_a_new_heading_or_other_code_changes_a_lessons_digest_and_other_words_do_not(tmp_path):
    content = json.loads((exercises.LESSONS / SOURCES[0].name).read_text(encoding="utf-8"))

    def digest(cell_type: str, more: str) -> str:
        cell = next(cell for cell in content["cells"] if cell["cell_type"] == cell_type)
        cell["source"] = ["".join(cell["source"]) + more]
        (tmp_path / "lesson.ipynb").write_text(json.dumps(content), encoding="utf-8")
        return exercises.digest(tmp_path / "lesson.ipynb")

    as_it_is = exercises.digest(exercises.LESSONS / SOURCES[0].name)
    assert digest("markdown", "\nOne more sentence.") == as_it_is
    assert len({as_it_is, digest("markdown", "\n## 99. One more section"), digest("code", "\nmore = 1")}) == 3
