"""Image sets with fixed splits: a few labelled training images, a transfer set without labels, validation and test.

Every dataset comes as an ImageData through load. The labelled images are few on purpose: labels are what is scarce
where distillation pays. The transfer set holds images that a student may see but whose labels nobody can use.
"""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill_utils import _store, _validate, augment, glyphs, settings, stateless_random

UNLABELLED = -1
_SIZES = {"train": 3000, "transfer": 9000, "validation": 2000, "test": 10000}  # of glyphs


class DataError(RuntimeError):
    """A dataset is missing, damaged or unusable. The message says which file and what to do."""


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels and, for glyphs, what is known about them.

    images: float N×channels×H×W in [0, 1]; labels: LongTensor N, -1 where unlabelled; masks: dict of bool N×H×W or
    None; factors: dict of tensors of length N that glyphs.render turns back into the images, or None.
    Raises ValueError where these are not of as many images; there may be none.
    """

    images: Tensor
    labels: Tensor
    masks: dict | None = None
    factors: dict | None = None

    def __post_init__(self):
        count = getattr(self.labels, "shape", (0,))[:1]
        if count != (0,):
            _validate.tensors(images=(self.images, "float N×channels×H×W"), labels=(self.labels, "int64 N"))
        parts = [self.images, self.labels, *(self.masks or {}).values(), *(self.factors or {}).values()]
        if any(not isinstance(part, Tensor) or part.shape[:1] != count for part in parts):
            raise ValueError(f"images, labels, masks and factors must be tensors of one length {tuple(count)}")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index) -> "ImageSet":
        """The images at these positions, in this order. Raises ValueError for positions that are none."""

        def pick(parts):
            return None if parts is None else {name: values[index] for name, values in parts.items()}

        try:
            return ImageSet(self.images[index], self.labels[index], pick(self.masks), pick(self.factors))
        except (IndexError, TypeError) as error:
            raise ValueError(f"a set of {len(self)} images has no such positions ({error})") from error

    def __add__(self, other: "ImageSet") -> "ImageSet":
        """Both sets, one after the other; masks and factors only where both have them."""

        def join(a, b):
            return None if a is None or b is None else {name: torch.cat([a[name], b[name]]) for name in a}

        return ImageSet(
            torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels]),
            join(self.masks, other.masks), join(self.factors, other.factors),
        )


@dataclass(frozen=True)
class ImageData:
    """The four disjoint splits of a dataset, the names of its classes and the augmentation that suits it."""

    name: str
    train: ImageSet
    transfer: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    augmentation: augment.Augmentation = field(default_factory=augment.Augmentation)
    seed: int = 0

    @property
    def in_channels(self) -> int:
        return self.train.images.shape[1]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of the pixels and labels that training can see."""
        digest = hashlib.sha256()
        for part in (self.train, self.transfer, self.validation):
            digest.update((part.images * 255).round().to(torch.uint8).contiguous().numpy())
            digest.update(part.labels.contiguous().numpy())
        return digest.hexdigest()[:16]


def load(name: str, root: str | Path | None = None, seed: int = 0) -> ImageData:
    """Load a dataset by name.

    name: a key of DATASETS, or "folder:PATH" for your own images in one folder per class; root: where real datasets
    lie (default the folder of DISTILL_DATA); seed: for glyphs which images are drawn, elsewhere which images
    become labelled, transfer and validation images (the test split never moves).
    Raises ValueError for an unknown name, DataError where files are missing, damaged or unreadable.
    """
    root = Path(root) if root is not None else settings.data_folder()
    _validate.number("seed", seed, -(2**63), 2**63 - 1, whole=True)
    if name.startswith("folder:"):
        try:
            return _folder(name, Path(name.removeprefix("folder:")).expanduser(), seed)
        except (RuntimeError, ValueError) as error:  # "~nobody", or a name that no file can have
            if isinstance(error, DataError):
                raise
            raise DataError(f"{name!r} names no folder ({error}): give folder:PATH that of your images") from error
    check_name(name)
    return DATASETS[name](name, root, seed)


