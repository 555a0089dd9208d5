"""Generated arguments for property tests: right ones, and right ones of which one is spoiled.

`Draw` draws small tensors whose sizes go by letters (N, C, …), so that the arguments of one call fit each other;
`spoiled` takes one argument and breaks it as people break it: an empty batch, a missing row, another kind of number,
NaN, a label too many, a negative temperature, a strange word. Tensors come from a seed: hypothesis chooses shapes,
scales and faults, and need not choose every number.
"""

import dataclasses
import inspect
import math
import os
import re
import traceback
import warnings
from collections import Counter
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

import distill_utils

PACKAGE = Path(distill_utils.__file__).parent

# The same cases on every run, so that no run of the tests is unlike the last one.
same = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("few", max_examples=50, **same)
settings.register_profile("many", max_examples=1000, **same)  # make properties
settings.load_profile(os.environ.get("DISTILL_PROPERTIES") or "few")

WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", " ", ".", "..", "../x", "a/b", "~", "~nobody", "\0", "é" * 300, "-1", "nan",
                     "folder:~nobody", "folder:nowhere", "folder:\0"]),
)  # fmt: skip


_SIZES = {"N": (1, 6), "C": (2, 6), "H": (8, 10), "W": (8, 10), "K": (1, 2), "D": (1, 5), "L": (1, 4), "G": (1, 3),
          "R": (1, 4)}  # fmt: skip


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


def spoiled(draw: Draw, given: dict) -> tuple[dict, str]:
    """The arguments with one of them broken, and what was done in words."""
    names = [name for name, value in given.items() if _faults(value)]
    name = draw.one(*names)
    value = given[name]
    fault = draw.one(*_faults(value))
    return given | {name: FAULTS[fault](draw, value)}, f"{name}: {fault}"


def _faults(value) -> list[str]:
    if isinstance(value, Tensor):
        faults = ["empty", "one row less", "one row more", "no dimension", "one dimension more", "flat", "as float64",
                  "as float16", "as int64", "as bool", "as complex64", "as an array", "not contiguous"]  # fmt: skip
        faults += ["NaN", "inf", "-inf", "huge"] if value.is_floating_point() else []
        return faults + (["a negative", "too large"] if value.dtype == torch.int64 else [])
    if isinstance(value, bool | None) or callable(value):
        return []
    if hasattr(value, "_fields") or dataclasses.is_dataclass(value):
        return ["one broken"]
    if isinstance(value, Path):
        return ["a strange name"]
    if isinstance(value, int):
        return ["0", "-1", "-1000", "half"]
    if isinstance(value, float):
        return ["0", "-1", "nan", "infinite", "1e300", "1e-300", "10**400"]
    if isinstance(value, str):
        return ["a word"]
    if isinstance(value, dict):
        return ["one broken", "one left out", "a stranger"] if value else ["a stranger"]
    if isinstance(value, list) and value and isinstance(value[0], list):
        return ["none", "one less", "one more", "a stranger in it"]
    if isinstance(value, list) and value and isinstance(value[0], str):
        return ["none", "one less", "one more", "a strange word in it"]
    if isinstance(value, list):
        return ["none", "one less", "one more", "one nan", "one infinite", "nested"]
    return []


def _placed(draw: Draw, value: Tensor, what) -> Tensor:
    found = value.clone().contiguous()
    if found.numel():
        found.view(-1)[draw.whole(0, found.numel() - 1)] = what
    return found


def _one_broken(draw: Draw, value):
    """A dict, a named tuple or a dataclass of which one part is broken, where it lets itself be made so."""
    parts = dict(value) if isinstance(value, dict) else value._asdict() if hasattr(value, "_fields") else vars(value)
    if not any(_faults(part) for part in parts.values()):
        return value
    broken, _ = spoiled(draw, parts)
    try:
        return type(value)(**broken) if not isinstance(value, dict) else broken
    except ValueError:  # what makes it refuses the fault: that has a property of its own
        return value


def _one_left_out(draw: Draw, values: dict) -> dict:
    absent = draw.one(*values)
    return {name: value for name, value in values.items() if name != absent}


