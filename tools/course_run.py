"""The whole way of an exercise, for every lesson and twenty kinds of submission, in a folder of its own.

    python tools/course_run.py [--lessons 02 03] [--kinds right empty …] [--jobs 1]

generate, release, fetch, submit, collect, autograde, feedback, as nbgrader does it; then the pages are searched for
lines of mark schemes, hidden tests and solutions, and points are compared with what each kind has to earn. Faults get
one line each, and exit status 1. The week's workflow runs it: nine lessons take about an hour on two cores.
"""

import argparse
import html
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "course"))

import exercises  # noqa: E402
import grading  # noqa: E402

PEEK = "print(In)"  # everything that the kernel has run, hidden tests included
KINDS: dict[str, Callable[[list[dict], list[dict]], list[dict] | str]] = {}


def kind(change):
    """A kind of submission: from the cells with solutions and the released cells to what is handed in."""
    KINDS[change.__name__] = change
    return change


def _replaced(cells: list[dict], change: Callable[[str], str]) -> list[dict]:
    """The cells with every cell for a solution changed."""
    copies = json.loads(json.dumps(cells))
    for cell in copies:
        if exercises.grading(cell).get("solution"):
            cell["source"] = change(cell["source"])
    return copies


def _function(source: str, body: str) -> str:
    """The functions of a solution with another body each."""
    heads = re.findall(r"^def .*?\)(?: -> .*?)?:$", source, re.MULTILINE | re.DOTALL)
    return "\n\n\n".join(f"{head}\n    {body}" for head in heads)


def _code(source: str) -> dict:
    return {
        "cell_type": "code",
        "id": "added",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
        "source": source,
    }


@kind
def right(solved, given):
    return solved


@kind
def empty(solved, given):
    return given


@kind
def only_judged(solved, given):
    copies = json.loads(json.dumps(given))
    copies[-1]["source"] = "The data do not decide; with five more seeds I would know."
    return copies


@kind
def nothing_returned(solved, given):
    return _replaced(given, lambda source: _function(source, "pass"))


@kind
def zeros(solved, given):
    return _replaced(given, lambda source: _function(source, "return 0.0"))


@kind
def syntax_error(solved, given):
    return _replaced(given, lambda source: "def (")


@kind
def a_module_that_is_missing(solved, given):
    return _replaced(given, lambda source: f"import not_there\n{source}")


@kind
def abs_redefined(solved, given):
    return [
        given[0],
        *_replaced(given[1:], lambda source: f"def abs(x):\n    return 0\n\n\n{_function(source, 'return 1.0')}"),
    ]


@kind
def equal_to_everything(solved, given):
    body = "return type('X', (float,), {'__eq__': lambda a, b: True, '__sub__': lambda a, b: 0.0})(1.0)"
    return _replaced(given, lambda source: _function(source, body))


@kind
def library_replaced(solved, given):
    prefix = "import torch\ntorch.equal = torch.allclose = lambda *a, **b: True\n\n\n"
    return _replaced(given, lambda source: prefix + _function(source, "return torch.zeros(1)"))


@kind
def builtins_replaced(solved, given):
    prefix = "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.all = lambda x: True\n\n\n"
    return _replaced(given, lambda source: prefix + _function(source, "return 1.0"))


@kind
def peeks_at_the_end(solved, given):
    return [*given, _code(PEEK)]


@kind
def peeks_in_every_answer(solved, given):
    return _replaced(given, lambda source: _function(source, PEEK + "\n    return 1.0"))


@kind
def raises_what_it_sees(solved, given):
    return _replaced(given, lambda source: _function(source, "raise AssertionError(str(In))"))


@kind
def right_and_peeks(solved, given):
    return [*solved, _code(PEEK)]


@kind
def tests_deleted(solved, given):
    return [cell for cell in given if not exercises.grading(cell).get("grade")]


@kind
def tests_emptied(solved, given):
    copies = json.loads(json.dumps(given))
    for cell in copies:
        if exercises.grading(cell).get("grade"):
            cell["source"] = "pass"
    return copies


