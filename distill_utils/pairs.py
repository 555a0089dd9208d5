"""Pairs: images of a letter, which is the label, and a digit, which means nothing (lesson 08b).

Both are drawn alike, on opposite sides of the image: the same distributions of contrast, size, position and area,
whatever the class. A map that only finds ink must divide its relevance between the two by their area; to prefer the
letter, it must show what the network looks for. Each image therefore holds its own control for localisation. Images
are drawn by glyphs.render, with the letter as its "object" and the digit as its "distractor".
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_utils import glyphs, stateless_random

CLASSES = glyphs.CLASSES[:26]
_PARTS = {"letter": "object", "digit": "distractor"}  # → the name of the part in glyphs
_SWAPPED = {
    "object": ("label", "face", "rotation", "cap_height", "contrast"),
    "distractor": ("distractor", "distractor_face", "distractor_rotation", "distractor_cap_height",
                   "distractor_contrast"),
}
_NEAR = 4  # digits are chosen among so many smaller and larger ones


def sample(index: Tensor, seed: int = 0) -> dict:
    """Draw the factors of images at random, as glyphs.sample does.

    index: LongTensor N, the identity of each image; index % 26 is the letter, so every set is balanced. The digit is
    independent of the letter. The faces of letters and the choice of digits are such that both cover equal areas.
    """
    u = stateless_random.uniform(seed, "pairs", index, 20).T.float()  # 20×N
    letters, faces, allowed, digits = _glyphs_by_area()

    def one_of(k, count):
        return torch.minimum((u[k] * count).long(), torch.as_tensor(count) - 1)

    def between(k, low, high):
        return low + (high - low) * u[k]

    def signed_contrast(k):
        return between(k, 0.2, 0.5) * torch.where(u[k + 1] < 0.5, -1.0, 1.0)

    label, side = index % len(CLASSES), torch.where(u[0] < 0.5, -1.0, 1.0)
    # The digit is as large as a second letter that is drawn without regard to the label.
    second = one_of(2, len(CLASSES))
    wanted = letters[second, one_of(3, allowed[second])]
    place = torch.searchsorted(digits[0], wanted) + one_of(4, 2 * _NEAR) - _NEAR
    digit, digit_face = digits[1:, place.clamp(0, digits.shape[1] - 1)]
    zero, one = torch.zeros_like(u[0]), torch.ones_like(u[0])
    return {
        "index": index, "seed": torch.full_like(index, seed), "label": label,
        "face": faces[label, one_of(1, allowed[label])], "rotation": between(5, -0.3, 0.3), "shear": zero,
        "aspect": one, "cap_height": between(6, 8.5, 10.5), "x": side * between(7, 6.0, 7.5),
        "y": between(8, -6.0, 6.0), "contrast": signed_contrast(9),
        "distractor": digit, "distractor_face": digit_face, "distractor_rotation": between(11, -0.3, 0.3),
        "distractor_cap_height": between(12, 8.5, 10.5), "distractor_x": -side * between(13, 6.0, 7.5),
        "distractor_y": between(14, -6.0, 6.0), "distractor_contrast": signed_contrast(15),
        "cue": torch.full_like(index, -1), "cue_corner": torch.zeros_like(index),
        "cue_size": torch.full_like(index, 4), "texture_sd": 0.06 * one, "noise_sd": 0.05 * one,
    }


def without(factors: dict, part: str) -> dict:
    """The factors of the same images with the "letter" or the "digit" removed; everything else stays the same.

    Raises ValueError for another part.
    """
    return glyphs.without(factors, _named(part))


def swapped(factors: dict, part: str) -> dict:
    """The factors of the same images with the "letter" or the "digit" of the next image, at the place of their own.

    Raises ValueError for another part, and for a single image, which has no other to swap with.
    """
    if len(factors["index"]) < 2:
        raise ValueError("a swap needs at least two images, got one")
    return factors | {name: factors[name].roll(-1) for name in _SWAPPED[_named(part)]}


def render(factors: dict) -> tuple[Tensor, dict]:
    """Draw images from their factors: float N×1×H×W in [0, 1], and the masks "letter" and "digit", bool N×H×W, which
    are disjoint. Raises ValueError as glyphs.render does."""
    images, masks = glyphs.render(factors)
    return images, named(masks)


def named(masks: dict) -> dict:
    """The masks of glyphs.render under the names of the parts here."""
    return {part: masks[name] for part, name in _PARTS.items()}


def _named(part: str) -> str:
    if part not in _PARTS:
        raise ValueError(f"part must be one of {', '.join(_PARTS)}, got {part!r}")
    return _PARTS[part]


@functools.cache
def _glyphs_by_area() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Glyphs in the order of their area, a whole number: of each letter the areas and the faces, 26×faces each, and
    in how many faces it is no larger than digits are, 26; of all digits area, class in glyphs and face, 3×D."""
    covered = F.avg_pool2d(glyphs._masters(), 4, stride=1) > 0.201  # about the pixels of an image that it covers
    areas = covered.sum((2, 3)).T  # 36×faces
    letters, faces = areas[:26].sort(stable=True, dim=1)
    digits, order = areas[26:].flatten().sort(stable=True)
    known = len(glyphs.FACES)
    allowed = (letters <= digits[-_NEAR]).sum(1)
    return letters, faces, allowed, torch.stack([digits, 26 + order // known, order % known])
