"""Augmentation as a function: view v of image i is always the same image (lesson 01).

The parameters of a view depend on (seed, view, image index) alone, so that a teacher's logits can be recorded once
per view and reused for the student in any batch order.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_utils import _validate, stateless_random


@dataclass(frozen=True)
class Augmentation:
    """The changes between views of an image, each drawn uniformly and independently."""

    rotation: float = 0.0  # radians, to each side
    shift: float = 0.0  # pixels, to each side, in both directions
    contrast: float = 0.0  # factor in [1 - contrast, 1 + contrast], around the grey level 0.5
    polarity: bool = False  # swap light and dark, or not
    flip: bool = False  # mirror left and right, or not


def augment(images: Tensor, index: Tensor, view: int, augmentation: Augmentation, *, seed: int = 0) -> Tensor:
    """View number `view` of each image.

    images: float N×channels×H×W in [0, 1]; index: LongTensor N, the position of each image in its dataset. Returns
    the same shape and range; pixels from outside the image repeat its edge.
    """
    _validate.tensors(images=(images, "float N×channels×H×W"), index=(index, "int64 N"))
    u = stateless_random.uniform(seed, f"view {view}", index, 6).to(images).T * 2 - 1  # 6×N in [-1, 1)
    angle, height, width = u[0] * augmentation.rotation, images.shape[2], images.shape[3]
    mirror = torch.where(u[5] < 0, -1.0, 1.0) if augmentation.flip else torch.ones_like(u[5])
    cos, sin, shift = angle.cos(), angle.sin(), 2 * augmentation.shift * u[1:3]
    theta = torch.stack([
        torch.stack([cos * mirror, sin * (height / width), shift[0] / width], 1),
        torch.stack([-sin * mirror * (width / height), cos, shift[1] / height], 1),
    ], 1)  # N×2×3
    if augmentation.rotation or augmentation.shift or augmentation.flip:
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    factor = 1 + augmentation.contrast * u[3]
    if augmentation.polarity:
        factor = torch.where(u[4] < 0, -factor, factor)
    if augmentation.contrast or augmentation.polarity:
        images = ((images - 0.5) * factor[:, None, None, None] + 0.5).clamp(0, 1)
    return images


NONE = Augmentation()
GLYPHS = Augmentation(rotation=0.2, shift=2.0, contrast=0.3, polarity=True)
DIGITS = Augmentation(rotation=math.radians(10), shift=2.0)
CLOTHES = Augmentation(shift=2.0, contrast=0.2, flip=True)
PHOTOS = Augmentation(shift=4.0, flip=True)
