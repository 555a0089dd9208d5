"""The graded exercises: one nbgrader source per lesson, course/source/<lesson>/<lesson>.ipynb.

    python course/exercises.py release                the students' versions, into build/course/release (make course)
    python course/exercises.py grade 02_distill       autograde what was submitted, on all cores, and report
    python course/exercises.py report 02_distill      who has handed in what, and what it earned
    python course/exercises.py reviewed 02_distill    after a lesson changed and its exercises were looked through

A source is a notebook without outputs, written and edited in JupyterLab with nbgrader's own markers and metadata:

- Before the first "## " heading: the title, and set-up cells, which are read-only (locked).
- Then three tasks, each under a heading: "## 1. Apply: …", "## 2. Change: …", "## 3. Investigate: …". A task needs
  the set-up and its own cells, nothing of another task; the three together give 12 points.
- A solution stands between ### BEGIN SOLUTION and ### END SOLUTION, inside a function, so that the students' version
  fails in the tests. Tests that students do not see stand between ### BEGIN HIDDEN TESTS and ### END HIDDEN TESTS.
  Every test cell has such a part: it begins with torch.seed() and compares with a reference on inputs that are drawn
  when it is graded, so that returning what the visible part expects earns nothing. The function is called before the
  reference is computed. A task has several test cells, so that a near miss earns part of the points.
  The message of every assertion says what is wrong, and somewhere in a test "section N of <lesson>", where to read.
- A judgement is a manually graded task cell: the question, then between === BEGIN MARK SCHEME === and
  === END MARK SCHEME === a model answer and the marking guide, which nbgrader shows to the grader only. After it
  comes a plain text cell for the answer. At least one task of a lesson has one.
- A named wrong answer is a code cell directly after the solution that it replaces, tagged wrong-answer, with the
  metadata {"wrong": {"name": "T squared forgotten", "says": "words that the failing test must say", "earns": 2}},
  earns being its points of the task's tests; "blind": true says that somebody wrote it who had not seen the tests.
  Students never get it. tests/notebooks/test_course.py runs every one.
- A cell's id begins with the lesson's number (02-loss), is the same as its nbgrader grade_id, and never changes.
- The notebook's metadata keep {"reviewed": "…"}: the digest of the lesson's code cells and headings that the
  exercises were last looked through against. A lesson that changed has another one, and a test says so. (null while
  the lesson is in preparation.)
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

COURSE = Path(__file__).resolve().parent
LESSONS = COURSE.parent / "notebooks"
WAYS = ("Apply", "Change", "Investigate")
POINTS = 12
WRONG = "wrong-answer"


class Task(NamedTuple):
    """A task of a source: its heading without marks and its cells."""

    title: str
    cells: list[dict]


def sources() -> list[Path]:
    return sorted((COURSE / "source").glob("*/*.ipynb"))


def read(path: Path) -> dict:
    """A notebook file; the source of every cell is one string."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def parts(notebook: dict) -> tuple[list[dict], list[Task]]:
    """The cells before the first task, and the tasks."""
    before, tasks = [], []
    for cell in notebook["cells"]:
        heading = re.match(r"## (.+)", cell["source"]) if cell["cell_type"] == "markdown" else None
        if heading:
            tasks.append(Task(heading[1], []))
        (tasks[-1].cells if tasks else before).append(cell)
    return before, tasks


def grading(cell: dict) -> dict:
    """nbgrader's metadata of a cell; empty where it has none."""
    return cell["metadata"].get("nbgrader", {})


def is_wrong(cell: dict) -> bool:
    return WRONG in cell["metadata"].get("tags", ())


def wrong_answers(cells: list[dict]) -> list[tuple[dict, dict]]:
    """Every named wrong answer among these cells, with the solution cell that it replaces."""
    found, solution = [], None
    for cell in cells:
        if is_wrong(cell):
            found.append((cell, solution))
        else:
            solution = cell if grading(cell).get("solution") else None
    return found


def pages(name: str) -> list[Path]:
    """The notebooks of a lesson: 06_scaling has a second page, 06b_faster."""
    return sorted(LESSONS.glob(f"{name.partition('_')[0]}*.ipynb"))


def digest(*notebooks: Path) -> str:
    """Sixteen hexadecimal digits of what exercises can depend on: a lesson's code cells and its headings."""
    kept = []
    for cell in (cell for notebook in notebooks for cell in read(notebook)["cells"]):
        code = cell["cell_type"] == "code"
        kept.append(cell["source"] if code else "\n".join(re.findall(r"^#+ .*$", cell["source"], re.MULTILINE)))
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]


def reviewed(name: str) -> None:
    """Note that the exercises of a lesson fit the lesson as it is now."""
    path = COURSE / "source" / name / f"{name}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"]["reviewed"] = digest(*pages(name))
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def gradebook():
    """nbgrader's own interface to the course, set up by nbgrader_config.py."""
    from nbgrader.apps import NbGraderAPI
    from traitlets.config.loader import PyFileConfigLoader

    # nbgrader calls alembic, which lies beside this Python, by name alone.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    config = PyFileConfigLoader("nbgrader_config.py", path=str(COURSE)).load_config()
    Path(config.CourseDirectory.root).mkdir(parents=True, exist_ok=True)
    return NbGraderAPI(config=config)


