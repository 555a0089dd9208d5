"""Every unit test works in folders of its own, on one thread (or TEST_THREADS) and from one seed.

--hypothesis-profile=many (make properties) draws 1,000 cases per property instead of 50, the same ones every time.
"""

import os
import subprocess
import sys
from dataclasses import replace

import hypothesis
import pytest
import torch
from IPython.core.history import HistoryManager
from torch import nn

from distill_utils import recipes, settings
from distill_utils.data import ImageSet

HistoryManager.enabled = False  # a shell that a test starts would write to its file after the test's folder is gone

# Programs that tests import: the tools lie outside of the package.
sys.path += [str(settings.ROOT / folder) for folder in ("tools", "tools/stress", "tools/tables", "tools/site")]

for name, cases in (("many", 1000), ("few", 50)):
    hypothesis.settings.register_profile(
        name, max_examples=cases, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
hypothesis.settings.load_profile("few")


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("DISTILL_BUILD", str(tmp_path / "build"))
    monkeypatch.delenv("DISTILL_DATASET", raising=False)
    monkeypatch.setattr(recipes, "TEACHER", replace(recipes.TEACHER, dataset="glyphs"))  # as if imported without it
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # of the conftest.py above
    torch.manual_seed(0)


@pytest.fixture
def start_python():
    """A function that starts `python ARGUMENTS` in the checkout; what still runs when the test ends is killed."""
    started = []

    def start(*arguments, **environment):
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests/package", "tests/commands"]), **environment}
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)], cwd=settings.ROOT, env=variables, text=True,
            encoding=environment.get("PYTHONIOENCODING"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def tiny_set() -> ImageSet:
    """37 images of 2 channels, 5×4 pixels and 3 classes that a small network can tell apart."""
    random = torch.Generator().manual_seed(1)
    labels = torch.arange(37) % 3
    patterns = torch.rand(3, 2, 5, 4, generator=random)
    return ImageSet(0.7 * patterns[labels] + 0.3 * torch.rand(37, 2, 5, 4, generator=random), labels)


@pytest.fixture
def tiny_model():
    """A function that builds a network for tiny_set with all that has a state: BatchNorm and dropout."""

    def build(seed: int = 0, dropout: float = 0.3) -> nn.Module:
        torch.manual_seed(seed)
        layers = [
            nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(6 * 5 * 4, 3),
        ]  # fmt: skip
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # as models.build does

    return build