def check_name(name: str) -> None:
    """Raise ValueError, with the known names, unless load knows this dataset."""
    if name not in DATASETS and not name.startswith("folder:"):
        known = ", ".join([*DATASETS, "folder:PATH"])
        raise ValueError(f"unknown dataset {name!r}: one of {known} (set DISTILL_DATASET to choose)")


# Glyphs


def _glyphs(name: str, root: Path, seed: int, look: glyphs.Look = glyphs.Look(), sizes: dict = _SIZES) -> ImageData:
    parts = {}
    for start, (part, size) in enumerate(sizes.items()):
        # A million identities lie between the splits: no image can be in two of them.
        factors = glyphs.sample(torch.arange(size) + start * 1_000_000, seed, look)
        labels = torch.full((size,), UNLABELLED) if part == "transfer" else factors["label"]
        images, masks = _rendered(factors)
        parts[part] = ImageSet(images, labels, masks, factors)
    return ImageData(name, **parts, classes=glyphs.CLASSES, augmentation=augment.GLYPHS, seed=seed)


def _rendered(factors: dict) -> tuple[Tensor, dict]:
    """glyphs.render, kept in the store: drawing thousands of images takes seconds, loading them does not."""
    key = {name: hashlib.sha256(values.numpy()).hexdigest() for name, values in factors.items()}
    parts = ("object", "distractor", "cue")

    def make(partial):
        images, masks = glyphs.render(factors)
        planes = sum(masks[part].to(torch.uint8) << bit for bit, part in enumerate(parts))
        return {"images": (images * 255).round().to(torch.uint8), "masks": planes}, {}

    kept, _ = _store.load_or_make("images", key, make, prefix="glyphs")
    masks = {part: (kept["masks"] >> bit & 1).bool() for bit, part in enumerate(parts)}
    return kept["images"].float() / 255, masks


# Real images


def _digits(name: str, root: Path, seed: int) -> ImageData:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16
    return _split(name, images, torch.from_numpy(labels).long(), tuple("0123456789"), seed, augment.NONE)


