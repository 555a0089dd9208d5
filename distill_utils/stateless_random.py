"""Random numbers without state: every number is a pure function of (seed, stream, index, position) (lesson 01).

They are used where two calls must agree without sharing a generator, such as views for a teacher and later for a
student. The hash is the finaliser of splitmix64 (Steele, Lea and Flood 2014) in wrapping int64 arithmetic, so every
device gives the same bits.
"""

import math
import zlib

import torch
from torch import Tensor

from distill_utils import _validate


def _shift(x: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; that of torch keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def _bits(seed: int, stream: str, index: Tensor, count: int) -> Tensor:
    """Random int64 numbers, N×count."""
    _validate.number("seed", seed, whole=True)
    if len(index):
        _validate.tensors(index=(index, "int64 N"))
    golden = -0x61C8864680B583EB  # 2⁶⁴ divided by the golden ratio, as a signed number
    unwrapped = seed * 0x632BE5AB + zlib.crc32(stream.encode())
    key = torch.tensor([(unwrapped + 2**63) % 2**64 - 2**63], dtype=torch.int64, device=index.device)
    rows = _mix(_mix(key * golden) ^ (index * golden))  # N
    cells = torch.arange(1, count + 1, device=index.device) * golden  # count
    return _mix(rows[:, None] + cells)


def uniform(seed: int, stream: str, index: Tensor, count: int = 1) -> Tensor:
    """Uniform numbers in [0, 1) for each index.

    seed: any int; stream: the name of their use, so that no two uses share numbers; index: LongTensor N, for example
    the position of each image in its dataset, not in a batch. Returns float64 N×count on the device of index.
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
    return uniform(seed, stream, torch.arange(length))[:, 0].argsort(stable=True)
