"""Measures of explanations: faithfulness, robustness, localisation, and agreement of two networks.

Maps are N×H×W, in logit units (see explain). The measures compare networks under one explainer, so a positive factor
on all logits must not change them. Each docstring gives the range and the value expected by chance. The score is the
centred logit. A map that is zero everywhere is not an explanation: it raises ValueError instead of being averaged in,
except where a localisation score counts it as a failure.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_utils import _validate
from distill_utils.explain import centred
from distill_utils.feature_losses import read
from distill_utils.losses import as_float32
from distill_utils.training import eval_mode, logits

_IMAGES = "finite float N×channels×H×W"


def abpc(model: nn.Module, images: Tensor, maps: Tensor, classes: Tensor, infill: Tensor) -> float:
    """Area between two perturbation curves (Samek et al. 2017): blocks removed most and least relevant first.

    infill: what removed blocks of 2×2 pixels show, N×channels×H×W, H and W even. Returns the mean over 28 steps of
    (score, least relevant first - score, most relevant first), divided by the mean absolute change of the score when
    everything is removed: a ratio of means, since ratios of single images explode. 0 by chance, higher is better, at
    most about 1. Raises ValueError if removing everything changes no score.
    """
    _check_maps(maps, images=(images, _IMAGES), infill=(infill, _IMAGES), classes=(classes, "int64 N"))
    steps, relevance = 28, F.avg_pool2d(maps[:, None], 2)[:, 0]  # per block
    blocks = relevance[0].numel()

    def mean_score(priority):
        rank = priority.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(1).view(priority.shape)
        mean = 0.0
        for step in range(1, steps + 1):
            removed = rank < round(step * blocks / steps)
            removed = removed.repeat_interleave(2, 1).repeat_interleave(2, 2)
            perturbed = torch.where(removed[:, None], infill, images)
            mean += float(centred(logits(model, perturbed), classes).mean()) / steps
        return mean

    change = float((centred(logits(model, images), classes) - centred(logits(model, infill), classes)).abs().mean())
    if change == 0:
        raise ValueError("removing everything must change a score: infill and images have equal scores")
    return (mean_score(-relevance) - mean_score(relevance)) / change


def average_sensitivity(explainer: Callable, model: nn.Module, images: Tensor, classes: Tensor, *,
                        samples: int = 4) -> Tensor:
    """How much the map a(x) changes under a little noise d: mean of ‖a(x) - a(x + d)‖ / ‖a(x)‖, N, at least 0.

    explainer(model, images, classes): returns an Attribution. d is uniform in ±0.02, where white is 1, and x + d is
    clipped to [0, 1]. Lower is more robust. The explained class stays the given one, even if the prediction changes.
    """
    maps = explainer(model, images, classes).maps
    _check_maps(maps)
    random = torch.Generator().manual_seed(0)
    total = torch.zeros(len(images))
    for _ in range(samples):
        noise = 0.02 * (2 * torch.rand(images.shape, generator=random) - 1)
        noisy = explainer(model, (images + noise).clamp(0, 1), classes).maps
        total += (noisy - maps).flatten(1).norm(dim=1) / samples
    return total / maps.flatten(1).norm(dim=1)


# Localisation: does the map point at the object? One score per image, corrected for chance: 0 is what a random map
# gets, 1 is perfect. masks: bool N×H×W; an empty or full mask raises ValueError. Lesson 08.


def relevance_mass(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the positive relevance inside the mask (Arras et al. 2022), chance-corrected, N, at most 1.

    A map without positive relevance counts as a failure, -chance / (1 - chance).
    """
    maps, masks, area = _flat(maps, masks)
    positive = maps.clamp(min=0)
    mass = (positive * masks).sum(1) / positive.sum(1).clamp(min=torch.finfo(maps.dtype).tiny)
    return (mass - area) / (1 - area)


def relevance_share(maps: Tensor, part: Tensor, other: Tensor) -> Tensor:
    """Positive relevance on one part of the image as a share of that on two, minus its share of their area, N, in
    (-1, 1): 0 for a map that only finds ink.

    part, other: bool N×H×W, disjoint, such as the letter and the digit of pairs. A map without positive relevance on
    either gets 0.
    """
    flat, part, _ = _flat(maps, part)
    _, other, _ = _flat(maps, other)
    positive, area = flat.clamp(min=0), part.sum(1) / (part + other).sum(1)
    own, total = (positive * part).sum(1), (positive * (part + other)).sum(1)
    return torch.where(total > 0, own / total.clamp(min=torch.finfo(total.dtype).tiny) - area, 0)


