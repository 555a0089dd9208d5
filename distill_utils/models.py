"""Networks: a plain convolutional classifier of any width and a CIFAR residual network.

Both are safe for DeepLIFT as captum computes it: one nn.ReLU module per use, no max pooling, no functional
activation, no product of activations, and logits as outputs. Images are float32 in [0, 1] and need no normalisation,
because BatchNorm follows the first layer.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from distill_utils import _validate


def _check_images(images: Tensor, first: nn.Conv2d) -> None:
    """Raise ValueError for images of the wrong shape for the network's first convolution."""
    if not torch.compiler.is_compiling() and not isinstance(images, torch.fx.Proxy):  # traced images have no shape
        _validate.tensors(images=(images, f"float N×{first.in_channels}×H×W"))


def _block(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]


class PlainCNN(nn.Module):
    """Four 3×3 convolution blocks of width w, 2w, 4w, 4w, global average pooling and a linear head (lesson 01).

    Takes N×channels×H×W with H and W of at least 8, returns logits N×C. Dropout is applied to the pooled features,
    after the last BatchNorm, so that it cannot shift a variance that BatchNorm estimates (lesson 05).
    """

    def __init__(self, num_classes: int, in_channels: int = 1, *, width: int = 24, dropout: float = 0.0):
        super().__init__()
        w = width
        self.features = nn.Sequential(
            *_block(in_channels, w, stride=2),
            *_block(w, 2 * w), nn.AvgPool2d(2),
            *_block(2 * w, 4 * w), nn.AvgPool2d(2),
            *_block(4 * w, 4 * w),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4 * w, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        _check_images(images, self.features[0])
        return self.head(self.dropout(self.pool(self.features(images)).flatten(1)))


class _Residual(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(*_block(in_channels, out_channels, stride), *_block(out_channels, out_channels)[:2])
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """The CIFAR residual network of He et al. (2016): 6·blocks + 2 layers, widths w, 2w, 4w.

    Takes N×channels×H×W, returns logits N×C; depth 20 is blocks=3 with width=16. Raises ValueError for a width below
    8, for which torch 2.15 corrupts memory in the backward pass (channels_last, processors with AVX2 only).
    """

    def __init__(self, num_classes: int, in_channels: int = 3, *, width: int = 16, blocks: int = 3,
                 dropout: float = 0.0):
        super().__init__()
        if width < 8:
            raise ValueError(f"a ResNet must have a width of at least 8, got {width}: narrower ones crash torch 2.15")
        layers, channels = _block(in_channels, width), width
        for stage, factor in enumerate((1, 2, 4)):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(_Residual(channels, factor * width, stride))
                channels = factor * width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        _check_images(images, self.features[0])
        return self.head(self.dropout(self.pool(self.features(images)).flatten(1)))


MODELS: dict[str, Callable[..., nn.Module]] = {
    "teacher": functools.partial(PlainCNN, width=24, dropout=0.1),
    "student": functools.partial(PlainCNN, width=8),
    "resnet": ResNet,
}


def build(name: str, num_classes: int, in_channels: int = 1, **options) -> nn.Module:
    """Build an untrained network by name (lesson 01).

    name: a key of MODELS ("teacher" is the plain CNN of width 24 with dropout 0.1, "student" that of width 8);
    options: keyword arguments of its class, such as width and dropout. The weights come from torch's global
    generator. Raises ValueError for an unknown name.
    """
    check_name(name)
    return MODELS[name](num_classes, in_channels, **options).to(memory_format=torch.channels_last)


def check_name(name: str) -> None:
    """Raise ValueError, with the known names, for an unknown model."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: must be one of {', '.join(MODELS)}")


@torch.no_grad()
def cut_student(teacher: PlainCNN, width: int, *, dropout: float = 0.0) -> PlainCNN:
    """A narrower student made of a subset of the teacher's weights (the article's θ₂; lesson 02).

    Each layer keeps the channels with the largest |BatchNorm scale| (Liu et al. 2017, "network slimming") and the
    weights that connect them. The BatchNorm statistics are still those of the wide network's activations: re-estimate
    them (training.reestimate_batch_norm) before use. Raises ValueError for a width not below the teacher's.
    """
    _validate.number("width", width, 1, teacher.features[0].out_channels - 1, whole=True)
    num_classes, in_channels = teacher.head.out_features, teacher.features[0].in_channels
    student = PlainCNN(num_classes, in_channels, width=width, dropout=dropout)
    kept = torch.arange(in_channels)
    for wide, narrow in zip(teacher.features, student.features, strict=True):
        if isinstance(wide, nn.Conv2d):
            kept_in, conv, wide_conv = kept, narrow, wide
        elif isinstance(wide, nn.BatchNorm2d):
            kept = wide.weight.abs().argsort(descending=True)[: narrow.num_features].sort().values
            conv.weight.copy_(wide_conv.weight[kept][:, kept_in])
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(narrow, name).copy_(getattr(wide, name)[kept])
    student.head.weight.copy_(teacher.head.weight[:, kept])
    student.head.bias.copy_(teacher.head.bias)
    return student.to(memory_format=torch.channels_last)
