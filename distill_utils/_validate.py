"""What a function is given, looked at before anything is computed from it.

What does not fit is told in one sentence that names the argument, instead of by an error from deep inside torch or by
a number that means nothing. A tensor is described as the docstrings describe it: "float N×C", "long N".
"""

import functools
import math
import sys
from numbers import Integral, Real

import torch
from torch import Tensor

# Kinds of number that are several dtypes. float16 holds nothing above 65504, and no 1e-12 either.
_WIDE: dict[str, tuple] = {"float32+": (torch.float32, torch.float64)}
_WIDE["float"] = (torch.bfloat16, *_WIDE["float32+"])
_WIDE["float16+"] = (torch.float16, *_WIDE["float"])
_WIDE["real"] = (torch.uint8, torch.int16, torch.int32, torch.int64, *_WIDE["float16+"])


def tensors(**given: tuple[Tensor, str]) -> None:
    """Raise ValueError unless every tensor is what it is said to be.

    given: name=(tensor, description), a description such as "float N×C", "long N", "finite float N×1×H×W" or
    "float N×…": the kind of number (a dtype of torch or a key of _WIDE), then the size of each dimension. A
    word stands for one and the same size, at least 1, in all descriptions of a call; … for any further dimensions.
    """
    if torch.compiler.is_compiling():  # what is compiled was run before
        return
    sizes: dict[str, tuple[int, str]] = {}  # word → its size, and the argument that set it
    for name, (value, description) in given.items():
        finite, kind, words, more = _parsed(description)
        fits = isinstance(value, Tensor) and value.dtype in (_WIDE.get(kind) or (getattr(torch, kind),))
        fits = fits and (value.ndim >= len(words) if more else value.ndim == len(words)) and 0 not in value.shape
        if fits:
            found = zip(words, value.shape, strict=not more)
            fits = all(size == (int(word) if word.isdigit() else sizes.setdefault(word, (size, name))[0])
                       for word, size in found)  # fmt: skip
        if not fits:
            known = [f"{word} = {sizes[word][0]} as in {sizes[word][1]}" for word in words
                     if word in sizes and sizes[word][1] != name]  # fmt: skip
            raise ValueError(
                f"{name} must be {'an' if kind[0] in 'iu' else 'a'} {kind} tensor "
                f"{'×'.join(words)}{'×…' * more}{' with ' * bool(known)}"
                f"{', '.join(known)}, found {_shown(value)}"
            )
        if finite and not bool(value.isfinite().all()):
            raise ValueError(f"{name} holds a number that is not finite")


def number(name: str, value: float, low: float = -math.inf, high: float = math.inf, *, inside: bool = False,
           whole: bool = False) -> None:  # fmt: skip
    """Raise ValueError unless a number is finite and from low to high; inside: and neither of both; whole: and is an
    integer."""
    fits = isinstance(value, Integral if whole else Real) and abs(value) <= sys.float_info.max
    if fits and low <= value <= high and not (inside and value in (low, high)):
        return
    what = f"{name} must be a {'whole' if whole else 'finite'} number"
    if math.isfinite(low) and math.isfinite(high):
        what += f" in ({low}, {high})" if inside else f" in [{low}, {high}]"
    elif math.isfinite(low):
        what += f" above {low}" if inside else f", at least {low}"
    elif math.isfinite(high):
        what += f" below {high}" if inside else f", at most {high}"
    raise ValueError(f"{what}, found {value!r:.40}")


def temperature(value: float) -> None:
    """Raise ValueError unless softmax(z / T) can be computed with this T: colder it is the largest logit's alone,
    hotter nothing of the logits is left in float32."""
    number("temperature", value, 0, inside=True)
    number("temperature", value, 1e-3, 1e6)


@functools.cache
def _parsed(description: str) -> tuple[bool, str, tuple[str, ...], bool]:
    """Whether it must be finite, the kind of number, a word per dimension, and whether more may follow."""
    *finite, kind, shape = description.split(" ")
    words = shape.split("×")
    return bool(finite), kind, tuple(word for word in words if word != "…"), words[-1] == "…"


def _shown(value) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