def trivial_maps(images: Tensor) -> dict[str, Tensor]:
    """Maps computed without any model, N×H×W each: a localisation score must be better than theirs."""
    grey = images.mean(1)  # N×H×W
    kernel = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]])
    edges = F.conv2d(F.pad(grey[:, None], (1, 1, 1, 1), "replicate"), torch.stack([kernel, kernel.T])[:, None])
    rows, columns = (torch.arange(size) - (size - 1) / 2 for size in grey.shape[1:])
    return {
        "|x - mean|": (grey - grey.mean((1, 2), keepdim=True)).abs(),
        "Sobel": edges.pow(2).sum(1).sqrt(),
        "centre Gaussian": (-(rows[:, None] ** 2 + columns**2) / (2 * 6.0**2)).exp().expand_as(grey),
    }


def agreement(maps: Tensor, others: Tensor) -> float:
    """Do two networks have similar maps? Mean cosine of the signed maps, in [-2, 2], 0 by chance (lesson 08).

    The mean cosine with the other network's maps of five other images is subtracted: what all maps share, such as a
    focus on the centre, is not agreement. N is at least 6.
    """
    _check_maps(maps, others=(others, "finite float N×H×W"))
    _check_maps(others)
    _validate.number("the number of images", len(maps), 6)
    maps, others = maps.flatten(1).double(), others.flatten(1).double()
    own, *mismatched = (F.cosine_similarity(maps, others.roll(shift, 0)).mean() for shift in range(6))
    return float(own - torch.stack(mismatched).mean())


def dissection(model: nn.Module, images: Tensor, masks: Tensor, *, layer: str, share: float,
               turned: int | None = None) -> Tensor:
    """Network dissection (Bau et al. 2017): how well each unit of a layer marks each concept, IoU, U×K, in [0, 1].

    masks: bool K×N×H×W, one concept per row; share: a unit marks this share of all pixels of all images, those with
    its highest activation after bilinear interpolation to the images' size. Intersection and union are summed over
    images before the division. turned: the seed of a random rotation of the layer's units, a control that keeps all
    information of the layer and only removes the meaning of single units. Raises ValueError for an empty concept.
    """
    _validate.tensors(images=(images, _IMAGES), masks=(masks, "bool K×N×H×W"))
    if not bool(masks.flatten(1).any(1).all()):
        raise ValueError("every concept must have a pixel in some image, got an empty concept")
    with eval_mode(model), torch.no_grad():
        units = as_float32(torch.cat([read(model, part, [layer])[1][0] for part in images.split(500)]))
    if turned is not None:
        random = torch.randn(units.shape[1], units.shape[1], generator=torch.Generator().manual_seed(turned))
        units = torch.einsum("uv,nvhw->nuhw", torch.linalg.qr(random).Q, units)
    concepts, result = masks.flatten(1).float(), []  # float: their sums are products of matrices
    for unit in range(units.shape[1]):
        activation = F.interpolate(units[:, unit : unit + 1], images.shape[2:], mode="bilinear").flatten()
        threshold = activation.kthvalue(len(activation) - round(share * len(activation))).values
        marked = (activation > threshold).float()
        both = concepts @ marked
        result.append(both / (marked.sum() + concepts.sum(1) - both))
    return torch.stack(result)


def _check_maps(maps: Tensor, **others: tuple[Tensor, str]) -> None:
    """Maps must be finite and none zero everywhere; others: further tensors, as for _validate.tensors."""
    _validate.tensors(**{"maps": (maps, "finite float N×H×W")} | others)
    zero = (maps == 0).flatten(1).all(1)
    if bool(zero.any()):
        raise ValueError(f"map {int(zero.nonzero()[0])} is zero everywhere")


def _flat(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maps and masks, N×pixels each in float64, and the share of each image that its mask covers."""
    _validate.tensors(maps=(maps, "finite float N×H×W"), masks=(masks, "bool N×H×W"))
    maps, masks = maps.flatten(1).double().contiguous(), masks.flatten(1).double()
    area = masks.mean(1)
    if bool(((area == 0) | (area == 1)).any()):
        raise ValueError("every mask must cover a part of its image, got an empty or a full mask")
    return maps, masks, area