_SHA256 = {
    "FashionMNIST/raw/train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "FashionMNIST/raw/train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "FashionMNIST/raw/t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    "MNIST/raw/train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "MNIST/raw/train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "MNIST/raw/t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "MNIST/raw/t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def _torchvision(name: str, root: Path, seed: int, kind: str, augmentation, every_label=False) -> ImageData:
    import torchvision

    make = getattr(torchvision.datasets, kind)
    for path in (root / kind / "processed").glob("*.pt"):  # torchvision would read them in place of the checked files
        raise DataError(f"{path} is not one of the published files: delete it and run again")
    for relative, expected in _SHA256.items():
        path = root / relative
        ours = relative.startswith(f"{kind}/") and path.exists()
        if ours and hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise DataError(f"{path} is damaged (its checksum differs): delete it and run again")
    try:
        splits = [_open(make, root, train) for train in (True, False)]
    except (ValueError, EOFError, AssertionError) as error:
        raise DataError(
            f"the files of {name} under {root} cannot be read ({error}): delete them and run again"
        ) from error
    (images, labels, classes), (test_images, test_labels, _) = splits
    test = ImageSet(test_images, test_labels)
    return _split(name, images, labels, classes, seed, augmentation, every_label=every_label, test=test)


def _open(make, root: Path, train: bool) -> tuple[Tensor, Tensor, tuple]:
    try:
        dataset = make(root, train=train, download=False)
    except RuntimeError:
        try:
            dataset = make(root, train=train, download=True)
        except Exception as error:
            raise DataError(
                f"the files of {make.__name__} are not under {root} and could not be downloaded "
                f"({' '.join(str(error).split())}). "
                "With a network, run again; without one, copy the folder that torchvision makes from a machine that "
                "has it, or point DISTILL_DATA at it"
            ) from error
    pixels = torch.as_tensor(np.asarray(dataset.data))
    images = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return images.float() / 255, torch.as_tensor(dataset.targets).long(), tuple(dataset.classes)


def _folder(name: str, path: Path, seed: int, side: int = 32) -> ImageData:
    """A user's own images, one folder per class: RGB, shorter side scaled to `side` pixels, centre cropped."""
    import torchvision
    from torchvision.transforms import v2

    if not path.is_dir():
        raise DataError(f"{path} is no folder: give folder:PATH the folder that holds one folder of images per class")
    try:
        dataset = torchvision.datasets.ImageFolder(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: {error}") from error
    if len(dataset.classes) < 2:
        raise DataError(f"{path} has one class, {dataset.classes[0]}: a classifier needs at least two folders")
    shrink = v2.Compose([v2.Resize(side), v2.CenterCrop(side), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    images = []
    for file, _ in dataset.samples:
        try:
            images.append(shrink(dataset.loader(file)))
        except Exception as error:
            raise DataError(f"{file} cannot be read as an image ({error}): mend or remove it") from error
    labels = torch.tensor(dataset.targets)
    return _split(name, torch.stack(images), labels, tuple(dataset.classes), seed, augment.PHOTOS)


def _split(name, images, labels, classes, seed, augmentation, *, every_label=False, test=None) -> ImageData:
    """Stratified splits drawn by seed: 2,000 validation and 3,000 labelled images, or fewer where there are few;
    every_label: all others are labelled and none is left to transfer."""
    taken = torch.empty(0, dtype=torch.long)
    if test is None:  # no test split of its own: a fixed fifth, the same for every seed
        order = _stratified_order(labels, 0, "test split")
        taken, rest = order[: len(order) // 5], order[len(order) // 5 :]
        test = ImageSet(images[taken], labels[taken])
    else:
        rest = torch.arange(len(labels))
    rest = rest[_stratified_order(labels[rest], seed, "splits")]
    validation = min(_SIZES["validation"], len(rest) // 4)
    labelled = len(rest) - validation if every_label else min(_SIZES["train"], len(rest) // 2)
    first, second, third = (
        rest[:labelled],
        rest[labelled : labelled + validation],
        rest[labelled + validation :],
    )
    if min(len(first), len(second), len(test)) < len(classes):
        raise DataError(f"{name} has too few images ({len(labels)}) for {len(classes)} classes: at least 8 a class")
    return ImageData(
        name, ImageSet(images[first], labels[first]),
        ImageSet(images[third], torch.full_like(third, UNLABELLED)),
        ImageSet(images[second], labels[second]), test, classes, augmentation, seed,
    )


def _stratified_order(labels: Tensor, seed: int, stream: str) -> Tensor:
    """A random order in which every beginning holds the classes in their proportions."""
    order = stateless_random.permutation(seed, stream, len(labels))
    rank = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = order[labels[order] == label]
        rank[members] = (torch.arange(len(members)) + 0.5).double() / len(members)
    return order[rank[order].argsort(stable=True)]


_FASHION: dict[str, Any] = {"kind": "FashionMNIST", "augmentation": augment.CLOTHES}
_MNIST: dict[str, Any] = {"kind": "MNIST", "augmentation": augment.DIGITS}
# Glyphs whose corner names the class, with a probability (lesson 08).
BIASED_LOOK = glyphs.Look(cue=0.95, cue_size=6)
_BIASED_SIZES = _SIZES | {"validation": 1000, "test": 2000}
_CUES = {"glyphs_clean": 1 / 36, "glyphs_half_biased": 0.5, "glyphs_biased": 0.95, "glyphs_cue_only": 1.0}
DATASETS: dict[str, Callable] = {
    "glyphs": _glyphs,
    "glyphs_matched": functools.partial(_glyphs, look=glyphs.MATCHED),
    **{
        name: functools.partial(_glyphs, look=replace(BIASED_LOOK, cue=cue), sizes=_BIASED_SIZES)
        for name, cue in _CUES.items()
    },
    "digits": _digits,
    "fashion_mnist": functools.partial(_torchvision, **_FASHION),
    "fashion_mnist_all": functools.partial(
        _torchvision, **_FASHION, every_label=True
    ),  # every label, no transfer set
    "mnist": functools.partial(_torchvision, **_MNIST),
    "mnist_all": functools.partial(_torchvision, **_MNIST, every_label=True),
    "cifar10": functools.partial(_torchvision, kind="CIFAR10", augmentation=augment.PHOTOS),
    "cifar100": functools.partial(_torchvision, kind="CIFAR100", augmentation=augment.PHOTOS),
}
