"""The quizzes for a learning platform: Moodle's GIFT, and the text from which text2qti makes QTI.

    python tools/quizzes.py build/quizzes        (make quizzes, which calls text2qti as well)

Both are made from course/quiz/*.md, explanations included. Moodle: Question bank, Import, GIFT format. Canvas and
others: import NN.zip as a QTI 1.2 package.
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

QUIZZES = Path(__file__).resolve().parents[1] / "course" / "quiz"
OPTION = re.compile(
    r"<details><summary>(\w)\. (.+?)</summary>\n\n\*\*(Right|No)\.\*\* (.+?)\n\n</details>", re.DOTALL
)


class Option(NamedTuple):
    """An answer: its letter, its text, whether it is right, and why."""

    letter: str
    text: str
    right: bool
    why: str


def questions(path: Path) -> dict[str, list[Option]]:
    """The options of every question of a quiz, by the question's text."""
    found = {}
    for part in re.split(r"^## \d+\. ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        options = [Option(a, _plain(b), c == "Right", _plain(d)) for a, b, c, d in OPTION.findall(part)]
        found[_plain(part.splitlines()[0])] = options
    return found


def _plain(text: str) -> str:
    """One line, with links as their words and characters instead of HTML's names for them."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(text.split()))
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def gift(path: Path) -> str:
    """A quiz in Moodle's GIFT format, in the category of its lesson."""
    blocks = [f"$CATEGORY: distillation/{path.stem}"]
    for number, (question, options) in enumerate(questions(path).items(), start=1):
        answers = "\n".join(f"{'=' if o.right else '~'}{_escaped(o.text)}#{_escaped(o.why)}" for o in options)
        blocks.append(f"::{path.stem}-{number}::[markdown]{_escaped(question)}{{\n{answers}\n}}")
    return "\n\n".join(blocks) + "\n"


def _escaped(text: str) -> str:
    return re.sub(r"([~=#{}:\\])", r"\\\1", text)


def qti_text(path: Path) -> str:
    """A quiz in the text format of text2qti."""
    title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    blocks = [f"Quiz title: {title}"]
    for number, (question, options) in enumerate(questions(path).items(), start=1):
        lines = [f"{number}. {question}"]
        for option in options:
            lines += [f"{'*' if option.right else ''}{option.letter.lower()}) {option.text}", f"... {option.why}"]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(QUIZZES.glob("*.md")):
        (folder / f"{path.stem}.gift").write_text(gift(path), encoding="utf-8")
        (folder / f"{path.stem}.txt").write_text(qti_text(path), encoding="utf-8")
        print(f"{folder / path.stem}.gift, {path.stem}.txt: {len(questions(path))} questions")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
