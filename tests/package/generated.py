"""Generated arguments for tests of properties and laws.

`Draw` draws small tensors whose sizes go by letters (N, C, …), so that the arguments of one call fit each other.
Tensors come from a seed: hypothesis chooses shapes, scales and faults, and need not choose every number.
"""

import tempfile
from pathlib import Path

import torch
from hypothesis import strategies as st
from torch import Tensor

from distill_utils import augment, settings

_SIZES = {"N": (1, 6), "C": (2, 6), "H": (8, 10), "W": (8, 10), "K": (1, 2), "D": (1, 5), "L": (1, 4), "G": (1, 3)}
WORDS = st.text(max_size=12) | st.sampled_from(["", ".", "../x", "~nobody", "\0", "é" * 300, "nan", "folder:nowhere"])


class Draw:
    """What one example draws. sizes: how large the dimension of each letter is; drawn when it is first needed."""

    def __init__(self, draw):
        self.draw, self.sizes = draw, {}

    def size(self, letter: str) -> int:
        if letter.isdigit():
            return int(letter)
        if letter not in self.sizes:
            self.sizes[letter] = self.draw(st.integers(*_SIZES[letter]), letter)
        return self.sizes[letter]

    def shape(self, letters: str) -> list[int]:
        return [self.size(letter) for letter in letters]

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.draw(st.integers(0, 2**31), "seed"))

    def floats(self, letters: str, *, scales=(1.0, 0.0, 1e-3, 30.0, 1e4)) -> Tensor:
        """Normal numbers of some scale; rounded in some examples, so that there are ties."""
        random = torch.randn(self.shape(letters), generator=self.generator()) * self.one(*scales)
        return random.round() if self.one(False, True) else random

    def shares(self, letters: str) -> Tensor:
        """Numbers in [0, 1]."""
        random = torch.rand(self.shape(letters), generator=self.generator())
        return random.round() if self.one(False, True) else random

    def longs(self, letters: str, high: int) -> Tensor:
        """Whole numbers from 0 to high - 1."""
        return torch.randint(high, self.shape(letters), generator=self.generator())

    def labels(self) -> Tensor:
        return self.longs("N", self.size("C"))

    def masks(self, letters: str) -> Tensor:
        """Neither empty nor full in any row."""
        found = torch.rand(self.shape(letters), generator=self.generator()) < self.one(0.5, 0.1, 0.9)
        rows = found.view(len(found), -1)
        rows[:, 0], rows[:, 1] = True, False
        return found

    def one(self, *values):
        return self.draw(st.sampled_from(values))

    def number(self, low: float, high: float) -> float:
        return self.draw(st.floats(low, high))

    def whole(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def word(self) -> str:
        return self.draw(WORDS)

    def values(self, least: int = 1, most: int = 6) -> list[float]:
        return self.draw(st.lists(st.floats(-1e6, 1e6), min_size=least, max_size=most))


# Arguments that belong together


def share(d, low=0.01, high=0.99):
    return d.number(low, high)


def logit_pair(d):
    logits = {"student_logits": d.floats("NC"), "teacher_logits": d.floats("NC")}
    return logits | {"temperature": d.one(0.1, 1.0, 2.5, 8.0, 100.0)}


def group_weights(d):
    d.sizes["G"] = min(d.size("G"), d.size("C"))
    groups = d.longs(d.one("C", "NC"), d.size("G"))
    groups.view(-1)[0] = d.size("G") - 1  # as many groups as weights
    within = d.one(d.number(0, 5), d.shares("G"))
    return logit_pair(d) | {"groups": groups, "between": d.number(0, 5), "within": within,
                            "decoupled": d.one(False, True)}  # fmt: skip


def every_class(d):
    """Logits and labels in which no class is missing."""
    count = d.size("C")
    d.sizes["N"] = count + d.whole(0, 3)
    labels = torch.cat([torch.arange(count), torch.randint(count, (d.sizes["N"] - count,), generator=d.generator())])
    return {"outputs": d.floats("NC"), "labels": labels}


def seeds_of(d):
    count = d.whole(1, 6)
    return {"treated": d.values(count, count), "control": d.values(count, count)}


def located(d):
    """Maps, none of which is zero everywhere, and masks."""
    maps = d.floats("NHW")
    maps[:, 0, 0] += 1.5
    return {"maps": maps, "masks": d.masks("NHW")}


def an_augmentation(d):
    return augment.Augmentation(d.number(0, 6), d.number(0, 9), share(d, 0), d.one(True, False), d.one(True, False))


def folder() -> Path:
    """A new one, within this test's own."""
    return Path(tempfile.mkdtemp(dir=settings.runs_folder().parent))
