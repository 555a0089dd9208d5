"""Measures of explanations: faithfulness, robustness, simplicity, localisation, and agreement of two networks.

Maps are N×H×W, in logit units (see explain). The measures compare networks under one explainer, so a positive factor
on all logits must not change them. Each docstring gives the range and the value expected by chance. The score is the
centred logit. A map that is zero everywhere is not an explanation: it raises ValueError instead of being averaged in,
except where a localisation score counts it as a failure.
"""

from collections.abc import Callable

import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_utils import _validate, glyphs
from distill_utils.explain import centred
from distill_utils.feature_losses import read
from distill_utils.training import eval_mode, logits

PARTS = ("object", "cue", "distractor")
_IMAGES = "finite float N×channels×H×W"


def interventions(model: nn.Module, factors: dict, classes: Tensor) -> tuple[Tensor, Tensor]:
    """How far the score falls when a part of a glyph image is removed or some background is replaced (lesson 08).

    factors: of N images, each with a cue. Returns regions, bool R×N×H×W, and effects, R×N: score of the image minus
    score of its counterfactual, in which every pixel outside the region is unchanged, noise included. The regions
    are PARTS, then the background of eight blocks of 14×7 pixels, which gets the texture and noise of another image.
    """
    images, masks = glyphs.render(factors)
    regions = [masks[part] for part in PARTS]
    changed = [glyphs.render(glyphs.without(factors, part))[0] for part in PARTS]
    other = glyphs.render(factors | {"seed": factors["seed"] + 1_000_003})[0]
    background = ~torch.stack(regions).any(0)
    for row in range(0, glyphs.SIZE, 14):
        for column in range(0, glyphs.SIZE, 7):
            block = torch.zeros_like(background)
            block[:, row : row + 14, column : column + 7] = True
            regions.append(block & background)
            changed.append(torch.where(regions[-1][:, None], other, images))
    score = centred(logits(model, images), classes)
    effects = [score - centred(logits(model, counterfactual), classes) for counterfactual in changed]
    return torch.stack(regions), torch.stack(effects)


def region_correlation(maps: Tensor, regions: Tensor, effects: Tensor) -> float:
    """Spearman correlation, over regions and images, of the relevance in a region with the intervention's effect.

    regions, effects: as returned by interventions. In [-1, 1]; 0 by chance, 1 if the map ranks all regions of all
    images by their effect. Raises ValueError for an empty region, such as the cue of an image without one.
    """
    _check_maps(maps, regions=(regions, "bool R×N×H×W"), effects=(effects, "finite float R×N"))
    if not bool(regions.flatten(2).any(2).all()):
        raise ValueError("every region must contain a pixel, got an empty region")
    relevance = (maps * regions).sum((2, 3))
    return float(scipy.stats.spearmanr(relevance.flatten(), effects.flatten()).statistic)


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


