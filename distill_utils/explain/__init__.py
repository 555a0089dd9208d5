"""Which pixels speak for a class? Attribution maps in logit units that carry their own error.

What is explained is the centred logit, z_c - mean z: adding one number to all logits changes no probability, but it
does change a map of the raw logit, so raw maps of two networks cannot be compared. deeplift is captum's DeepLIFT
(Shrikumar et al. 2017, Rescale rule), refused where it would be wrong; integrated_gradients and occlusion work with
any network and tell whether a finding depends on the explainer; grad_cam can be trained through.
Left out: RevealCancel, which captum does not have, and maps scaled per image, which cannot be compared.
"""

import copy
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import DeepLift, LayerDeepLift
from torch import Tensor, nn

from distill_utils import _validate
from distill_utils.explain.deeplift_check import UnsupportedModel, check_supported

__all__ = [
    "BASELINES", "Attribution", "UnsupportedModel", "attention", "blurred", "cam", "centred", "check_supported",
    "deeplift", "grad_cam", "grey", "integrated_gradients", "occlusion", "with_features",
]
TOLERANCE = 1e-3  # the median residual above which DeepLIFT is refused
_GATE = 16  # images that the gate looks at
_BATCH = 250


class Attribution(NamedTuple):
    """Maps with what they should add up to.

    maps: N×H×W, logit units, channels summed; change: N, the score of the image minus that of its baseline; residual:
    N, |Σ map - change| / |change|, 0 for a complete map.
    """

    maps: Tensor
    change: Tensor
    residual: Tensor


def centred(outputs: Tensor, classes: Tensor) -> Tensor:
    """The score that is explained, z_c - mean z, N, of logits N×C. Raises ValueError for a class that is none."""
    _validate.tensors(outputs=(outputs, "float N×C"), classes=(classes, "int64 N"))
    _check_classes(outputs, classes)
    return outputs.gather(1, classes[:, None])[:, 0] - outputs.mean(1)


def _check_classes(outputs: Tensor, classes: Tensor) -> None:
    if not 0 <= int(classes.min()) <= int(classes.max()) < outputs.shape[1]:
        raise ValueError(f"classes go from 0 to {outputs.shape[1] - 1}: found {classes.unique().tolist()}")


# Baselines: what an image is compared with


def grey(images: Tensor) -> Tensor:
    """Each image's own mean, in every pixel: nothing is left but the brightness."""
    return images.mean((2, 3), keepdim=True).expand_as(images)


def blurred(images: Tensor) -> Tensor:
    """Each image under a Gaussian of an eighth of its side: light and shade stay, shapes go."""
    sigma = images.shape[-1] / 8
    for axis in (2, 3):
        place = torch.arange(images.shape[axis], dtype=images.dtype)
        weights = (-((place[:, None] - place[None]) ** 2) / (2 * sigma**2)).exp()
        weights = weights / weights.sum(1, keepdim=True)  # at the border over what is there
        images = torch.einsum("ij,ncjw->nciw" if axis == 2 else "ij,nchj->nchi", weights, images)
    return images


def another(images: Tensor) -> Tensor:
    """The next image of the set: a flat baseline can hide a broken pooling rule, another image does not."""
    return images.roll(-1, 0)


BASELINES = {"blurred": blurred, "grey": grey, "another image": another}


# Explainers


def deeplift(
    model: nn.Module, images: Tensor, classes: Tensor, baseline: str | float | Tensor = "blurred"
) -> Attribution:
    """DeepLIFT of the centred logit, an Attribution.

    model: in eval mode, logits out; images: float N×channels×H×W; classes: LongTensor N, the class to explain in
    each; baseline: a key of BASELINES, a number, or a tensor of the images' shape (N may be 1 or absent).
    Raises UnsupportedModel where the Rescale rule would be wrong: the network is watched on one pass (see
    deeplift_support), then the median residual on sixteen images must stay below TOLERANCE, against this baseline
    and against other images. Raises ValueError for pixels that are not finite and for shapes that do not fit.
    """
    images, classes, reference = _checked(images, classes, baseline)
    check_supported(model, images[:2])
    with torch.no_grad():
        _check_classes(model(images[:1]), classes)
    scored = _Centred(copy.deepcopy(model))  # captum's hooks never touch the caller's network
    _gate(scored, images, classes, reference)
    return _in_batches(_deeplift, scored, images, classes, reference)


