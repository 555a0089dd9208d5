"""Attribution maps: how much each pixel of an image contributes to the score of a class (lesson 08).

The score is the centred logit, z_c - mean z. Adding one number to all logits changes no probability, but it changes
the map of a raw logit, so raw maps of two networks cannot be compared. deeplift is captum's DeepLIFT (Shrikumar et
al. 2017, Rescale rule) and refuses networks for which that would be wrong. integrated_gradients and occlusion work
with any network and show whether a finding depends on the explainer.
"""

import copy
import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from captum.attr import DeepLift, LayerDeepLift
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from distill_utils import _validate
from distill_utils.explain.deeplift_check import UnsupportedModel, check_supported
from distill_utils.training import eval_mode

__all__ = [
    "BASELINES", "Attribution", "UnsupportedModel", "blurred", "centred", "deeplift", "grey", "integrated_gradients",
    "occlusion", "shifted_batch",
]
TOLERANCE = 1e-3  # DeepLIFT is refused if its median residual is larger
_GATE = 16  # images on which that residual is measured
_BATCH = 250


class Attribution(NamedTuple):
    """Maps and what they should add up to.

    maps: N×H×W, logit units, summed over channels; change: N, score of the image minus score of its baseline;
    residual: N, |Σ map - change| / |change|, 0 for a complete map.
    """

    maps: Tensor
    change: Tensor
    residual: Tensor


def centred(outputs: Tensor, classes: Tensor) -> Tensor:
    """The score that is explained, z_c - mean z, N, of logits N×C and classes N (built in lesson 08).

    Raises ValueError for a class outside [0, C - 1].
    """
    _validate.tensors(outputs=(outputs, "float N×C"), classes=(classes, "int64 N"))
    low, high, count = int(classes.min()), int(classes.max()), outputs.shape[1]
    if low < 0 or high >= count:
        raise ValueError(f"classes must be in [0, {count - 1}] for {count} logits, got {low} to {high}")
    return outputs.gather(1, classes[:, None])[:, 0] - outputs.mean(1)


def grey(images: Tensor) -> Tensor:
    """Each image's own mean in every pixel: only the brightness is left."""
    return images.mean((2, 3), keepdim=True).expand_as(images)


def blurred(images: Tensor) -> Tensor:
    """Each image blurred by a Gaussian of an eighth of its width: shading remains, shapes disappear."""
    for size, formula in zip(images.shape[2:], ("ij,ncjw->nciw", "ij,nchj->nchi"), strict=True):
        position = torch.arange(size, dtype=images.dtype)
        weights = (-((position[:, None] - position) ** 2) / (2 * (images.shape[3] / 8) ** 2)).exp()
        weights = weights / weights.sum(1, keepdim=True)  # so that a constant image stays constant up to its border
        images = torch.einsum(formula, weights, images)
    return images


def shifted_batch(images: Tensor) -> Tensor:
    """The next image of the batch. A flat baseline can hide a broken pooling rule, another image does not."""
    if len(images) < 2:
        raise ValueError("the baseline 'another image' needs at least two images, got one")
    return images.roll(-1, 0)


BASELINES = {"blurred": blurred, "grey": grey, "another image": shifted_batch}


def deeplift(model: nn.Module, images: Tensor, classes: Tensor,
             baseline: str | float | Tensor = "blurred") -> Attribution:
    """DeepLIFT of the centred logit (lesson 08).

    model: returns logits; it is explained in eval mode and left as it was; images: float N×channels×H×W; classes:
    int64 N, the class to explain for each image; baseline: a key of BASELINES, a number, or a tensor of the images'
    shape (N may be 1 or absent). Raises UnsupportedModel where the Rescale rule would be wrong: one forward pass is
    checked (see deeplift_check), then the median residual on sixteen images must be below TOLERANCE, both with this
    baseline and with other images as baselines.
    """
    images, reference = _checked(model, images, classes, baseline)
    model = getattr(model, "_orig_mod", model)  # what torch.compile has wrapped
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
            raise UnsupportedModel(f"{name or 'the model'} is traced, scripted or compiled, and has no modules that "
                                   "captum could hook: explain the network that it was made of")
    model = copy.deepcopy(model).eval()  # captum adds hooks
    check_supported(model, images[:2])
    _check_completeness(model, images, classes, reference)
    return _attribute(_rescale, model, images, classes, reference)


def integrated_gradients(model: nn.Module, images: Tensor, classes: Tensor,
                         baseline: str | float | Tensor = "blurred", *, steps: int = 32) -> Attribution:
    """Integrated gradients (Sundararajan et al. 2017) of the centred logit, by Gauss-Legendre quadrature (lesson 08).

    Arguments as for deeplift; steps: points on the path from baseline to image. For any differentiable network; the
    residual is the error of the quadrature.
    """
    images, reference = _checked(model, images, classes, baseline)
    _validate.number("steps", steps, 1, whole=True)
    nodes, weights = (values / 2 for values in np.polynomial.legendre.leggauss(steps))

    def contributions(model, images, classes, reference):
        total = torch.zeros_like(images)
        for node, weight in zip(nodes, weights, strict=True):
            point = (reference + (node + 0.5) * (images - reference)).requires_grad_()
            with torch.enable_grad():
                score = centred(model(point), classes).sum()
            total += weight * torch.autograd.grad(score, point)[0]
        return total * (images - reference)

    return _attribute(contributions, model, images, classes, reference)


