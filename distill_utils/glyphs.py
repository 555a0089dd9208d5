"""Glyphs: 28×28 grey images of letters and digits whose true explanation is known (lesson 00).

An image is a pure function of its factors: a textured background, one glyph near the centre, lighter or darker than
the background, one small distractor glyph near the border that is independent of the class, optionally a corner
patch (the cue), and pixel noise. Changing one factor and rendering again gives an exact counterfactual: everything
else, including the noise, stays the same. Shapes come from fonts that matplotlib ships.

Polarity is random because on bright objects over black even an untrained network scores perfectly on the usual
localisation metrics.
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distill_utils import stateless_random

CLASSES = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
    "cmr10", "cmb10", "cmss10", "cmtt10",
)
SIZE = 28  # pixels on a side
_MASTER, _CAP = 64, 40  # side and cap height of the bitmap of a character ("master"), in pixels of that bitmap
_FINE = 3  # samples per pixel and axis when a master is drawn into an image


@dataclass(frozen=True)
class Look:
    """The appearance of a set of images. Ranges are (low, high), grey levels in [0, 1], lengths in pixels."""

    contrast: tuple = (0.2, 0.5)  # of glyph and distractor against the background
    texture_sd: float = 0.06
    noise_sd: float = 0.05
    cap_height: tuple = (10.5, 14.0)
    shift: float = 3.5  # of the glyph's centre, to each side
    outward: bool = False  # favours positions far from the centre, so that glyphs cover the frame evenly
    cue: float | None = None  # probability that the corner patch is that of the class; None: no patch
    cue_size: int = 4


# The glyph is as faint as the texture and can be anywhere, so that no trivial map finds it (see test_glyphs.py).
MATCHED = Look(contrast=(0.2, 0.25), texture_sd=0.2, noise_sd=0.02, cap_height=(10.5, 13.0), shift=9.0, outward=True)


def sample(index: Tensor, seed: int = 0, look: Look = Look()) -> dict:
    """Draw the factors of images at random.

    index: LongTensor N, the identity of each image; index % 36 is the class, so every set is balanced. Returns a dict
    of tensors of length N (labels, faces, angles in radians, positions in pixels from the centre, signed contrasts),
    from which render draws the images.
    """
    u = stateless_random.uniform(seed, "glyphs", index, 24).T.float()  # 24×N

    def between(k, low, high):
        return low + (high - low) * u[k]

    def one_of(k, count):
        return (u[k] * count).long().clamp(max=count - 1)

    def place(k):
        u_ = 2 * u[k] - 1
        return look.shift * (u_.sign() * u_.abs().sqrt() if look.outward else u_)

    def signed_contrast(k):
        return between(k, *look.contrast) * torch.where(u[k + 1] < 0.5, -1.0, 1.0)

    n, direction = len(CLASSES), 2 * math.pi * u[14]
    reach = (SIZE / 2 - 3.5) / torch.maximum(direction.cos().abs(), direction.sin().abs())  # to the edge of a square
    label = index % n
    cue = torch.full_like(index, -1)
    if look.cue is not None:
        cue = torch.where(u[19] < look.cue, label, (label + 1 + one_of(20, n - 1)) % n)
    return {
        "index": index, "seed": torch.full_like(index, seed), "label": label,
        "face": one_of(0, len(FACES)), "rotation": between(1, -0.3, 0.3), "shear": between(2, -0.2, 0.2),
        "aspect": between(3, 0.85, 1.15), "cap_height": between(4, *look.cap_height),
        "x": place(5), "y": place(6), "contrast": signed_contrast(7),
        "distractor": one_of(9, n), "distractor_face": one_of(10, len(FACES)),
        "distractor_rotation": between(11, -math.pi, math.pi), "distractor_cap_height": between(12, 5.0, 6.5),
        "distractor_x": reach * direction.cos(), "distractor_y": reach * direction.sin(),
        "distractor_contrast": signed_contrast(15),
        "cue": cue, "cue_corner": one_of(21, 4), "cue_size": torch.full_like(index, look.cue_size),
        "texture_sd": torch.full_like(u[0], look.texture_sd), "noise_sd": torch.full_like(u[0], look.noise_sd),
    }


def without(factors: dict, part: str) -> dict:
    """The factors of the same images with one part ("object", "distractor" or "cue") removed."""
    removed = {
        "object": {"contrast": 0.0 * factors["contrast"]},
        "distractor": {"distractor_contrast": 0.0 * factors["distractor_contrast"]},
        "cue": {"cue": torch.full_like(factors["cue"], -1)},
    }
    if part not in removed:
        raise ValueError(f"unknown part {part!r}: must be one of {', '.join(removed)}")
    return factors | removed[part]


def render(factors: dict) -> tuple[Tensor, dict]:
    """Draw images from their factors.

    Returns images, float N×1×H×W on the 256 grey levels of [0, 1], and masks, a dict of bool N×H×W: object,
    distractor and cue, which are disjoint and contain exactly the pixels that the part can change. Raises ValueError
    for a class, face or corner that does not exist, and for images of different seed or cue_size.
    """
    counts = {"label": len(CLASSES), "face": len(FACES), "distractor": len(CLASSES), "distractor_face": len(FACES),
              "cue_corner": 4}
    for name, count in counts.items():
        if not bool(((factors[name] >= 0) & (factors[name] < count)).all()):
            raise ValueError(f"{name} must be in [0, {count - 1}], got {factors[name].tolist()!r:.200}")
    for name in ("seed", "cue_size"):
        if len(factors[name].unique()) > 1:
            raise ValueError(f"all images must have the same {name}: render them one by one")
    chunks = [_render(factors, rows) for rows in torch.arange(len(factors["index"])).split(1000)]
    images = torch.cat([image for image, _ in chunks])
    return images, {part: torch.cat([masks[part] for _, masks in chunks]) for part in chunks[0][1]}


def _render(factors: dict, rows: Tensor) -> tuple[Tensor, dict]:
    f = {name: values[rows] for name, values in factors.items()}
    column = {name: values.float()[:, None, None] for name, values in f.items()}  # N×1×1
    glyph = _coverage(f["label"], f["face"], f["cap_height"], f["x"], f["y"], f["rotation"], f["shear"], f["aspect"])
    other = _coverage(f["distractor"], f["distractor_face"], f["distractor_cap_height"], f["distractor_x"],
                      f["distractor_y"], f["distractor_rotation"], torch.zeros_like(f["x"]), torch.ones_like(f["x"]))
    cue, patch = _cue(f)
    distractor = (other > 0) & ~cue
    masks = {"object": (glyph > 0) & ~distractor & ~cue, "distractor": distractor, "cue": cue}
    # The distractor hides the glyph behind it, unless it was removed.
    in_front = distractor & (column["distractor_contrast"] != 0)
    seed = int(f["seed"][0])
    image = 0.5 + column["texture_sd"] * _texture(seed, f["index"])
    image = image + torch.where(in_front, column["distractor_contrast"] * other, column["contrast"] * glyph)
    image = torch.where(cue, patch, image)
    noise = stateless_random.normal(seed, "noise", f["index"], SIZE * SIZE)
    image = image + column["noise_sd"] * noise.view_as(image)
    return (image.clamp(0, 1) * 255).round()[:, None] / 255, masks


def _coverage(label, face, cap_height, x, y, rotation, shear, aspect) -> Tensor:
    """The fraction of each pixel that the glyph covers, N×H×W in [0, 1]; fractions below 0.2 become exactly 0."""
    cos, sin, zoom = rotation.cos(), rotation.sin(), _CAP / cap_height * SIZE / _MASTER
    # From image to master coordinates: shift back, rotate back, shear back, scale.
    ax, ay = zoom / aspect, zoom
    to_master = torch.stack([
        torch.stack([ax * (cos + shear * sin), ax * (sin - shear * cos)], 1),
        torch.stack([ay * -sin, ay * cos], 1),
    ], 1)  # N×2×2
    centre = torch.stack([x, y], 1)[:, :, None] / (SIZE / 2)
    theta = torch.cat([to_master, -to_master @ centre], 2)
    grid = F.affine_grid(theta, [len(x), 1, SIZE * _FINE, SIZE * _FINE], align_corners=False)
    fine = F.grid_sample(_masters()[face, label][:, None], grid, align_corners=False)
    return ((F.avg_pool2d(fine, _FINE)[:, 0] - 0.2) / 0.8).clamp(min=0)


@functools.cache
def _masters() -> Tensor:
    """One bitmap per face and class, faces×C×side×side in [0, 1]; all faces have the same cap height."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    bitmaps = np.zeros((len(FACES), len(CLASSES), _MASTER, _MASTER), dtype=np.float32)
    for i, face in enumerate(FACES):
        font = FontProperties(fname=str(fonts / f"{face}.ttf"))
        scale = _CAP / TextPath((0, 0), "H", size=100, prop=font).get_extents().height
        for j, char in enumerate(CLASSES):
            path = TextPath((0, 0), char, size=100, prop=font)
            box = path.get_extents()
            centred = Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2).scale(scale)
            renderer = RendererAgg(_MASTER, _MASTER, 72)
            gc = renderer.new_gc()
            gc.set_linewidth(0)
            renderer.draw_path(gc, path, centred.translate(_MASTER / 2, _MASTER / 2), (0.0, 0.0, 0.0))
            bitmaps[i, j] = np.asarray(renderer.buffer_rgba())[..., 3] / 255
    return torch.from_numpy(bitmaps)


