"""Copies of the notebooks for Colab, each with one cell in front that fetches and installs the package.

    python tools/site/colab.py build/colab [ADDRESS]

ADDRESS is the repository to install from, a folder for a trial; without it, what pyproject.toml names.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402


def write(folder: Path, address: str) -> None:
    """A copy of every notebook, its outputs kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        copy = launch.for_colab(json.loads(path.read_text(encoding="utf-8")), address)
        text = json.dumps(copy, indent=1, ensure_ascii=False) + "\n"
        (folder / path.name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    address = sys.argv[2] if len(sys.argv) > 2 else launch.repository()
    if address:
        write(Path(sys.argv[1]), address)
        print(f"{sys.argv[1]}: notebooks that install the package from {address}")
    else:
        print("no notebooks for Colab: pyproject.toml names no Repository on GitHub below [project.urls]")
