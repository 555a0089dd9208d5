"""What is an explanation worth? Faithfulness, robustness, simplicity, and agreement between two networks.

Maps are N×H×W in logit units (see explain). These measures compare networks under one explainer, so only such that a
positive factor on all logits leaves alone are here; each names its chance level. The score is the centred logit. Maps
that are zero everywhere or not finite raise ValueError: they are no explanation, and are never averaged away.
Localisation against masks has a module of its own. Left out: deletion and insertion of probabilities, captum's
infidelity and max-sensitivity, which change with the scale of the logits or grow with the number of samples.
"""

from collections.abc import Callable

import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_utils import _validate, glyphs
from distill_utils.explain import centred, with_features
from distill_utils.training import logits

PARTS = ("object", "cue", "distractor")


# Faithfulness: does the map know what the network does when the image changes?


def interventions(model: nn.Module, factors: dict, classes: Tensor, *, rows: int = 2, columns: int = 4):
    """What happens to the score when one part of a glyph image is rendered away, or a stretch of background anew.

    factors: of N images, with a cue. Returns regions, bool R×N×H×W, and effects, R×N: score of the image minus score
    of its counterfactual, whose every other pixel, noise included, is unchanged. Regions are PARTS and rows×columns
    blocks of background, which get the texture and noise of another image. Raises ValueError for images without cue.
    """
    _validate.number("rows", rows, 1, glyphs.SIZE, whole=True)
    _validate.number("columns", columns, 1, glyphs.SIZE, whole=True)
    images, masks = glyphs.render(factors)
    if int(factors["cue"].min()) < 0:
        raise ValueError("an image has no cue: sample the images with Look(cue=...)")
    whole = centred(logits(model, images), classes)
    regions, effects = [], []
    for part in PARTS:
        changed = glyphs.render(glyphs.without(factors, part))[0]
        regions.append(masks[part])
        effects.append(whole - centred(logits(model, changed), classes))
    other = glyphs.render(factors | {"seed": factors["seed"] + 1_000_003})[0]
    background = ~torch.stack([masks[part] for part in PARTS]).any(0)
    height, width = images.shape[2] // rows, images.shape[3] // columns
    for row in range(rows):
        for column in range(columns):
            block = torch.zeros_like(background)
            block[:, row * height : (row + 1) * height, column * width : (column + 1) * width] = True
            regions.append(block & background)
            changed = torch.where(regions[-1][:, None], other, images)
            effects.append(whole - centred(logits(model, changed), classes))
    return torch.stack(regions), torch.stack(effects)


def region_correlation(maps: Tensor, regions: Tensor, effects: Tensor) -> float:
    """Spearman's correlation over regions and images of relevance in the region with the effect of the intervention.

    regions, effects: as interventions returns them. In [-1, 1], 0 by chance, 1 when the map orders all parts of all
    images as the network does. Raises ValueError for an empty region, or where all effects or
    all of the relevance are equal.
    """
    _check(maps)
    _validate.tensors(maps=(maps, "float N×H×W"), regions=(regions, "bool R×N×H×W"),
                      effects=(effects, "finite float R×N"))
    if not bool(regions.flatten(2).any(2).all()):
        raise ValueError("a region is empty: no relevance can lie in it")
    inside = (maps * regions).sum((2, 3))
    for what, values in {"relevance": inside, "effects": effects}.items():
        if bool((values == values.flatten()[0]).all()):
            raise ValueError(f"the {what} of all regions are equal: there is no order to compare")
    return float(scipy.stats.spearmanr(inside.flatten(), effects.flatten()).statistic)