FAULTS = {
    "empty": lambda draw, v: v[:0] if v.ndim else v,
    "one row less": lambda draw, v: v[1:] if v.ndim else v,
    "one row more": lambda draw, v: torch.cat([v, v[:1]]) if v.ndim else v,
    "no dimension": lambda draw, v: v.flatten()[0] if v.numel() else v,
    "one dimension more": lambda draw, v: v[None],
    "flat": lambda draw, v: v.flatten(),
    "as float64": lambda draw, v: v.double(),
    "as float16": lambda draw, v: v.half(),
    "as int64": lambda draw, v: v.long(),
    "as bool": lambda draw, v: v != 0,
    "as complex64": lambda draw, v: v.to(torch.complex64),
    "as an array": lambda draw, v: v.numpy(),
    "not contiguous": lambda draw, v: torch.stack([v, v], -1)[..., 0],
    "NaN": lambda draw, v: _placed(draw, v, math.nan),
    "inf": lambda draw, v: _placed(draw, v, math.inf),
    "-inf": lambda draw, v: _placed(draw, v, -math.inf),
    "huge": lambda draw, v: _placed(draw, v, 1e38),
    "a negative": lambda draw, v: _placed(draw, v, -draw.whole(1, 3)),
    "too large": lambda draw, v: _placed(draw, v, draw.one(6, 1000, 2**62)),
    "0": lambda draw, v: type(v)(0),
    "-1": lambda draw, v: type(v)(-1),
    "-1000": lambda draw, v: -1000,
    "half": lambda draw, v: 0.5,
    "nan": lambda draw, v: math.nan,
    "infinite": lambda draw, v: draw.one(math.inf, -math.inf),
    "1e300": lambda draw, v: 1e300,
    "1e-300": lambda draw, v: 1e-300,
    "10**400": lambda draw, v: 10**400,
    "a word": lambda draw, v: draw.word(),
    "one broken": _one_broken,
    "one left out": _one_left_out,
    "a stranger": lambda draw, v: v | {"stranger": draw.one(object(), math.nan, {1, 2}, b"bytes")},
    "a strange name": lambda draw, v: v.parent / draw.word().lstrip("/"),
    "none": lambda draw, v: [],
    "a strange word in it": lambda draw, v: [*v[1:], draw.word()],
    "a stranger in it": lambda draw, v: [[*v[0], draw.one(-1, 99)], *v[1:]],
    "one less": lambda draw, v: v[1:],
    "one more": lambda draw, v: [*v, *v[:1]],
    "one nan": lambda draw, v: [*v[1:], math.nan],
    "one infinite": lambda draw, v: [math.inf, *v[1:]],
    "nested": lambda draw, v: [v],
}  # fmt: skip


# What a call does


RAN: Counter = Counter()  # function's name → calls; also (function's name, error's name) → how often it was raised


def name_of(function) -> str:
    return f"{function.__module__.removeprefix('distill_utils.')}.{function.__qualname__}"


def documented(function) -> set[str]:
    """The errors that a function's docstring names, or its class's or module's, or that the package's names."""
    owner = inspect.getmodule(function)
    texts = [distill_utils.__doc__, owner.__doc__, inspect.getdoc(function)]
    if "." in function.__qualname__:
        texts.append(getattr(owner, function.__qualname__.split(".")[0]).__doc__)
    return set(re.findall(r"\b(\w+Error|DamagedFile|UnsupportedModel)\b", " ".join(filter(None, texts))))


def called(function, given: dict, by=None):
    """What a function answers, or the error that it raised: one that is documented, raised by the package itself (or,
    of files, by the system) in one sentence. Anything else fails the test. by: what calls it with these arguments."""
    name = name_of(function)
    RAN[name] += 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # numpy's way to say that it divided by zero
            return (by or function)(**given)
    except Exception as error:
        names = {kind.__name__ for kind in type(error).__mro__}
        frame = traceback.extract_tb(error.__traceback__)[-1]
        ours = Path(frame.filename).parent == PACKAGE or isinstance(error, OSError)
        if not (ours and names & documented(function) and len(str(error)) > 0 and "\n" not in str(error)):
            raise
        RAN[name, type(error).__name__] += 1
        return error


def tensors_of(value) -> list[Tensor]:
    """All tensors in a result or among arguments; numbers as tensors."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, float | int):
        return [torch.tensor(float(value) if abs(value) < 1e300 or value != value else math.inf, dtype=torch.float64)]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for part in value for tensor in tensors_of(part)] if isinstance(value, list | tuple) else []


def finite(value) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors_of(value))


def moderate(value, most: float = 1e15) -> bool:
    """Finite, and so far from what its kind of number holds that no sum or square overflows."""
    return all(
        tensor.dtype == torch.bool or bool((tensor.abs() <= (10 if tensor.dtype == torch.float16 else most)).all())
        for tensor in tensors_of(value)
    )
