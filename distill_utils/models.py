"""Networks: a plain convolutional classifier of any width and a CIFAR residual network; trained ones as files.

Both are safe for DeepLIFT as captum computes it: one nn.ReLU module per use, no max pooling, no functional
activation, no product of activations, and logits as outputs. Images are float32 in [0, 1] and need no normalisation,
because BatchNorm follows the first layer.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from distill_utils import _store, _validate


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
    model = MODELS[name](num_classes, in_channels, **options).to(memory_format=torch.channels_last)
    model.architecture = {"name": name, "num_classes": num_classes, "in_channels": in_channels, "options": options}
    return model


def save(path: Path, model: nn.Module, *, classes: Sequence[str], side: int, **record) -> None:
    """Write a network of build into one file from which load makes it again (lesson 10).

    classes: the name of each column of the logits; side: of the images, in pixels; record: whatever else is to be
    known of it, in JSON. The file also says that images are bytes / 255, with no other normalisation (mean 0, sd 1).
    Raises ValueError for a network that build has not made, or another number of classes.
    """
    architecture = getattr(model, "architecture", None)
    if architecture is None:
        raise ValueError(f"only a network of models.build can be saved, got {type(model).__name__}: add it to "
                         "models.MODELS and build it by name, or use torch.export")
    if len(classes) != architecture["num_classes"]:
        raise ValueError(f"classes must have a name for each of the {architecture['num_classes']} classes, got "
                         f"{len(classes)}")
    _validate.number("side", side, 1, whole=True)
    shapes = [{name: x.shape for name, x in net.state_dict().items()} for net in (model, _built(architecture))]
    if shapes[0] != shapes[1]:
        raise ValueError("the network's layers have been changed since models.build made them, and load could not "
                         "make it again: save one that has its layers")
    channels = architecture["in_channels"]
    record |= {"architecture": architecture, "classes": list(classes), "side": side, "channels": channels,
               "mean": [0.0] * channels, "sd": [1.0] * channels}
    _store.save(path, model.state_dict(), record)


def load(path: Path) -> nn.Module:
    """The network in a file that save or the command train has written, in eval mode on the processor (lesson 10).

    Its attributes say what it is: classes (a tuple of names, one per column of the logits), side (of its images, in
    pixels), channels, and record (all that the file holds besides the weights). Its images are float in [0, 1].
    Raises ValueError for a path without a file, DamagedFile for a file of another kind or one that is not whole.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no model at {path}")
    if Path(path).suffix in (".pt2", ".onnx"):
        raise ValueError(f"{path} was exported, for programs without this package: give the file of weights that it "
                         "was made from")
    tensors, record = _store.load(path)
    if "architecture" not in record or "classes" not in record:
        raise _store.DamagedFile(f"{path} is not a model that models.save or the command train has written")
    model = _built(record["architecture"])
    model.load_state_dict(tensors)
    model.classes, model.side = tuple(record["classes"]), record["side"]
    model.channels, model.record = record["channels"], record
    return model.eval()


def _built(architecture: dict) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # the weights that it draws are not used
        return build(architecture["name"], architecture["num_classes"], architecture["in_channels"],
                     **architecture["options"])


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
    student = build("student", num_classes, in_channels, width=width, dropout=dropout)
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
