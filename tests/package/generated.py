"""Generated arguments for tests of properties and laws.

`Draw` draws small tensors whose sizes go by letters (N, C, …), so that the arguments of one call fit each other.
Tensors come from a seed: hypothesis chooses shapes, scales and faults, and need not choose every number.
"""

import functools
import math
import tempfile
from pathlib import Path

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_utils import augment, glyphs, hard_tree, models, settings, soft_tree

_SIZES = {"N": (1, 6), "C": (2, 6), "H": (8, 10), "W": (8, 10), "K": (1, 2), "D": (1, 5), "L": (1, 4), "G": (1, 3)}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e300, 1e300) | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=4), parts, max_size=3), max_leaves=6,
)  # fmt: skip
RECORDS = st.dictionaries(st.text(max_size=4), JSON, max_size=4)
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

    def distributions(self, letters: str) -> Tensor:
        return self.floats(letters).softmax(-1)

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


def images_for(d):
    return d.shares("NKHW")


def feature_maps(d):
    return {"student_map": d.floats("NDHW"), "teacher_map": d.floats("NGHW")}


def an_augmentation(d):
    return augment.Augmentation(d.number(0, 6), d.number(0, 9), share(d, 0), d.one(True, False), d.one(True, False))


def factors(d):
    look = glyphs.Look(cue=share(d), cue_size=d.whole(2, 6))
    return glyphs.sample(torch.randint(10**6, (d.whole(1, 2),), generator=d.generator()), d.whole(0, 10**6), look)


@functools.cache
def _network(name: str, num_classes: int, channels: int) -> nn.Module:
    torch.manual_seed(2)
    options = {"width": 8, "blocks": 1} if name == "resnet" else {"width": 2}
    return models.build(name, num_classes, channels, **options).eval()


def a_network(d):
    return _network(d.one("student", "resnet"), d.size("C"), d.size("K"))


def a_tree(d):
    """A soft tree that counts as trained."""
    in_features = math.prod(d.shape("KHW"))
    tree = soft_tree.SoftDecisionTree(in_features, d.size("C"), 3)
    tree.gates.weight.data = d.one(0.1, 3.0) * torch.randn(7, in_features, generator=d.generator())
    tree.reached += 1
    tree.went_right += 0.5
    return tree


def leaves_of_a_batch(d):
    return {"leaf_log_probabilities": d.floats("NL").log_softmax(1), "leaves": d.floats("LC")}


def a_hard_tree(d):
    """Three gates and four leaves."""
    children = torch.tensor([[1, 2], [-1, -2], [-3, -4]])
    return hard_tree.HardTree(d.floats("3D"), d.floats("3"), children, d.floats("4C"), torch.arange(3))


def a_cart(d):
    return hard_tree.cart(d.shares("ND"), d.distributions("NC"), d.whole(1, 3))


def folder() -> Path:
    """A new one, within this test's own."""
    return Path(tempfile.mkdtemp(dir=settings.runs_folder().parent))


def some_tensors(d):
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
    names = d.draw(st.lists(st.text(min_size=1, max_size=6), max_size=3, unique=True))
    shapes = ((), (0,), (3,), (2, 3), (1, 2, 2))
    return {name: (5 * torch.rand(d.one(*shapes), generator=d.generator())).to(d.one(*kinds)) for name in names}