def occlusion(model: nn.Module, images: Tensor, classes: Tensor, baseline: str | float | Tensor = "blurred", *,
              size: int = 4) -> Attribution:
    """How far the centred logit falls when a window shows the baseline (Zeiler and Fergus 2014; lesson 08).

    Arguments as for deeplift; size: of the square window, in pixels; it moves by half of that. The value of a pixel
    is the mean, over the windows that cover it, of fall / pixels of the window. For any model, differentiable or
    not; the maps need not add up.
    """
    images, reference = _checked(model, images, classes, baseline)
    _validate.number("size", size, 1, min(images.shape[2:]), whole=True)

    def corners(length):
        return [*range(0, length - size, max(1, size // 2)), length - size]

    def contributions(model, images, classes, reference):
        score = centred(model(images), classes)
        total, count = torch.zeros_like(images[:, 0]), torch.zeros_like(images[0, 0])
        for row in corners(images.shape[2]):
            for column in corners(images.shape[3]):
                window = (..., slice(row, row + size), slice(column, column + size))
                occluded = images.clone()
                occluded[window] = reference[window]
                fall = score - centred(model(occluded), classes)
                total[window] += (fall / size**2)[:, None, None]
                count[window] += 1
        return (total / count)[:, None]

    return _attribute(contributions, model, images, classes, reference)


def _checked(model: nn.Module, images: Tensor, classes: Tensor,
             baseline: str | float | Tensor) -> tuple[Tensor, Tensor]:
    """The images and the baseline of each, detached."""
    _validate.full_precision(model, "explained")
    given = [value for value in (images, classes, baseline) if isinstance(value, Tensor)]
    if torch.is_inference_mode_enabled() or any(value.is_inference() for value in given):
        raise ValueError("maps need gradients, which torch.inference_mode forbids: explain outside of it, and pass "
                         "clones of tensors that were made in it")
    _validate.tensors(images=(images, "finite float N×channels×H×W"), classes=(classes, "int64 N"))
    if isinstance(baseline, str):
        if baseline not in BASELINES:
            names = ", ".join(BASELINES)
            raise ValueError(f"baseline must be one of {names}, a number or a tensor, got {baseline!r}")
        reference = BASELINES[baseline](images)
    else:
        reference = torch.as_tensor(baseline, dtype=images.dtype, device=images.device).expand_as(images)
    return images.detach(), reference.detach()


@torch.no_grad()
def _attribute(contributions: Callable, model, images, classes, reference) -> Attribution:
    """Maps in batches. contributions(model, images, classes, reference): N×channels×H×W."""
    maps, change = [], []
    with eval_mode(model):
        for x, c, r in zip(*(values.split(_BATCH) for values in (images, classes, reference)), strict=True):
            change.append(centred(model(x), c) - centred(model(r), c))
            maps.append(contributions(model, x, c, r).detach().sum(1))
    maps, change = torch.cat(maps), torch.cat(change)
    return Attribution(maps, change, _residual(maps, change))


def _residual(contributions: Tensor, change: Tensor) -> Tensor:
    # If image and baseline have equal scores, the error is taken relative to a millionth of a logit.
    return (contributions.flatten(1).sum(1) - change).abs() / change.abs().clamp(min=1e-6)


class _Centred(nn.Module):
    """A network with centred logits, as a module that captum can hook."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.model(images)
        return outputs - outputs.mean(1, keepdim=True)


def _rescale(model, images, classes, reference) -> Tensor:
    """The contributions that captum's DeepLIFT computes, N×channels×H×W."""
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting forward, backward hooks", UserWarning)
        return DeepLift(_Centred(model)).attribute(images.detach().requires_grad_(), reference, target=classes)


def _check_completeness(model, images, classes, reference) -> None:
    """Raise UnsupportedModel if maps do not add up on sixteen images. Fewer are repeated, each time shifted."""
    repeats = math.ceil(_GATE / len(images))

    def sixteen(values):
        return torch.cat([values.roll((3 * k, 2 * k), (2, 3)) for k in range(repeats)])[:_GATE]

    images, classes, reference = sixteen(images), classes.repeat(repeats)[:_GATE], sixteen(reference)
    for name, baseline in {"its baseline": reference, "another image": shifted_batch(images)}.items():
        attribution = _attribute(_rescale, model, images, classes, baseline)
        error = float(attribution.residual.median())
        if not error < TOLERANCE:  # NaN is refused, too
            place = _lost(model, images, classes, baseline, attribution.change)
            raise UnsupportedModel(
                f"DeepLIFT is not complete for this network (median error {error:.1g} against {name}). Completeness "
                f"is lost {place}: give every module with a DeepLIFT rule an input of its own, x.clone(), and no "
                "overlapping windows, or use integrated_gradients"
            )


def _lost(model, images, classes, reference, change) -> str:
    """Between which two modules completeness is lost: contributions add up at the second, but not at the first."""
    names = {module: name for name, module in model.named_modules() if name and not list(module.children())}
    called: list[nn.Module] = []
    with register_module_forward_hook(lambda module, *_: called.append(module)):
        model(images)
    last = "the input"
    for module in called:
        if module not in names:
            continue
        try:
            contributions = LayerDeepLift(_Centred(model), module).attribute(images, reference, target=classes)
        except (RuntimeError, AssertionError):  # a layer that captum cannot explain by itself
            continue
        if float(_residual(contributions.detach(), change).median()) < TOLERANCE:
            return f"between {last} and '{names[module]}'"
        last = f"'{names[module]}'"
    return f"after {last}"