def _texture(seed: int, index: Tensor) -> Tensor:
    """1/f noise, N×H×W, with mean 0 and standard deviation 1 in every image."""
    white = stateless_random.normal(seed, "texture", index, SIZE * SIZE).view(-1, SIZE, SIZE)
    fy, fx = torch.fft.fftfreq(SIZE)[:, None], torch.fft.rfftfreq(SIZE)[None]
    frequency = (fy**2 + fx**2).sqrt()
    frequency[0, 0] = math.inf  # no mean
    texture = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=(SIZE, SIZE))
    return texture / texture.std((1, 2), correction=0, keepdim=True)


def _cue(f: dict) -> tuple[Tensor, Tensor]:
    """The mask of the corner patch, bool N×H×W, and its grey levels, N×H×W."""
    size = int(f["cue_size"][0])
    bits = stateless_random.uniform(0, "cue", torch.arange(len(CLASSES)), size * size).view(-1, size, size)
    pattern = torch.where(bits < 0.5, 0.2, 0.8).float()[f["cue"].clamp(min=0)]  # N×size×size
    mask = torch.zeros(len(f["index"]), SIZE, SIZE, dtype=torch.bool)
    patch = torch.zeros(len(f["index"]), SIZE, SIZE)
    for corner, (row, col) in enumerate([(1, 1), (1, -1), (-1, 1), (-1, -1)]):
        here = (f["cue"] >= 0) & (f["cue_corner"] == corner)
        rows, cols = (slice(1, 1 + size) if side > 0 else slice(-1 - size, -1) for side in (row, col))
        mask[here, rows, cols] = True
        patch[here, rows, cols] = pattern[here]
    return mask, patch
