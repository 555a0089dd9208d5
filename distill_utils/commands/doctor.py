"""Checks the machine before a reader starts: one line per thing that the series needs, with what to do."""

import importlib.metadata
import re
import shutil
import sys
import tomllib
from collections.abc import Callable

from distill_utils import settings

_ENOUGH_DISK = 2e9  # bytes for trained models, recorded logits and pages


def examine() -> bool:
    """Print OK, or FAIL with what to do, for everything that the series needs; True if nothing failed."""
    ok = True
    for name, check in _CHECKS.items():
        try:
            print(f"OK    {name}: {check()}")
        except Exception as error:
            ok = False
            print(f"FAIL  {name}: {error}")
    return ok


def _python() -> str:
    return sys.version.split()[0]


def _packages() -> str:
    project = tomllib.loads((settings.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wrong = []
    for requirement in project["dependencies"]:
        name, _, least = requirement.partition(">=")
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if _numbers(found) < _numbers(least):
            wrong.append(f"{name} {found} is older than {least}")
    if wrong:
        raise RuntimeError(f"{'; '.join(wrong)}: run make, or pip install -r requirements.txt")
    return f"{len(project['dependencies'])} found"


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def _torch() -> str:
    import torch

    try:
        import torchvision
    except Exception as error:
        raise RuntimeError(
            f"torchvision does not fit torch {torch.__version__} ({error}): pip install -r requirements.txt"
        ) from error
    return f"torch {torch.__version__} with torchvision {torchvision.__version__}"


def _data() -> str:
    from distill_utils import data

    images = data.load(settings.dataset())
    return images.about or f"{images.name}, {len(images.train)} labelled images of {len(images.classes)} classes"


def _disk() -> str:
    from distill_utils import _store

    folder = settings.runs_folder()
    for place in (folder, settings.build_folder()):
        with _store.atomic(place / ".doctor") as temporary:
            temporary.touch()
        (place / ".doctor").unlink()
    free = shutil.disk_usage(folder).free
    if free < _ENOUGH_DISK:
        raise RuntimeError(f"{free / 1e9:.1f} GB free at {folder}: free 2 GB, or point DISTILL_RUNS elsewhere")
    return f"{free / 1e9:.0f} GB free at {folder}"


def _threads() -> str:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU, and none is needed"
    return f"{torch.get_num_threads()} used by torch, {settings.cores()} cores; {gpu}"


_CHECKS: dict[str, Callable[[], str]] = {
    "Python": _python, "packages": _packages, "torch": _torch, "data": _data, "disk": _disk, "threads": _threads,
}
