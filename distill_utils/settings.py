"""Settings from the environment: which dataset, which folders, how many threads. They are read here and nowhere else.

DISTILL_DATASET  the dataset of every notebook (default glyphs)
DISTILL_SIDE     the width and height of the images of a folder of photographs, in pixels (default 32)
DISTILL_DATA     the folder of real datasets (default data)
DISTILL_RUNS     the folder of trained models and recorded logits (default runs)
DISTILL_BUILD    the folder of executed notebooks, pages and checks (default build)
DISTILL_LANGUAGE the language of figures, tables and checks: en (default) or zh

A relative path, also that of DISTILL_DATASET=folder:PATH, starts at the root of the checkout. It therefore means the
same folder in a command and in a notebook, whose kernel starts in notebooks/.
"""

import os
from pathlib import Path

# Of a package that is installed elsewhere, the checkout is where the process starts or above: kernels start in
# notebooks/.
_places = [Path(__file__).resolve().parent.parent, Path.cwd(), *Path.cwd().parents]
ROOT = next((path for path in _places if (path / "notebooks").is_dir() and (path / "pyproject.toml").exists()),
            Path.cwd())


def dataset(name: str | None = None, side: int | None = None) -> str:
    """The name of the dataset that notebooks use, or this name. That of a folder of photographs says their side."""
    if name is None:
        name = os.environ.get("DISTILL_DATASET") or "glyphs"
    if side is not None or (name.startswith("folder:") and "side=" not in name):
        name = with_option(name, "side", side or os.environ.get("DISTILL_SIDE") or 32)
    return name


def with_option(name: str, option: str, value) -> str:
    """The name of a folder of photographs with one more option, such as folder:PATH?side=64. Raises ValueError for
    another dataset, and where the option is in the name already."""
    if not name.startswith("folder:"):
        raise ValueError(f"{option} is for a dataset folder:PATH, not for {name}")
    if f"{option}=" in name:
        raise ValueError(f"{option} is given twice: in {name}, and as {value}")
    return f"{name}{'&' if '?' in name else '?'}{option}={value}"


def absolute(path: str | Path) -> Path:
    """An absolute path; a relative one starts at ROOT. Raises RuntimeError for the home ~name of an unknown user."""
    return ROOT / Path(path).expanduser()


def data_folder() -> Path:
    return absolute(os.environ.get("DISTILL_DATA") or "data")


def runs_folder() -> Path:
    return absolute(os.environ.get("DISTILL_RUNS") or "runs")


def build_folder() -> Path:
    return absolute(os.environ.get("DISTILL_BUILD") or "build")


def results_folder() -> Path:
    return ROOT / "results"


def translations_folder() -> Path:
    return ROOT / "translations"


def language() -> str:
    """The language of figures, tables and checks. Raises ValueError, which lists the known ones, for another."""
    name = os.environ.get("DISTILL_LANGUAGE") or "en"
    if name != "en" and not (translations_folder() / name / "strings.po").exists():
        known = ["en", *sorted(path.parent.name for path in translations_folder().glob("*/strings.po"))]
        raise ValueError(f"DISTILL_LANGUAGE={name} is not known: choose one of {', '.join(known)}")
    return name


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