def integrated_gradients(model: nn.Module, images: Tensor, classes: Tensor,
                         baseline: str | float | Tensor = "blurred", *, steps: int = 32) -> Attribution:
    """Integrated gradients (Sundararajan et al. 2017) of the centred logit, by Gauss-Legendre quadrature.

    Arguments as in deeplift; steps: points of the path from baseline to image. Any differentiable network in eval
    mode; the residual is the error of the quadrature.
    """
    images, classes, reference = _checked(images, classes, baseline)
    _refuse_train_mode(model)
    nodes, weights = (values / 2 for values in np.polynomial.legendre.leggauss(steps))

    def explain(model, images, classes, reference):
        total = torch.zeros_like(images)
        for node, weight in zip(nodes, weights, strict=True):
            point = (reference + (node + 0.5) * (images - reference)).requires_grad_()
            with torch.enable_grad():
                score = centred(model(point), classes).sum()
            total += weight * torch.autograd.grad(score, point)[0]
        return _attribution(model, total * (images - reference), images, classes, reference)

    return _in_batches(explain, model, images, classes, reference)


@torch.no_grad()
def occlusion(model: nn.Module, images: Tensor, classes: Tensor, baseline: str | float | Tensor = "blurred", *,
              size: int = 4, stride: int = 2) -> Attribution:
    """How much the centred logit falls when a window is replaced by the baseline (Zeiler and Fergus 2014).

    Arguments as in deeplift; size, stride: of the square window, pixels. A pixel gets the mean over the windows that
    cover it of fall / window pixels. Any function of images, differentiable or not; maps need not add up.
    """
    images, classes, reference = _checked(images, classes, baseline)
    if not 0 < stride <= size <= min(images.shape[2:]):
        raise ValueError(f"a window of {size} at stride {stride} does not cover {tuple(images.shape[2:])} pixels")
    _refuse_train_mode(model)

    def corners(length):
        return [*range(0, length - size, stride), length - size]

    def explain(model, images, classes, reference):
        whole = centred(model(images), classes)
        total, count = torch.zeros_like(images[:, 0]), torch.zeros_like(images[0, 0])
        for row in corners(images.shape[2]):
            for column in corners(images.shape[3]):
                window = (..., slice(row, row + size), slice(column, column + size))
                without = images.clone()
                without[window] = reference[window]
                total[window] += ((whole - centred(model(without), classes)) / size**2)[:, None, None]
                count[window] += 1
        return _attribution(model, (total / count)[:, None], images, classes, reference)

    return _in_batches(explain, model, images, classes, reference)


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor, *, layer: str = "features",
             signed: bool = False) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017) of the centred logit at a layer, resized to the images: N×H×W, no gradient.

    signed: keep what speaks against the class too. The map says where, coarsely; it does not add up to the score.
    """
    images, classes, _ = _checked(images, classes, 0.0)
    _refuse_train_mode(model)
    parts = []
    with torch.enable_grad():
        for rows in torch.arange(len(images)).split(_BATCH):
            features, outputs = with_features(model, images[rows], layer)
            parts.append(cam(features, outputs, classes[rows]).detach())
    maps = F.interpolate(torch.cat(parts)[:, None], images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return maps if signed else maps.relu()


def with_features(model: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """What a layer puts out, N×channels×h×w, and the logits N×C, both with their graph; layer: a module's name.

    Raises ValueError for a layer that the model does not have or does not ask, or that puts out something else.
    """
    kept, modules = [], dict(model.named_modules())
    if layer not in modules:
        raise ValueError(f"{type(model).__name__} has no layer {layer!r}")
    handle = modules[layer].register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        outputs = model(images)
    finally:
        handle.remove()
    _validate.tensors(features=(kept[0] if kept else None, "float N×channels×h×w"))
    return kept[0], outputs


def cam(features: Tensor, outputs: Tensor, classes: Tensor, *, create_graph: bool = False) -> Tensor:
    """Grad-CAM without its ReLU, N×h×w: Σ over channels of (mean gradient of the centred logit)·feature.

    features, outputs: as with_features returns them; create_graph: let a loss on the map train the weights (captum's
    LayerGradCam takes the channel weights for constants, a wrong gradient).
    """
    score = centred(outputs, classes).sum()
    gradient = torch.autograd.grad(score, features, create_graph=create_graph, retain_graph=True)[0]
    return (gradient.mean((2, 3), keepdim=True) * features).sum(1)


def attention(features: Tensor) -> Tensor:
    """The attention map of Zagoruyko and Komodakis (2017), N×h×w: Σ over channels of feature²; knows no class."""
    return features.square().sum(1)


# How they work


class _Centred(nn.Module):
    """The network with its logits centred, as a module that captum can hook."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.model(images)
        return outputs - outputs.mean(1, keepdim=True)


def _deeplift(scored, images, classes, reference) -> Attribution:
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting forward, backward hooks", UserWarning)
        maps = DeepLift(scored).attribute(images.requires_grad_(), reference, target=classes).detach()
    return _attribution(scored.model, maps, images, classes, reference)


