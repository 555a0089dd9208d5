"""Random numbers without state: every number is a pure function of (seed, stream, index, position).

Used wherever two calls must agree without sharing a generator: the glyphs and their counterfactuals, augmented
views seen by a teacher and later by a student, the order of a training epoch. The mixer is the finaliser of
splitmix64 (Steele, Lea and Flood 2014), in int64 arithmetic that wraps, so it gives the same bits on every device.
"""

import math
import zlib

import torch
from torch import Tensor

from distill_utils import _validate


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # a logical shift: torch's own keeps the sign


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def _bits(seed: int, stream: str, index: Tensor, count: int) -> Tensor:
    if getattr(index, "shape", None) != (0,):
        _validate.tensors(index=(index, "int64 N"))
    _validate.number("count", count, 0, 2**31, whole=True)
    _validate.number("seed", seed, whole=True)
    golden = -0x61C8864680B583EB
    named = seed * 0x632BE5AB + zlib.crc32(stream.encode())
    wrapped = (named + 2**63) % 2**64 - 2**63
    key = torch.tensor([wrapped], dtype=torch.int64, device=index.device)
    rows = _mix(_mix(key * golden) ^ (index * golden))  # N
    cells = torch.arange(1, count + 1, device=index.device) * golden  # count
    return _mix(rows[:, None] + cells)


def uniform(seed: int, stream: str, index: Tensor, count: int = 1) -> Tensor:
    """Uniform numbers in [0, 1) for each index.

    seed: any int; stream: what the numbers are for, so that two uses never share any; index: LongTensor N, the
    identity of each row (never its place in a batch). Returns float64 N×count on the device of index.
    """
    return _shift(_bits(seed, stream, index, count), 11).double() * 2.0**-53


def normal(seed: int, stream: str, index: Tensor, count: int = 1) -> Tensor:
    """Standard normal numbers, float N×count (Box and Muller 1958); arguments as in uniform."""
    bits = _bits(seed, stream, index, count)
    radius = ((_shift(bits, 40) + 1).float() * 2.0**-24).log().mul(-2).sqrt()  # 24 bits, never log(0)
    angle = (bits & 0xFFFFFF).float() * (2 * math.pi * 2.0**-24)
    return radius * angle.cos()


def permutation(seed: int, stream: str, length: int) -> Tensor:
    """A random order of range(length), LongTensor."""
    _validate.number("length", length, 0, whole=True)
    return uniform(seed, stream, torch.arange(length))[:, 0].argsort(stable=True)