def infidelity(model: nn.Module, images: Tensor, maps: Tensor, classes: Tensor, infill: Tensor) -> float:
    """Error of the map as a prediction of what hiding a window does (Yeh et al. 2019), relative to the effect.

    32 squares of random size and position are replaced by the infill, which must be the baseline of the map:
    E[(relevance inside - fall of the score)²] / E[fall²]. 0 is perfect; a map of zeros would get 1. Raises ValueError
    if no window changes a score.
    """
    _check_maps(maps, images=(images, _IMAGES), infill=(infill, _IMAGES), classes=(classes, "int64 N"))
    random = torch.Generator().manual_seed(0)
    score = centred(logits(model, images), classes).double()
    height, width = images.shape[2:]
    error = effect = 0.0
    for _ in range(32):
        side = int(torch.randint(3, min(height, width) // 2 + 1, (), generator=random))
        row = int(torch.randint(height - side + 1, (), generator=random))
        column = int(torch.randint(width - side + 1, (), generator=random))
        window = (..., slice(row, row + side), slice(column, column + side))
        hidden = images.clone()
        hidden[window] = infill[window]
        fall = score - centred(logits(model, hidden), classes)
        error += float((maps[window].double().sum((1, 2)) - fall).square().mean())
        effect += float(fall.square().mean())
    if effect == 0:
        raise ValueError("hiding a window must change a score: no window changes any")
    return error / effect


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


def effective_pixels(maps: Tensor) -> Tensor:
    """exp(entropy of |map| over pixels), N, in [1, pixels]: over how many pixels it is spread. Fewer is simpler."""
    _check_maps(maps)
    share = maps.flatten(1).double().abs()
    share = share / share.sum(1, keepdim=True)
    return torch.special.entr(share).sum(1).exp()


# Localisation: does the map point at the object? One score per image, corrected for chance: 0 is what a random map
# gets, 1 is perfect (AUROC: 0.5 and 1). masks: bool N×H×W; an empty or full mask raises ValueError. Lessons 00, 08.


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


def relevance_rank(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the mask among the |mask| most relevant pixels (Arras et al. 2022), chance-corrected, N, at most 1.

    Pixels tied at the lowest of these ranks each count by the share of them that still fits.
    """
    maps, masks, area = _flat(maps, masks)
    size = masks.sum(1).long()
    lowest = maps.sort(1, descending=True).values.gather(1, size[:, None] - 1)
    above, tied = maps > lowest, maps == lowest
    free = size - above.sum(1)
    hits = (above * masks).sum(1) + free * (tied * masks).sum(1) / tied.sum(1)
    return (hits / size - area) / (1 - area)


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Is the most relevant pixel inside the mask (Zhang et al. 2018)? Chance-corrected, N, at most 1, no tolerance.

    Pixels tied for the highest relevance count by their share inside. Raises ValueError for a map that is zero
    everywhere, which points nowhere.
    """
    _check_maps(maps)
    maps, masks, area = _flat(maps, masks)
    highest = maps == maps.max(1, keepdim=True).values
    hits = (highest * masks).sum(1) / highest.sum(1)
    return (hits - area) / (1 - area)


def auroc(maps: Tensor, masks: Tensor) -> Tensor:
    """Probability that a pixel inside the mask is more relevant than one outside (ties count half), N, in [0, 1]."""
    maps, masks, _ = _flat(maps, masks)
    rank = torch.from_numpy(scipy.stats.rankdata(maps.numpy(), axis=1)) - 0.5  # pixels below, ties count half
    inside = masks.sum(1)
    outside = maps.shape[1] - inside
    return ((rank * masks).sum(1) - inside**2 / 2) / (inside * outside)


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


def agreement(maps: Tensor, others: Tensor) -> dict[str, float]:
    """Do two networks have similar maps? cosine and spearman, in [-1, 1], and overlap, in [0, 1] (lesson 08).

    cosine: of the signed maps; spearman: of |map|; overlap: intersection over union of the tenth of the pixels with
    the highest relevance in each. Means over images. NAME_mismatched is the same measure against the other network's
    maps of five other images: what all maps share, such as a focus on the centre, is not agreement. N is at least 6.
    """
    _check_maps(maps, others=(others, "finite float N×H×W"))
    _check_maps(others)
    _validate.number("the number of images", len(maps), 6)
    maps, others = maps.flatten(1).double(), others.flatten(1).double()

    def overlap(a, b):
        both = (a * b).sum(1)
        return both / (a.sum(1) + b.sum(1) - both)

    compared = {
        "cosine": (maps, others, F.cosine_similarity),
        "spearman": (_centred_ranks(maps), _centred_ranks(others), F.cosine_similarity),
        "overlap": (_top_tenth(maps), _top_tenth(others), overlap),
    }
    result = {}
    for name, (a, b, similarity) in compared.items():
        mismatched = [similarity(a, b.roll(shift, 0)).mean() for shift in range(1, 6)]
        result[name] = float(similarity(a, b).mean())
        result[f"{name}_mismatched"] = float(torch.stack(mismatched).mean())
    return result


def dissection(model: nn.Module, images: Tensor, masks: Tensor, *, layer: str = "features.5", share: float = 0.02,
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
        units = torch.cat([read(model, part, [layer])[1][0] for part in images.split(500)])
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


def _centred_ranks(maps: Tensor) -> Tensor:
    """Their cosine is Spearman's correlation of |map|."""
    ranks = torch.from_numpy(scipy.stats.rankdata(maps.abs().numpy(), axis=1))
    return ranks - ranks.mean(1, keepdim=True)


def _top_tenth(maps: Tensor) -> Tensor:
    """1 for the tenth of the pixels with the highest relevance, 0 elsewhere."""
    return torch.zeros_like(maps).scatter_(1, maps.topk(maps.shape[1] // 10, dim=1).indices, 1.0)