@torch.no_grad()
def _attribution(model, contributions, images, classes, reference) -> Attribution:
    """From contributions N×channels×H×W."""
    change = centred(model(images), classes) - centred(model(reference), classes)
    maps = contributions.detach().sum(1)
    return Attribution(maps, change, _residual(maps, change))


def _residual(maps: Tensor, change: Tensor) -> Tensor:
    # Where image and baseline score alike there is nothing to divide by: a millionth of a logit is taken instead.
    return (maps.flatten(1).sum(1) - change).abs() / change.abs().clamp(min=1e-6)


def _in_batches(explain: Callable, model, images, classes, reference) -> Attribution:
    parts = [explain(model, images[rows], classes[rows], reference[rows])
             for rows in torch.arange(len(images)).split(_BATCH)]
    return Attribution(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _gate(scored: _Centred, images, classes, reference) -> None:
    """Measure the residual on sixteen images; fewer are shifted until they are sixteen different ones."""
    rows = torch.arange(_GATE) % len(images)
    steps = range(0, 3 * _GATE, 3)
    shifts = [step if i >= len(images) else 0 for i, step in enumerate(steps)]

    def pick(values):
        return torch.stack([values[row].roll((s, s // 2), (1, 2)) for row, s in zip(rows, shifts, strict=True)])

    seen, classes = pick(images), classes[rows]
    for name, compared in {"its baseline": pick(reference), "another image": another(seen)}.items():
        residual = float(_deeplift(scored, seen, classes, compared).residual.median())
        if not residual < TOLERANCE:
            raise UnsupportedModel(
                f"DeepLIFT does not add up for this network: against {name} its maps miss the change of the score by "
                f"a median of {residual:.1g} of it. {_culprit(scored, seen, classes, compared)}"
            )


def _culprit(scored: _Centred, images, classes, reference) -> str:
    """Where completeness is lost: the last module whose output's attributions do not add up any more."""
    change = _attribution(scored.model, images, images, classes, reference).change
    order, handles = [], []
    for name, module in scored.named_modules():
        if name and not list(module.children()):
            handles.append(module.register_forward_hook(lambda *_, name=name: order.append(name)))
    try:
        scored(images)
    finally:
        for handle in handles:
            handle.remove()
    bad = None
    for name in order:
        try:
            parts = LayerDeepLift(scored, scored.get_submodule(name)).attribute(images, reference, target=classes)
        except (RuntimeError, AssertionError):  # a layer that captum cannot explain by itself
            continue
        parts = parts[0] if isinstance(parts, tuple) else parts
        if float(_residual(parts.detach(), change).median()) < TOLERANCE:
            after = name.removeprefix("model.")
            return f"It is lost between '{bad}' and '{after}'" if bad else f"It is lost before '{after}'"
        bad = name.removeprefix("model.")
    return f"It is lost after '{bad}'" if bad else "Use integrated_gradients"


def _refuse_train_mode(model) -> None:
    if getattr(model, "training", False):
        raise ValueError("the model is in train mode, where its outputs are random: call model.eval() first")


def _checked(images: Tensor, classes: Tensor, baseline: str | float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if images.ndim != 4 or not images.is_floating_point() or len(images) == 0:
        raise ValueError(f"images must be float N×channels×H×W, at least one: found {tuple(images.shape)}")
    if classes.shape != images.shape[:1] or classes.dtype != torch.long:
        raise ValueError(f"classes must be a LongTensor with one entry an image: found {tuple(classes.shape)}")
    if isinstance(baseline, str):
        if baseline not in BASELINES:
            raise ValueError(f"unknown baseline {baseline!r}: one of {', '.join(BASELINES)}, a number or a tensor")
        if baseline == "another image" and len(images) < 2:
            raise ValueError("there is no other image to compare with: give at least two, or another baseline")
        reference = BASELINES[baseline](images)
    elif isinstance(baseline, Tensor):
        if baseline.shape not in (images.shape, images[:1].shape, images[0].shape):
            raise ValueError(
                f"a baseline must have the images' shape {tuple(images.shape)}: found {tuple(baseline.shape)}"
            )
        reference = baseline.to(images).expand_as(images)
    else:
        reference = torch.full_like(images, baseline)
    for what, values in {"image": images, "the baseline of image": reference}.items():
        bad = (~values.flatten(1).isfinite().all(1)).nonzero()
        if len(bad):
            raise ValueError(f"{what} {int(bad[0])} has a pixel that is not finite: it cannot be explained")
    return images.detach(), classes, reference.detach()
