"""nbgrader's settings of this course: read course/source/, write everything else outside of the repository's files.

Student versions, gradebook and submissions lie in build/course, which make clean deletes: to teach, set
DISTILL_COURSE to a folder of your own. In JupyterLab, nbgrader's tabs find this file when it is started in course/,
and work when the folder that it shows holds both: README.md has the command.
"""

import os
import sys
from pathlib import Path

from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback, GenerateSolution
from nbgrader.preprocessors import Execute, OverwriteCells

SOURCE = Path(__file__).resolve().parent / "source"
ROOT = Path(os.environ.get("DISTILL_COURSE") or SOURCE.parent.parent / "build" / "course").expanduser().absolute()
sys.path.insert(0, str(SOURCE.parent))

from grading import Guarded, HideScheme, RemoveWrongAnswers, Restored  # noqa: E402


def usual(converter, name: str = "preprocessors") -> list:
    """nbgrader's own chain of a converter."""
    return converter.class_traits()[name].default()


c = get_config()  # noqa: F821 (nbgrader provides it)
c.CourseDirectory.course_id = "distillation"
c.CourseDirectory.root = str(ROOT)
c.CourseDirectory.source_directory = os.path.relpath(SOURCE, ROOT)
c.CourseDirectory.db_url = f"sqlite:///{ROOT / 'gradebook.db'}?timeout=60"  # several processes grade at once
c.Exchange.root = os.environ.get("DISTILL_EXCHANGE") or str(ROOT / "exchange")
for converter in (GenerateAssignment, GenerateSolution):
    c[converter.__name__].preprocessors = [RemoveWrongAnswers, *usual(converter)]
chain = usual(Autograde, "autograde_preprocessors")
c.Autograde.autograde_preprocessors = [Guarded if step is Execute else step for step in chain]
chain = usual(Autograde, "sanitize_preprocessors")
c.Autograde.sanitize_preprocessors = [Restored if step is OverwriteCells else step for step in chain]
c.GenerateFeedback.preprocessors = [*usual(GenerateFeedback), HideScheme]
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\nraise NotImplementedError"}
c.OverwriteCells.add_missing_cells = True  # a test that was deleted counts as well
c.Execute.timeout = 30  # seconds for a cell of the learner's, or a test
c.Execute.iopub_timeout = 30
c.Execute.startup_timeout = 300  # of a kernel: a server that grades in parallel is slow, not broken
c.Execute.extra_arguments = ["--HistoryManager.hist_file=:memory:", "--log-level=ERROR"]
