"""What this course adds to nbgrader's chains; nbgrader_config.py puts each part in its place.

GenerateAssignment   RemoveWrongAnswers   named wrong answers are for our tests alone
Autograde            Guarded              tests see Python as it is, whatever a submission redefines
GenerateFeedback     HideScheme           a learner's page without mark scheme, hidden tests and tracebacks
"""

import html
import re
import secrets
from pathlib import Path

from nbformat.v4 import new_output
from nbgrader.preprocessors import Execute, NbGraderPreprocessor, OverwriteCells
from nbgrader.utils import is_grade, is_locked, is_solution, is_task

GUARD = Path(__file__).resolve().with_name("guard.py")
REGIONS = (
    re.compile(
        r"^[ \t]*### BEGIN HIDDEN TESTS.*?(?:^[ \t]*### END HIDDEN TESTS[^\n]*\n?|\Z)", re.MULTILINE | re.DOTALL
    ),
    re.compile(r"^=== BEGIN MARK SCHEME ===.*?(?:^=== END MARK SCHEME ===[^\n]*\n?|\Z)", re.MULTILINE | re.DOTALL),
)
LONG = 12  # characters of a line that gives something away; shorter ones, such as "return", stand in every program


class RemoveWrongAnswers(NbGraderPreprocessor):
    """Named wrong answers are for tests/notebooks/test_course.py alone."""

    def preprocess(self, nb, resources):
        nb.cells = [cell for cell in nb.cells if "wrong-answer" not in cell.metadata.get("tags", ())]
        return nb, resources


class Restored(OverwriteCells):
    """nbgrader's OverwriteCells, which fails at the empty metadata that DeduplicateIds leaves on a copied cell."""

    def preprocess(self, nb, resources):
        for cell in nb.cells:
            if cell.metadata.get("nbgrader") == {}:
                del cell.metadata["nbgrader"]
        return super().preprocess(nb, resources)


class Guarded(Execute):
    """nbgrader's Execute, with every test run by guard.py. The cells that are saved keep their own source.

    The time limit is for the learner's cells and for tests; our own, which import and train, have ten times as long.
    """

    def preprocess(self, nb, resources, *arguments, **options):
        self.timeout_func = lambda cell: self.timeout * (10 if is_locked(cell) and not is_grade(cell) else 1)
        self._name = f"_guard_{secrets.token_hex(8)}"
        code = [index for index, cell in enumerate(nb.cells) if cell.cell_type == "code"]
        locked = [index for index in code if is_locked(nb.cells[index])]
        answers = [index for index in code if is_solution(nb.cells[index])]
        self._first = code[0] if code else -1
        self._last = max([index for index in locked if index < min(answers, default=0)], default=self._first)
        return super().preprocess(nb, resources, *arguments, **options)

    def preprocess_cell(self, cell, resources, index):
        source = cell.source
        if cell.cell_type == "code" and is_grade(cell):
            cell.source = f"{self._name}.run({source!r}, {cell.metadata.nbgrader['grade_id']!r})"
        if index == self._first:
            start = f"{self._name} = __import__('runpy').run_path({str(GUARD)!r})['Guard'](get_ipython().user_ns)"
            cell.source = f"{start}\n{cell.source}"
        if index == self._last:
            cell.source = f"{cell.source}\n{self._name}.keep()"
        try:
            return super().preprocess_cell(cell, resources, index)
        finally:
            cell.source = source


class HideScheme(NbGraderPreprocessor):
    """The page that a learner gets: own answers, points, comments, and one sentence for each test that failed.

    Left out are mark schemes, hidden tests, tracebacks (which quote them) and all that the learner's own cells print:
    a submission can print what it was tested with. What locked cells print stays, unless a line of a scheme or of a
    hidden test is in it.
    """

    def preprocess(self, nb, resources):
        ours = [cell for cell in nb.cells if is_task(cell) or is_locked(cell)]
        hidden = "\n".join(found for cell in ours for region in REGIONS for found in region.findall(cell.source))
        for cell in ours:
            for region in REGIONS:
                cell.source = region.sub("", cell.source).rstrip()
        self._secret = lines(hidden, told=" ".join(cell.source for cell in ours))
        for cell in nb.cells:
            if cell.cell_type == "code":
                keep = (
                    cell.outputs if is_locked(cell) else [out for out in cell.outputs if out.output_type == "error"]
                )
                cell.outputs = [shown for output in keep if (shown := self._shown(output, test=is_grade(cell)))]
        return nb, resources

    def _shown(self, output, test: bool):
        """An output as the learner may see it; None for none."""
        if output.output_type == "error":
            sentence = f"{output.ename}: {output.evalue}"
            sentence = "It fails on inputs that you have not seen." if self._tells(sentence) else sentence
            return new_output("stream", name="stdout", text=sentence[:600] + "\n")
        data = output.get("data", {})
        text = html.unescape(
            "".join([output.get("text", ""), *filter(lambda part: isinstance(part, str), data.values())])
        )
        picture = any(kind.startswith("image/") for kind in data)  # nobody can tell what is written in it
        return None if test or picture or self._tells(text) else output

    def _tells(self, text: str) -> bool:
        text = letters(text)
        return any(line in text for line in self._secret)


def lines(secret: str, told: str) -> set[str]:
    """The lines of a secret text that give something away, letters alone: long ones that stand nowhere in `told`."""
    told = letters(told)
    return {line for line in map(letters, secret.splitlines()) if len(line) >= LONG and line not in told}


def letters(text: str) -> str:
    """Letters and digits alone, so that neither quotes nor line ends hide a line."""
    return re.sub(r"[\W_]+", "", text)
