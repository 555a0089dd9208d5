"""Where the series opens with one click: addresses made from the repository's own, which pyproject.toml names.

The address is Repository below [project.urls]; a fork changes that line and nothing else. Binder builds
environment.yml and opens the notebooks as they are. Colab opens copies, kept on the branch that the site is published
from, with one cell in front that installs the package: a notebook of the series itself installs nothing. Without an
address on GitHub there is nothing to open, and no link is made. Needs only Python, so that the site can use it.
"""

import re
import tomllib

from distill_utils import settings

BRANCH = "gh-pages"  # where the site and the copies for Colab lie


def repository() -> str | None:
    """The repository's address on GitHub, without a slash at the end; None where pyproject.toml names none."""
    project = tomllib.loads((settings.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project.get("urls", {}).get("Repository", "").removesuffix("/").removesuffix(".git")
    return address if re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address) else None


def links(stem: str) -> dict[str, str]:
    """Name → address of every service that opens a notebook, such as 02_distill; empty without a repository."""
    address = repository()
    if address is None:
        return {}
    name = address.removeprefix("https://github.com/")
    return {
        "Colab": f"https://colab.research.google.com/github/{name}/blob/{BRANCH}/colab/{stem}.ipynb",
        "Binder": f"https://mybinder.org/v2/gh/{name}/HEAD?urlpath=lab/tree/notebooks/{stem}.ipynb",
    }


def for_colab(notebook: dict, address: str) -> dict:
    """A notebook (its JSON) with one cell in front that fetches and installs the package from `address`.

    The checkout becomes the working directory: results/ with its studies is found there. Outputs are kept.
    """
    source = f"!git clone --quiet --depth 1 {address} distill\n%cd distill\n%pip install --quiet ."
    install: dict = {"cell_type": "code", "id": "install", "metadata": {}, "execution_count": None, "outputs": [],
               "source": source.splitlines(keepends=True)}  # fmt: skip
    return notebook | {"cells": [install, *notebook["cells"]]}
