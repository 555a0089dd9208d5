"""Argument checks of functions that a notebook or a command calls: one sentence that names the argument.

Not for the inner step of training, where they would cost a quarter of the loss. A tensor is described as the
docstrings describe it: "float N×C", "int64 N".
"""

import math
import sys
from numbers import Integral, Real

import torch
from torch import Tensor

_KINDS = {
    "float": (torch.float16, torch.bfloat16, torch.float32, torch.float64), "int64": (torch.int64,),
    "bool": (torch.bool,),
}


def tensors(**given: tuple[Tensor, str]) -> None:
    """Raise ValueError unless every tensor is what it is described as.

    given: name=(tensor, description), a description such as "float N×C", "int64 N", "finite float N×1×H×W" or
    "float N×…": a key of _KINDS, then the size of each dimension. A letter or word stands for the same size, at
    least 1, in all descriptions of a call; … for any further dimensions.
    """
    sizes: dict[str, int] = {}
    for name, (value, description) in given.items():
        *finite, kind, shape = description.split(" ")
        words = shape.split("×")
        exact = words[-1] != "…"
        words = words if exact else words[:-1]
        fits = isinstance(value, Tensor) and value.dtype in _KINDS[kind] and 0 not in value.shape
        fits = fits and (value.ndim == len(words) if exact else value.ndim >= len(words))
        if not fits or not all(size == (int(word) if word.isdigit() else sizes.setdefault(word, size))
                               for word, size in zip(words, value.shape, strict=False)):
            known = ", ".join(f"{word} = {sizes[word]}" for word in words if word in sizes)
            found = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{name} must be {'an' if kind == 'int64' else 'a'} {kind} tensor {shape}"
                f"{f' with {known}' if known else ''}, got {found.removeprefix('torch.')}"
            )
        if finite and not bool(value.isfinite().all()):
            raise ValueError(f"{name} contains NaN or inf")


def number(name: str, value: float, low: float = -math.inf, high: float = math.inf, *, inside: bool = False,
           whole: bool = False) -> None:
    """Raise ValueError unless a number is finite and in [low, high], or in (low, high) if inside; whole: an integer."""
    fits = isinstance(value, Integral if whole else Real) and abs(value) <= sys.float_info.max
    if fits and low <= value <= high and not (inside and value in (low, high)):
        return
    brackets = "()" if inside else ("[" if low > -math.inf else "(") + ("]" if high < math.inf else ")")
    raise ValueError(
        f"{name} must be {'an integer' if whole else 'a finite number'} in {brackets[0]}{low}, {high}{brackets[1]}, "
        f"got {value!r:.40}"
    )


def temperature(value: float) -> None:
    """Raise ValueError unless softmax(z / T) can be computed with this T: below 1e-3 only the largest logit is left,
    above 1e6 float32 keeps nothing of the logits."""
    number("temperature", value, 1e-3, 1e6)