def abpc(model: nn.Module, images: Tensor, maps: Tensor, classes: Tensor, infill: Tensor, *,
         size: int = 2, steps: int = 28) -> float:
    """Area between two perturbation curves (Samek et al. 2017): blocks removed most and least relevant first.

    infill: what removed blocks show, N×channels×H×W; size: of a block, pixels; steps: points of each curve. Returns
    the mean over steps of (score, least relevant first - score, most relevant first) as a share of what removing
    everything changes, in size: a ratio of means over images, since single ratios explode. 0 by chance, higher is
    better, at most about 1. Raises ValueError where removing everything changes nothing.
    """
    _check_explained(images, maps, classes, infill)
    _validate.number("size", size, 1, min(images.shape[2:]), whole=True)
    _validate.number("steps", steps, 1, whole=True)
    relevance = F.avg_pool2d(maps[:, None], size)[:, 0].flatten(1)
    blocks = relevance.shape[1]
    ranks = {
        "most": relevance.argsort(dim=1, descending=True, stable=True).argsort(1),
        "least": relevance.argsort(dim=1, stable=True).argsort(1),
    }
    grid = (len(images), images.shape[2] // size, images.shape[3] // size)
    means = {"most": 0.0, "least": 0.0}
    for order, rank in ranks.items():
        for step in range(1, steps + 1):
            gone = (rank < round(step * blocks / steps)).view(grid)
            gone = gone.repeat_interleave(size, 1).repeat_interleave(size, 2)
            gone = F.pad(gone, (0, images.shape[3] - gone.shape[2], 0, images.shape[2] - gone.shape[1]))
            seen = torch.where(gone[:, None], infill, images)
            means[order] += float(centred(logits(model, seen), classes).mean()) / steps
    change = float((centred(logits(model, images), classes) - centred(logits(model, infill), classes)).abs().mean())
    if change == 0:
        raise ValueError("removing everything changes no score: there is nothing to explain")
    return (means["least"] - means["most"]) / change


def infidelity(model: nn.Module, images: Tensor, maps: Tensor, classes: Tensor, infill: Tensor, *,
               windows: int = 32, seed: int = 0) -> float:
    """How badly the map foretells what hiding a window does (Yeh et al. 2019), as a share of the effect's size.

    Squares of random size and place are replaced by the infill, which must be the baseline of the map: E[(relevance
    inside - fall of the score)²] / E[fall²]. 0 is perfect, 1 is what a map of zeros gets. Raises ValueError where
    nothing ever changes the score.
    """
    _check_explained(images, maps, classes, infill)
    _validate.number("the smaller side of the images", min(images.shape[2:]), 6)
    _validate.number("windows", windows, 1, whole=True)
    random = _generator(seed)
    whole = centred(logits(model, images), classes).double()
    height, width = images.shape[2:]
    error = effect = 0.0
    for _ in range(windows):
        side = int(torch.randint(3, min(height, width) // 2 + 1, (), generator=random))
        row = int(torch.randint(height - side + 1, (), generator=random))
        column = int(torch.randint(width - side + 1, (), generator=random))
        window = (..., slice(row, row + side), slice(column, column + side))
        hidden = images.clone()
        hidden[window] = infill[window]
        fall = whole - centred(logits(model, hidden), classes)
        error += float((maps[window].double().sum((1, 2)) - fall).square().mean())
        effect += float(fall.square().mean())
    if effect == 0:
        raise ValueError("no window changes the score: there is nothing to explain")
    return error / effect


# Robustness, simplicity


def average_sensitivity(explainer: Callable, model: nn.Module, images: Tensor, classes: Tensor, *,
                        radius: float = 0.02, samples: int = 4, seed: int = 0) -> Tensor:
    """How much the map moves when the image hardly does: mean ‖a(x) - a(x + d)‖ / ‖a(x)‖, N, at least 0.

    explainer(model, images, classes): an Attribution; d uniform in ±radius grey levels, clipped to [0, 1]. Lower is
    steadier. The class stays the one given, so no sample is dropped for changing the decision.
    """
    _validate.tensors(images=(images, "finite float N×channels×H×W"), classes=(classes, "int64 N"))
    _validate.number("radius", radius, 0, 1)
    _validate.number("samples", samples, 1, whole=True)
    maps = explainer(model, images, classes).maps
    _check(maps)
    random = _generator(seed)
    total = torch.zeros(len(images))
    for _ in range(samples):
        noise = radius * (2 * torch.rand(images.shape, generator=random) - 1)
        moved = explainer(model, (images + noise).clamp(0, 1), classes).maps
        total += (moved - maps).flatten(1).norm(dim=1) / samples
    sensitivity = total / maps.flatten(1).norm(dim=1)
    if not bool(sensitivity.isfinite().all()):
        raise ValueError("a map holds a number that is not finite, or too large to be squared")
    return sensitivity


def entropy(maps: Tensor) -> Tensor:
    """Entropy in nats of |map| as a distribution over pixels, N, in [0, ln(pixels)]."""
    _check(maps)
    share = maps.flatten(1).double().abs()
    share = share / share.sum(1, keepdim=True)
    return -torch.special.xlogy(share, share).sum(1)


def effective_pixels(maps: Tensor) -> Tensor:
    """exp(entropy): over how many pixels the map is spread, N, in [1, pixels]. Fewer is simpler, not truer."""
    return entropy(maps).exp()


# Localisation: does a map point at the object? Scores are per image, corrected for chance: 0 is what a map
# without any knowledge gets, 1 is perfect (AUROC: 0.5).


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
    _validate.tensors(images=(images, "finite float N×channels×H×W"))
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
    _validate.tensors(maps=(maps, "float N×H×W"))
    _validate.tensors(masks=(masks, "bool N×H×W"))
    if maps.shape != masks.shape:
        raise ValueError(f"maps and masks must have one shape N×H×W: found {tuple(maps.shape)}, {tuple(masks.shape)}")
    if not maps.isfinite().all():
        raise ValueError("a map holds a number that is not finite: it cannot be scored")
    maps, masks = maps.flatten(1).double(), masks.flatten(1).double()
    area = masks.mean(1)
    if bool(((area == 0) | (area == 1)).any()):
        raise ValueError("a mask is empty or covers its whole image: there is nothing to point at")
    return maps, masks, area


# Agreement


def agreement(maps: Tensor, others: Tensor, *, mismatches: int = 5) -> dict[str, float]:
    """Do two networks give the same reasons? Three measures, means over images, in [-1, 1], [-1, 1] and [0, 1].

    cosine of the signed maps; spearman of |map|; overlap, the share that the two sets of a tenth of the pixels with
    the highest relevance have in common of both together. Each also as NAME_mismatched, against the other network's
    maps of `mismatches` other images: what all maps share, such as looking at the middle, is no agreement.
    """
    _validate.number("mismatches", mismatches, 1, whole=True)
    _validate.tensors(maps=(maps, "float N×H×W"))
    _validate.tensors(others=(others, "float N×H×W"))
    if maps.shape != others.shape or len(maps) <= mismatches:
        raise ValueError(
            f"two sets of maps of more than {mismatches} images must have one shape: found {tuple(maps.shape)}, "
            f"{tuple(others.shape)}"
        )
    for values in (maps, others):
        _check(values)
    views = [_views(values) for values in (maps, others)]
    found = {name: float(_alike(name, *views).mean()) for name in views[0]}
    for name in list(found):
        shifted = [_alike(name, views[0], _rolled(views[1], by)).mean() for by in range(1, mismatches + 1)]
        found[f"{name}_mismatched"] = float(torch.stack(shifted).mean())
    return found


# What single units see


def dissection(model: nn.Module, images: Tensor, masks: Tensor, *, layer: str = "features.5", share: float = 0.02,
               turned: int | None = None) -> Tensor:
    """Network dissection (Bau et al. 2017): how well each unit of a layer marks each concept, IoU of U×K, in [0, 1].

    masks: bool K×N×H×W, one concept a row; share: a unit marks its highest activations, this share of all places of
    all images, brought to the size of the images by bilinear interpolation. Intersection and union are summed over
    images before they are divided: the mean over images would let a unit choose the images that suit it. turned:
    the seed of a rotation of the layer's units, the control that leaves everything that the network knows and takes
    away only that single units know it. A unit that is as high in more places than its share marks none. Raises
    ValueError for an empty concept.
    """
    _validate.tensors(images=(images, "finite float N×channels×H×W"), masks=(masks, "bool K×N×H×W"))
    _validate.number("share", share, 0, 1, inside=True)
    if not bool(masks.flatten(1).any(1).all()):
        raise ValueError("a concept has no pixel in any image: no unit can mark it")
    with torch.no_grad():
        parts = [with_features(model, images[rows], layer)[0] for rows in torch.arange(len(images)).split(500)]
    units = torch.cat(parts)
    if turned is not None:
        random = torch.randn(units.shape[1], units.shape[1], generator=_generator(turned))
        units = torch.einsum("uv,nvhw->nuhw", torch.linalg.qr(random).Q, units)
    concepts, found = masks.flatten(1), []
    for unit in range(units.shape[1]):
        seen = F.interpolate(units[:, unit : unit + 1], images.shape[2:], mode="bilinear", align_corners=False)
        seen = seen.flatten()
        marks = seen > seen.kthvalue(max(1, len(seen) - round(share * len(seen)))).values
        both = (marks & concepts).sum(1)
        found.append(both / (marks.sum() + concepts.sum(1) - both))
    return torch.stack(found)


def _views(maps: Tensor) -> dict[str, Tensor]:
    flat = maps.flatten(1).double()
    ranks = torch.from_numpy(scipy.stats.rankdata(flat.abs().numpy(), axis=1))
    top = torch.zeros_like(flat).scatter_(1, flat.topk(max(1, flat.shape[1] // 10), dim=1).indices, 1.0)
    return {"cosine": flat, "spearman": ranks - ranks.mean(1, keepdim=True), "overlap": top}


def _rolled(views: dict[str, Tensor], by: int) -> dict[str, Tensor]:
    return {name: values.roll(by, 0) for name, values in views.items()}


def _alike(name: str, one: dict[str, Tensor], other: dict[str, Tensor]) -> Tensor:
    a, b = one[name], other[name]
    if name == "overlap":
        both = (a * b).sum(1)
        return both / (a.sum(1) + b.sum(1) - both)
    return F.cosine_similarity(a, b, dim=1)


def _generator(seed: int) -> torch.Generator:
    _validate.number("seed", seed, 0, 2**63 - 1, whole=True)
    return torch.Generator().manual_seed(seed)


def _check_explained(images: Tensor, maps: Tensor, classes: Tensor, infill: Tensor) -> None:
    _check(maps)
    _validate.tensors(images=(images, "finite float N×channels×H×W"), maps=(maps, "float N×H×W"),
                      infill=(infill, "finite float N×channels×H×W"), classes=(classes, "int64 N"))


def _check(maps: Tensor) -> None:
    if (isinstance(maps, Tensor) and maps.dtype.is_complex) or not isinstance(maps, Tensor):
        _validate.tensors(maps=(maps, "float N×H×W"))
    if maps.ndim != 3 or len(maps) == 0:
        raise ValueError(f"maps must be N×H×W, at least one: found {tuple(maps.shape)}")
    flat = maps.flatten(1)
    for what, bad in {"holds a number that is not finite": ~flat.isfinite().all(1),
                      "is zero everywhere": (flat == 0).all(1)}.items():
        if bool(bad.any()):
            raise ValueError(f"map {int(bad.nonzero()[0])} {what}: it explains nothing")
