"""Argument checks for functions that a notebook or a command calls: one sentence that names the argument.

They do not belong in the inner step of training, where they would take a quarter of the loss's time.
"""

import math
import sys
from numbers import Integral, Real

import torch
from torch import Tensor, nn

_KINDS = {"float": (torch.float16, torch.bfloat16, torch.float32, torch.float64), "int64": (torch.int64,),
          "bool": (torch.bool,)}


def tensors(**given: tuple[Tensor, str]) -> None:
    """Raise ValueError unless every tensor fits its description.

    given: name=(tensor, description), a description such as "float N×C", "int64 N", "finite float N×1×H×W" or
    "float N×…": a key of _KINDS, then the size of each dimension. A letter or word stands for the same size, at
    least 1, in all descriptions of a call; … stands for any further dimensions.
    """
    sizes: dict[str, int] = {}
    for name, (value, description) in given.items():
        *finite, kind, shape = description.split(" ")
        words = shape.split("×")
        known = ", ".join(f"{word} = {sizes[word]}" for word in words if word in sizes)
        if not _fits(value, kind, words, sizes):
            got = type(value).__name__
            if isinstance(value, Tensor):
                got = f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
            article, known = "an" if kind == "int64" else "a", f" with {known}" if known else ""
            raise ValueError(f"{name} must be {article} {kind} tensor {shape}{known}, got {got}")
        if finite and not bool(value.isfinite().all()):
            raise ValueError(f"{name} contains NaN or inf")


def _fits(value: Tensor, kind: str, words: list[str], sizes: dict[str, int]) -> bool:
    if not isinstance(value, Tensor) or value.dtype not in _KINDS[kind] or 0 in value.shape:
        return False
    if words[-1] == "…":
        words = words[:-1] + [str(size) for size in value.shape[len(words) - 1 :]]
    return len(words) == value.ndim and all(
        size == (int(word) if word.isdigit() else sizes.setdefault(word, size))
        for word, size in zip(words, value.shape, strict=True)
    )


def number(name: str, value: float, low: float = -math.inf, high: float = math.inf, *, inside: bool = False,
           whole: bool = False) -> None:
    """Raise ValueError unless a number is finite and in [low, high], or (low, high) if inside; whole: an integer."""
    fits = isinstance(value, Integral if whole else Real) and abs(value) <= sys.float_info.max
    if not fits or not low <= value <= high or (inside and value in (low, high)):
        left, right = "()" if inside else ("[" if low > -math.inf else "(", "]" if high < math.inf else ")")
        kind = "an integer" if whole else "a finite number"
        raise ValueError(f"{name} must be {kind} in {left}{low}, {high}{right}, got {value!r:.40}")


def temperature(value: float) -> None:
    """Raise ValueError unless float32 can represent softmax(z / T) and its differences."""
    number("temperature", value, 1e-3, 1e6)


def full_precision(model: nn.Module, action: str, advice: str = "") -> None:
    """Raise ValueError for a network in half precision, whose gradients are too coarse for it."""
    if any(parameter.dtype in _KINDS["float"][:2] for parameter in model.parameters()):
        raise ValueError(f"a network in half precision cannot be {action}: call float() on it{advice}")


def finite_images(what: str, images: Tensor) -> None:
    """Raise ValueError, naming the image, for a pixel that is NaN or inf."""
    if hasattr(images, "contents") or bool(images.isfinite().all()):  # images that are kept as bytes are finite
        return
    first = int((~images.isfinite()).flatten(1).any(1).nonzero()[0])
    raise ValueError(f"image {first} of the {what} contains NaN or inf: fix it or leave it out")
