"""nbgrader's settings of this course: read course/source/, write everything else outside of the repository's files.

Student versions, gradebook and submissions lie in build/course, which make clean deletes: to teach, set
DISTILL_COURSE to a folder of your own. In JupyterLab, nbgrader's tabs find this file when it is started in course/,
and work when the folder that it shows holds both: README.md has the command.
"""

import os
from pathlib import Path

from nbgrader.converters import GenerateAssignment, GenerateSolution
from nbgrader.preprocessors import NbGraderPreprocessor

SOURCE = Path(__file__).resolve().parent / "source"
ROOT = Path(os.environ.get("DISTILL_COURSE") or SOURCE.parent.parent / "build" / "course").expanduser().absolute()


class RemoveWrongAnswers(NbGraderPreprocessor):
    """Named wrong answers are for tests/notebooks/test_course.py alone."""

    def preprocess(self, nb, resources):
        nb.cells = [cell for cell in nb.cells if "wrong-answer" not in cell.metadata.get("tags", ())]
        return nb, resources


c = get_config()  # noqa: F821 (nbgrader provides it)
c.CourseDirectory.course_id = "distillation"
c.CourseDirectory.root = str(ROOT)
c.CourseDirectory.source_directory = os.path.relpath(SOURCE, ROOT)
for converter in (GenerateAssignment, GenerateSolution):
    usual = converter.class_traits()["preprocessors"].default()
    c[converter.__name__].preprocessors = [RemoveWrongAnswers, *usual]
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\nraise NotImplementedError"}
# Thirty submissions on one server are slow, not broken: the usual 30 s for a cell and 4 s for its output are too few.
c.Execute.timeout = 300
c.Execute.iopub_timeout = 120
