"""What the environment decides: which dataset, where files live, how many threads. Read here and nowhere else.

DISTILL_DATASET  the dataset of every notebook (default glyphs)
DISTILL_DATA     where real datasets are looked for (default data/ in the checkout)
DISTILL_RUNS     where trained models and recorded logits are kept (default runs/)
DISTILL_BUILD    where executed notebooks, pages and checks go (default build/)
"""

import os
from pathlib import Path

_here = Path(__file__).resolve().parent.parent
ROOT = _here if (_here / "pyproject.toml").exists() else Path.cwd()


def dataset() -> str:
    """The name of the dataset that notebooks use."""
    return os.environ.get("DISTILL_DATASET") or "glyphs"


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or ROOT / default).expanduser().absolute()


def data_folder() -> Path:
    return _folder("DISTILL_DATA", "data")


def runs_folder() -> Path:
    return _folder("DISTILL_RUNS", "runs")


def build_folder() -> Path:
    return _folder("DISTILL_BUILD", "build")


def results_folder() -> Path:
    return ROOT / "results"


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