@kind
def cells_twice(solved, given):
    return [*given, *json.loads(json.dumps(given[1:]))]


@kind
def no_metadata(solved, given):
    copies = json.loads(json.dumps(solved))
    for cell in copies:
        cell["metadata"] = {}
    return copies


@kind
def no_notebook(solved, given):
    return "this is no notebook"


FULL = {"right", "right_and_peeks"}  # all other kinds earn at most a tenth of the tests' points
BROKEN = {"no_notebook", "no_metadata"}  # nbgrader may refuse to grade these


def hidden(source: dict) -> str:
    """Mark schemes and hidden tests of a source."""
    texts = [cell["source"] for cell in source["cells"]]
    return "\n".join(found for text in texts for region in grading.REGIONS for found in region.findall(text))


def solutions(source: dict) -> str:
    texts = [cell["source"] for cell in source["cells"]]
    return "\n".join(
        found for text in texts for found in re.findall(r"# BEGIN SOLUTION(.*?)# END SOLUTION", text, re.DOTALL)
    )


def run(lesson: str, kinds: list[str], root: Path, jobs: int) -> list[str]:
    """Everything that goes wrong with one lesson."""
    api = exercises.gradebook()
    source = exercises.read(ROOT / "course" / "source" / lesson / f"{lesson}.ipynb")
    solved = [cell for cell in source["cells"] if not exercises.is_wrong(cell)]
    steps = [api.generate_assignment(lesson), api.release_assignment(lesson)]
    faults = [f"{lesson}: {step['log']}" for step in steps if not step["success"]]
    if faults:
        return faults
    given = exercises.read(root / "exchange" / "distillation" / "outbound" / lesson / f"{lesson}.ipynb")
    for name in kinds:  # fetch, answer, hand in, collect; nbgrader's own submit needs an account for each learner
        cells = KINDS[name](solved, given["cells"])
        folder = root / "submitted" / name / lesson
        folder.mkdir(parents=True)
        text = cells if isinstance(cells, str) else json.dumps(given | {"cells": cells})
        (folder / f"{lesson}.ipynb").write_text(text, encoding="utf-8")
    exercises.grade(lesson, jobs)
    exercises.show(lesson)
    most = sum(exercises.grading(cell).get("points", 0) for cell in solved if exercises.grading(cell).get("grade"))
    told = "".join(cell["source"] for cell in given["cells"])
    for row in exercises.report(lesson):
        name, points = row["learner"], row["points"]
        if name in FULL and points != most:
            faults.append(f"{lesson}, {name}: {points} points of {most}")
        if name not in FULL | BROKEN and points > most / 10:
            faults.append(f"{lesson}, {name}: {points} points, more than a tenth of {most}")
        if not (root / "autograded" / name / lesson / f"{lesson}.ipynb").exists():
            continue
        made = api.generate_feedback(lesson, name)
        if not made["success"]:
            faults.append(f"{lesson}, {name}: no feedback\n{made['log']}")
            continue
        page = (root / "feedback" / name / lesson / f"{lesson}.html").read_text(encoding="utf-8")
        page = grading.letters(html.unescape(re.sub(r"<[^>]+>", "", page)))
        secret = hidden(source) if name in FULL else hidden(source) + solutions(source)
        own = solutions(source) if name in FULL else ""  # what stands in the answer itself is no leak
        leaks = [line for line in grading.lines(secret, told + own) if line in page]
        faults += [f"{lesson}, {name}: the page tells {line!r}" for line in leaks]
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description="The way of an exercise from the source to the learner's feedback.")
    parser.add_argument("--lessons", nargs="+", default=[path.stem for path in exercises.sources()])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    names = [path.stem for path in exercises.sources() if path.stem.startswith(tuple(arguments.lessons))]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DISTILL_COURSE"] = folder
        os.environ.pop("DISTILL_EXCHANGE", None)
        faults = [fault for name in names for fault in run(name, arguments.kinds, Path(folder), arguments.jobs)]
    print(
        "\n".join(faults)
        or f"{len(names)} lessons, {len(arguments.kinds)} kinds of submission: no leak, points as expected"
    )
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
