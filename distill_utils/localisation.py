"""Does a map point at the object? Relevance mass and rank, pointing and AUROC against masks, minus chance.

Maps are N×H×W, masks bool N×H×W; every score is per image, N. Chance-corrected means (score - chance) / (1 - chance)
for mass, rank and pointing: 0 is what a map without any knowledge scores, 1 is perfect; AUROC is 0.5 by chance.
Localisation measures model, explainer and dataset together: show it minus the best trivial map, which knows no model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_utils import arguments


def relevance_mass(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the positive relevance inside the mask (Arras et al. 2022), chance-corrected, at most 1.

    An all-zero map scores as a failure, -chance / (1 - chance); a mask that is empty or full raises ValueError.
    """
    maps, masks, area = _flat(maps, masks)
    positive = maps.clamp(min=0)
    mass = (positive * masks).sum(1) / positive.sum(1).clamp(min=torch.finfo(maps.dtype).tiny)
    return (mass - area) / (1 - area)


def relevance_rank(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the mask among the |mask| most relevant pixels (Arras et al. 2022), chance-corrected, at most 1.

    Pixels of equal relevance share the places that are left evenly.
    """
    maps, masks, area = _flat(maps, masks)
    size = masks.sum(1).long()
    lowest = maps.sort(1, descending=True).values.gather(1, size[:, None] - 1)
    above, level = maps > lowest, maps == lowest
    places = size - above.sum(1)
    hits = (above * masks).sum(1) + places * (level * masks).sum(1) / level.sum(1)
    return (hits / size - area) / (1 - area)


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Does the most relevant pixel lie in the mask (Zhang et al. 2018)? Chance-corrected, at most 1, no tolerance.

    Pixels that share the highest relevance count by their share inside. Raises ValueError for an all-zero map, which
    points nowhere.
    """
    maps, masks, area = _flat(maps, masks)
    if bool((maps == 0).all(1).any()):
        raise ValueError(f"map {int((maps == 0).all(1).nonzero()[0])} is zero everywhere: it points nowhere")
    highest = maps == maps.max(1, keepdim=True).values
    hits = (highest * masks).sum(1) / highest.sum(1)
    return (hits - area) / (1 - area)


def auroc(maps: Tensor, masks: Tensor) -> Tensor:
    """Probability that a pixel of the mask is more relevant than one outside (ties count half), in [0, 1]."""
    maps, masks, _ = _flat(maps, masks)
    order = maps.sort(1).values
    below = torch.searchsorted(order, maps.contiguous())
    upto = torch.searchsorted(order, maps.contiguous(), right=True)
    rank = (below + upto).double() / 2  # pixels below, ties half, itself among them
    inside = masks.sum(1)
    outside = maps.shape[1] - inside
    return ((rank * masks).sum(1) - inside**2 / 2) / (inside * outside)


def trivial_maps(images: Tensor) -> dict[str, Tensor]:
    """Maps that know no model, N×H×W each: what a localisation score must be better than."""
    arguments.tensors(images=(images, "finite float32 N×channels×H×W"))
    grey = images.mean(1)  # N×H×W
    kernel = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]])
    edges = F.conv2d(F.pad(grey[:, None], (1, 1, 1, 1), "replicate"), torch.stack([kernel, kernel.T])[:, None])
    rows = torch.arange(grey.shape[1]) - (grey.shape[1] - 1) / 2
    cols = torch.arange(grey.shape[2]) - (grey.shape[2] - 1) / 2
    return {
        "|x - mean|": (grey - grey.mean((1, 2), keepdim=True)).abs(),
        "Sobel": edges.pow(2).sum(1).sqrt(),
        "centre Gaussian": (-(rows[:, None] ** 2 + cols[None] ** 2) / (2 * 6.0**2)).exp().expand_as(grey),
    }


def _flat(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    arguments.tensors(maps=(maps, "float16+ N×H×W"))
    arguments.tensors(masks=(masks, "bool N×H×W"))
    if maps.shape != masks.shape:
        raise ValueError(f"maps and masks must have one shape N×H×W: found {tuple(maps.shape)}, {tuple(masks.shape)}")
    if not maps.isfinite().all():
        raise ValueError("a map holds a number that is not finite: it cannot be scored")
    maps, masks = maps.flatten(1).double(), masks.flatten(1).double()
    area = masks.mean(1)
    if bool(((area == 0) | (area == 1)).any()):
        raise ValueError("a mask is empty or covers its whole image: there is nothing to point at")
    return maps, masks, area