def release() -> Path:
    """Write the students' versions of all sources with nbgrader; returns their folder."""
    api = gradebook()
    for path in sources():
        made = api.generate_assignment(path.stem)
        if not made["success"]:
            sys.exit(f"{path.stem}: nbgrader cannot make the students' version\n{made['log']}")
    return Path(api.coursedir.root) / api.coursedir.release_directory


def autograde(lesson: str, learner: str, again: bool) -> str:
    """Grade one submission with nbgrader; returns its log, empty where all went well."""
    from sqlalchemy.exc import SAWarning

    warnings.simplefilter("ignore", SAWarning)  # nbgrader's own
    graded = gradebook().autograde(lesson, learner, force=again)
    return "" if graded["success"] else graded.get("error") or graded["log"]


def grade(lesson: str, jobs: int, again: bool = False) -> None:
    """Grade the submissions of a lesson in several processes; what is graded already stays, unless again.

    A log of what nbgrader could not grade is written to autograded/LEARNER/LESSON.log.
    """
    from tqdm import tqdm

    api = gradebook()
    api.gradebook.close()  # the tables are there before the first process wants them
    learners = sorted(api.get_submitted_students(lesson))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of every kernel: the processes share the cores
    with tqdm(total=len(learners), desc=lesson, unit="submission") as progress:
        for learner, text in _logs(lesson, learners, jobs, again):
            log = Path(api.coursedir.root) / "autograded" / learner / f"{lesson}.log"
            log.unlink(missing_ok=True)
            if text:
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_text(text, encoding="utf-8")
            progress.update()


def _logs(lesson: str, learners: list[str], jobs: int, again: bool) -> Iterator[tuple[str, str]]:
    """Each learner with the log of the grading, in the order in which they are done."""
    if jobs == 1:
        yield from ((learner, autograde(lesson, learner, again)) for learner in learners)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(autograde, lesson, learner, again): learner for learner in learners}
        yield from ((waiting[done], done.result()) for done in as_completed(waiting))


def report(lesson: str) -> list[dict]:
    """One row per learner: name, state, points and a reason.

    State: not submitted; not graded; crashed (nbgrader could not grade it, or a cell of the learner's own failed or
    took too long); empty (as it was handed out); 0 points; graded. "waits for judgement" is added to it where an
    answer has been written that nobody has marked.
    """
    api = gradebook()
    root = Path(api.coursedir.root)
    with api.gradebook as book:
        learners = {student.id for student in book.students} | api.get_submitted_students(lesson)
    return [_standing(api, root, lesson, learner) for learner in sorted(learners)]


def _standing(api, root: Path, lesson: str, learner: str) -> dict:
    row = {"learner": learner, "state": "not submitted", "points": 0.0, "why": ""}
    file = Path(lesson) / f"{lesson}.ipynb"
    if not (root / "submitted" / learner / file).exists():
        return row
    if not (root / "autograded" / learner / file).exists():
        log = root / "autograded" / learner / f"{lesson}.log"
        if not log.exists():
            return row | {"state": "not graded", "why": "grade it first"}
        errors = re.findall(r"^[\w.]+(?:Error|Exception|Failed|Died)\b.*$", log.read_text("utf-8"), re.MULTILINE)
        causes = [line for line in errors if "NbGraderException" not in line]
        return row | {"state": "crashed", "why": causes[-1] if causes else f"see {log}"}
    given = {cell["id"]: cell["source"] for cell in read(root / "release" / file)["cells"]}
    cells = read(root / "autograded" / learner / file)["cells"]
    own = [cell for cell in cells if not grading(cell).get("locked", False) and not grading(cell).get("grade")]
    written = [cell for cell in own if cell["source"].strip() and cell["source"] not in given.values()]
    failed = [
        f"{output['ename']} in {cell['id']}"
        for cell in cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "error"
        and (cell in own or output["ename"] in ("CellTimeoutError", "DeadKernelError"))
    ]
    submission = api.get_submission(lesson, learner)
    state = "graded" if submission["score"] else "0 points"
    state = "crashed" if failed else state if written else "empty"
    if submission["needs_manual_grade"] and any(cell["cell_type"] == "markdown" for cell in written):
        state += ", waits for judgement"
    return row | {"state": state, "points": submission["score"], "why": "; ".join(failed)}


def show(lesson: str) -> None:
    """Print the report of a lesson, one line per learner."""
    rows = report(lesson)
    print(f"\n{lesson}: {len(rows)} learners")
    width = {key: max(len(str(row[key])) for row in rows) for key in rows[0]} if rows else {}
    for row in rows:
        print("  ".join(str(value).ljust(width[key]) for key, value in row.items()).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description="The graded exercises of the course.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("release", help="write the students' versions")
    names = [path.stem for path in sources()]
    lessons = commands.add_parser("reviewed", help="say that exercises fit their lesson as it is now")
    lessons.add_argument("lesson", nargs="+", choices=names)
    graded = commands.add_parser("grade", help="autograde what was submitted, and report")
    graded.add_argument("lesson", nargs="+", choices=names)
    graded.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    graded.add_argument("--again", action="store_true", help="grade also what is graded already")
    listed = commands.add_parser("report", help="who has handed in what, and what it earned")
    listed.add_argument("lesson", nargs="+", choices=names)
    arguments = parser.parse_args()
    if arguments.command == "release":
        print(f"{len(names)} assignments: {release()}")
        return
    for name in arguments.lesson:
        if arguments.command == "reviewed":
            reviewed(name)
            continue
        if arguments.command == "grade":
            grade(name, arguments.jobs, arguments.again)
        show(name)


if __name__ == "__main__":
    main()
