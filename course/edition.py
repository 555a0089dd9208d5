"""The students' edition: everything a learner needs, and nothing that gives an exercise away.

    python course/edition.py        into build/student (make student)

It writes distillation/, the same as an archive, and exchange/, a folder for nbgrader's exchange on a JupyterHub. What
is left out: course/source, the instructor's pages, tests and tools. A link to what is left out becomes its
words, so that nothing in the edition leads nowhere.
"""

import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

COURSE = Path(__file__).resolve().parent
ROOT = COURSE.parent
sys.path[:0] = [str(COURSE), str(ROOT / "tools")]

import exercises  # noqa: E402
import notebook_rules  # noqa: E402

FILES = {"LICENSE", "environment.yml", "pyproject.toml", "requirements.txt"}
FILES |= {"translations/zh/strings.po", "translations/zh/messages.po"}
FOLDERS = ("distill_utils/", "notebooks/", "results/", "course/quiz/")
PAGES = {"course/glossary.md", "course/cheatsheet.md", "course/project.md", "course/self-check.md"}
TARGETS = {"setup", "run", "lab", "clean", "help", "$(READY)"}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:)<?([^)\s>]+)>?\)")


def write(target: Path, released: Path) -> Path:
    """Write the edition into target/distillation, its archive and the exchange; returns the archive.

    released: the students' versions of the exercises, as exercises.release() returns them.
    """
    shutil.rmtree(target, ignore_errors=True)
    folder = target / "distillation"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.split("\0"):
        if (name in FILES | PAGES or name.startswith(FOLDERS)) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    shutil.copyfile(COURSE / "student" / "README.md", folder / "README.md")
    (folder / "Makefile").write_text(_makefile(), encoding="utf-8")
    shutil.copytree(released, folder / "exercises")
    for path in [*folder.rglob("*.md"), *folder.rglob("*.ipynb")]:
        _unlink(path, folder)
    _release_to_exchange(target / "exchange")
    archive = target / "distillation.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, folder.name)
    return archive


def _makefile() -> str:
    """The Makefile with the targets that work without tests and tools."""
    kept = []
    for block in (ROOT / "Makefile").read_text(encoding="utf-8").split("\n\n"):
        targets = set(re.findall(r"^([\w$()/-]+):(?!=)", block, re.MULTILINE))
        if targets & TARGETS or block.startswith(("##", "define")):
            lines = block.splitlines()
            named = [re.match(r"## make (\w+)", line) for line in lines]
            kept.append("\n".join(line for line, found in zip(lines, named, strict=True)
                                  if not found or found[1] in TARGETS))  # fmt: skip
    text = "\n\n".join(kept).replace("  # the instructor's: course/README.md", "")
    text = text.replace("jupyter lab notebooks", "jupyter lab")  # so that it shows the exercises, too
    return text + "\n\n.PHONY: help run lab clean\n"


def _unlink(path: Path, folder: Path) -> None:
    """Put its words in the place of every link of a page or notebook to something that the edition lacks."""

    def kept(found: re.Match) -> str:
        file, _, anchor = found[2].partition("#")
        to = (path.parent / file).resolve() if file else path
        there = to.is_relative_to(folder.resolve()) and to.exists()
        if there and anchor and to.suffix == ".md":
            there = anchor in notebook_rules.anchors(to.read_text(encoding="utf-8"))
        return found[0] if there else found[1]

    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        path.write_text(LINK.sub(kept, text), encoding="utf-8")
        return
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = LINK.sub(kept, "".join(cell["source"])).splitlines(keepends=True)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _release_to_exchange(root: Path) -> None:
    """What nbgrader's release_assignment writes: outbound for all to read, inbound for all to write into."""
    root.mkdir(mode=0o777)
    api = exercises.gradebook()
    api.config.Exchange.root = str(root)
    for path in exercises.sources():
        made = api.release_assignment(path.stem)
        if not made["success"]:
            sys.exit(f"{path.stem}: nbgrader cannot release it\n{made['log']}")


if __name__ == "__main__":
    print(f"The students' edition: {write(ROOT / 'build' / 'student', exercises.release())}")
