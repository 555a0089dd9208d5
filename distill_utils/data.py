"""Image datasets with fixed splits: few labelled training images, unlabelled transfer images, validation and test.

load returns every dataset as an ImageData. Few images are labelled on purpose: distillation pays off where labels
are scarce. The labels of the transfer images are hidden (-1), so that no student can be trained with them.
"""

import functools
import hashlib
import multiprocessing
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill_utils import _folder, _store, _validate, augment, glyphs, pairs, settings, stateless_random
from distill_utils._folder import DataError, Photographs

__all__ = ["BIASED_LOOK", "DATASETS", "UNLABELLED", "DataError", "ImageData", "ImageSet", "check_name", "load"]
UNLABELLED = -1
_SIZES = {"train": 3000, "transfer": 9000, "validation": 2000, "test": 10000}  # of glyphs


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels and, for glyphs, their ground truth.

    images: float N×channels×H×W in [0, 1], which for a folder: dataset stay in a file until they are indexed; labels:
    LongTensor N, -1 where unlabelled; masks: dict of bool N×H×W, or None; factors: dict of tensors of length N from
    which glyphs.render draws the images, or None. Raises ValueError for tensors of different lengths. A set may be
    empty.
    """

    images: Tensor
    labels: Tensor
    masks: dict | None = None
    factors: dict | None = None

    def __post_init__(self):
        if len(self.labels):
            _validate.tensors(images=(self.images, "float N×channels×H×W"), labels=(self.labels, "int64 N"))
        parts = [self.images, self.labels, *(self.masks or {}).values(), *(self.factors or {}).values()]
        lengths = [len(part) for part in parts]
        if len(set(lengths)) > 1:
            raise ValueError(f"images, labels, masks and factors must have the same length, got {lengths}")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index) -> "ImageSet":
        """The images at these positions, in this order. Raises ValueError for a position out of range."""

        def pick(parts):
            return None if parts is None else {name: values[index] for name, values in parts.items()}

        try:
            images = self.images.subset(index) if isinstance(self.images, Photographs) else self.images[index]
            return ImageSet(images, self.labels[index], pick(self.masks), pick(self.factors))
        except IndexError as error:
            raise ValueError(f"index out of range for {len(self)} images ({error})") from error

    def __add__(self, other: "ImageSet") -> "ImageSet":
        """Both sets, one after the other; with masks and factors only if both have them."""

        def join(a, b):
            return None if a is None or b is None else {name: torch.cat([a[name], b[name]]) for name in a}

        return ImageSet(
            torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels]),
            join(self.masks, other.masks), join(self.factors, other.factors),
        )


@dataclass(frozen=True)
class ImageData:
    """The four disjoint splits of a dataset, the names of its classes and its augmentation.

    For a folder of photographs, about: what was read and what was left out; files: of each split, such as
    files["test"], in the order of its images.
    """

    name: str
    train: ImageSet
    transfer: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    augmentation: augment.Augmentation = field(default_factory=augment.Augmentation)
    seed: int = 0
    about: str = ""
    files: dict[str, list[Path]] = field(default_factory=dict)

    @property
    def in_channels(self) -> int:
        return self.train.images.shape[1]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that identify the pixels and labels available to training (all but the test)."""
        digest = hashlib.sha256()
        for part in (self.train, self.transfer, self.validation):
            if isinstance(part.images, Photographs):
                digest.update(part.images.contents)
            else:
                digest.update((part.images * 255).round().to(torch.uint8).contiguous().numpy())
            digest.update(part.labels.contiguous().numpy())
        return digest.hexdigest()[:16]


def load(name: str, root: str | Path | None = None, seed: int = 0, *, side: int | None = None,
         labelled: int | None = None, groups: str | None = None) -> ImageData:
    """Load a dataset by name (lesson 00).

    name: a key of DATASETS, or "folder:PATH" for your own images, in one folder per class, or in train/, val/ and
    test/ with these inside; root: the folder of real datasets (default that of DISTILL_DATA); seed: for glyphs it
    decides which images are drawn, elsewhere which images become labelled, transfer and validation images; the test
    split is always the same. Raises ValueError for an unknown name, DataError for files that are missing, damaged or
    unreadable.

    For a folder: side: of the square that each image is scaled and cropped to, in pixels (default DISTILL_SIDE or
    32); labelled: how many training images keep their labels, while the others join the transfer set, which is
    otherwise the folder unlabelled/ or empty (default: all); groups: a regular expression whose first group, in a
    file's name, names the photograph that it was cut from, so that its pieces stay in one split. They may also be a
    part of the name: "folder:PATH?side=64&labelled=500".
    """
    _validate.number("seed", seed, -(2**63), 2**63 - 1, whole=True)
    name = settings.dataset(name, side)
    for option, value in {"labelled": labelled, "groups": groups}.items():
        name = name if value is None else settings.with_option(name, option, value)
    check_name(name)
    make = _own_images if name.startswith("folder:") else DATASETS[name]
    return make(name, settings.data_folder() if root is None else Path(root), seed)


def check_name(name: str) -> None:
    """Raise ValueError, with the known names, for a dataset that load cannot find by name."""
    if name.startswith("folder:"):
        _options(name)
    elif name not in DATASETS:
        known = ", ".join([*DATASETS, "folder:PATH"])
        raise ValueError(f"unknown dataset {name!r}: must be one of {known} (set DISTILL_DATASET to choose)")


# Glyphs


def _glyphs(name: str, root: Path, seed: int, sample: Callable = glyphs.sample, sizes: dict = _SIZES) -> ImageData:
    parts: dict = {}
    for start, (part, size) in enumerate(sizes.items()):
        # The indices of two splits are a million apart, so no image can be in both.
        factors = sample(torch.arange(size) + start * 1_000_000, seed)
        labels = torch.full((size,), UNLABELLED) if part == "transfer" else factors["label"]
        images, masks = _render_cached(factors)
        parts[part] = ImageSet(images, labels, masks, factors)
    return ImageData(name, **parts, classes=glyphs.CLASSES, augmentation=augment.GLYPHS, seed=seed)


def _pairs(name: str, root: Path, seed: int) -> ImageData:
    drawn = _glyphs(name, root, seed, pairs.sample, _BIASED_SIZES)
    sets = {part: getattr(drawn, part) for part in _SIZES}
    sets = {part: replace(images, masks=pairs.named(images.masks)) for part, images in sets.items()}
    return replace(drawn, **sets, classes=pairs.CLASSES)


def _render_cached(factors: dict) -> tuple[Tensor, dict]:
    """glyphs.render through the store, because drawing thousands of images takes seconds. Images are stored as bytes,
    the three masks of an image as three bits of one byte."""
    key = {name: hashlib.sha256(values.numpy()).hexdigest() for name, values in factors.items()}
    parts = ("object", "distractor", "cue")

    def make(partial):
        images, masks = glyphs.render(factors)
        planes = sum(masks[part].to(torch.uint8) << bit for bit, part in enumerate(parts))
        return {"images": (images * 255).round().to(torch.uint8), "masks": planes}, {}

    stored, _ = _store.load_or_make("images", key, make, prefix="glyphs")
    masks = {part: (stored["masks"] >> bit & 1).bool() for bit, part in enumerate(parts)}
    return stored["images"].float() / 255, masks


# Real images


def _digits(name: str, root: Path, seed: int) -> ImageData:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16
    return _split(name, images, torch.from_numpy(labels).long(), tuple("0123456789"), seed, augment.NONE)


def _torchvision(kind: str, augmentation: augment.Augmentation, *, sha256: dict[str, str] | None = None,
                 verified_by: str = "", every_label: bool = False) -> Callable:
    """The loader of a dataset of torchvision; kind is its class. sha256: the checksum of each file, by its path in
    the folder of datasets; if there are none, verified_by says what else verifies the files. Raises ValueError
    without either, so that no dataset is used unverified."""
    if not sha256 and not verified_by:
        raise ValueError(f"{kind} must have checksums: give the sha256 of each file, or what they are verified_by")

    def make(name: str, root: Path, seed: int) -> ImageData:
        for path in (root / kind / "processed").glob("*.pt"):  # torchvision would read them instead
            raise DataError(f"{path} is not one of the published files: delete it and run again")
        for relative, expected in (sha256 or {}).items():
            path = root / relative
            if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() != expected:
                raise DataError(f"{path} is damaged (its checksum differs): delete it and run again")
        images, labels, classes = _download(kind, root, train=True)
        test = ImageSet(*_download(kind, root, train=False)[:2])
        return _split(name, images, labels, classes, seed, augmentation, every_label=every_label, test=test)

    return make


def _download(kind: str, root: Path, train: bool) -> tuple[Tensor, Tensor, tuple]:
    """Images, labels and class names of a split; only missing files are downloaded."""
    import torchvision

    try:
        dataset = getattr(torchvision.datasets, kind)(root, train=train, download=True)
    except Exception as error:
        raise DataError(f"the files of {kind} are not under {root} and could not be downloaded "
                        f"({' '.join(str(error).split())}). Run again with a network, or copy torchvision's folder "
                        "from another machine, or set DISTILL_DATA to the folder that contains it") from error
    pixels = torch.as_tensor(np.asarray(dataset.data))
    images = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return images.float() / 255, torch.as_tensor(dataset.targets).long(), tuple(dataset.classes)


def _options(name: str) -> tuple[str, int, int | None, str | None]:
    """The path, side, labelled and groups of a name like folder:PATH?side=64."""
    path, *parts = re.split(r"[?&](side|labelled|groups)=", settings.dataset(name).removeprefix("folder:"))
    given: dict = dict(zip(parts[::2], parts[1::2], strict=True))
    for option, least in {"side": 8, "labelled": 1}.items():
        if option in given:
            given[option] = int(given[option]) if given[option].isdecimal() else given[option]
            _validate.number(option, given[option], least, whole=True)
    try:
        has_group = re.compile(given.get("groups", "()")).groups > 0
    except re.error:
        has_group = False
    if not has_group:
        raise ValueError(f"groups must be a regular expression with a group, got {given['groups']!r}")
    return path, given["side"], given.get("labelled"), given.get("groups")


def _own_images(name: str, root: Path, seed: int) -> ImageData:
    """A folder of photographs, see _folder."""
    path, side, labelled, pattern = _options(name)
    try:
        folder = settings.absolute(path)
        exists = folder.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # "~nobody", a name that is too long
        raise DataError(f"invalid path in {f'folder:{path}'!r} ({error}); use folder:PATH") from error
    if not exists:
        raise DataError(f"{folder} is not a directory: use folder:PATH with one subfolder of images per class (a "
                        f"relative path starts at {settings.ROOT})")
    try:
        found = _folder.scan(folder)
        hashes, before = _folder.content_hashes(found.files, folder)
        images = _folder.open_photographs(found.files, hashes, side, before)
    except PermissionError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}): change its permissions") from error
    labels, groups = torch.tensor(found.labels), torch.from_numpy(_folder.groups(found.files, hashes, pattern))
    given = {part: torch.tensor([p == part for p in found.parts]).nonzero()[:, 0] for part in ("", *_SIZES)}
    notes = _leaks(given, groups) + _contradictions(found, hashes)
    splits = _own_splits(given, labels, groups, seed, labelled)
    for label, name_of_class in enumerate(found.classes):
        for part in ("train", "validation", "test"):
            if not (labels[splits[part]] == label).any():
                count = int((labels == label).sum())
                raise DataError(f"class {name_of_class!r} has too few images ({count}) to be in training, validation "
                                "and test: add images, or remove its folder")
    counts = {part: len(rows) for part, rows in splits.items()}
    if found.skipped:
        listed = ", ".join(f"{count} {ending}" for ending, count in found.skipped.most_common())
        notes.append(f"{found.skipped.total()} files are not read: {listed}")
    about = (f"{name}: {counts['train']:,} labelled, {counts['transfer']:,} unlabelled, {counts['validation']:,} "
             f"validation and {counts['test']:,} test images of {len(found.classes)} classes, {side}×{side} pixels, "
             f"{'grey' if images.shape[1] == 1 else 'colour'}")
    if notes and multiprocessing.parent_process() is None:  # once, and not in every worker
        warnings.warn(f"{folder}: {'; '.join(notes)}", stacklevel=4)
    labels[splits["transfer"]] = UNLABELLED
    sets = {part: ImageSet(images.subset(rows), labels[rows]) for part, rows in splits.items()}
    files = {part: [found.files[row] for row in rows] for part, rows in splits.items()}
    return ImageData(name, **sets, classes=found.classes, augmentation=augment.PHOTOS, seed=seed,
                     about="; ".join([about, *notes]), files=files)


def _cifar10_folder(name: str, root: Path, seed: int) -> ImageData:
    """A part of CIFAR-10 as anybody keeps photographs: train/CLASS/*.png and test/CLASS/*.png in CIFAR10_folder."""
    folder = root / "CIFAR10_folder"
    if not folder.is_dir():
        raise DataError(f"{folder} is not a directory: put photographs of CIFAR-10 there, as train/CLASS/*.png and "
                        "test/CLASS/*.png, or set DISTILL_DATA to the folder that contains it")
    made = _own_images(f"folder:{folder}?side=32&labelled={_SIZES['train']}", root, seed)
    return replace(made, name=name, about=made.about.replace(made.name, name))


def _leaks(given: dict[str, Tensor], groups: Tensor) -> list[str]:
    """Keep a photograph that is in several given parts in the last of train, validation and test alone, and out of
    the transfer set; say so."""
    notes, taken = [], torch.empty(0, dtype=torch.long)
    for part in ("test", "validation", "train", "", "transfer"):
        leaks = torch.isin(groups[given[part]], taken)
        if leaks.any():
            where = "unlabelled" if part == "transfer" else part
            notes.append(f"{int(leaks.sum())} images in {where}/ are left out, since another split has them too")
        given[part] = given[part][~leaks]
        taken = torch.cat([taken, groups[given[part]]])
    return notes


def _contradictions(found: _folder.Found, hashes: list[str]) -> list[str]:
    """What to say about pictures that are in the folders of two classes."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(digest, i), i) for i, digest in enumerate(hashes) if found.labels[i] >= 0]
    files = [f"{found.files[a]} and {found.files[b].parent.name}/{found.files[b].name}"
             for a, b in pairs if found.labels[a] != found.labels[b]]
    more = f" and {len(files) - 1} more" * (len(files) > 1)
    return [f"the same picture has two labels: {files[0]}{more}"] if files else []


def _own_splits(given: dict[str, Tensor], labels: Tensor, groups: Tensor, seed: int,
                labelled: int | None) -> dict[str, Tensor]:
    """The positions of each split: those of the folder where it has them, the others drawn."""

    def draw(rows: Tensor, count: int, seed: int, stream: str) -> tuple[Tensor, Tensor]:
        """`count` positions or a few more, with at least one of each class and with whole groups; and the rest."""
        if not len(rows):
            return rows, rows
        _, unit = torch.unique(groups[rows], return_inverse=True)
        first = torch.full((int(unit.max()) + 1,), len(rows)).scatter_reduce(0, unit, torch.arange(len(rows)), "amin")
        rank = _stratified_order(labels[rows][first], seed, stream).argsort()[unit]
        order = rank.argsort(stable=True)
        chosen = torch.arange(len(rows)) < count
        for label in labels[rows].unique():
            of_class = labels[rows][order] == label
            chosen[of_class.nonzero()[0]] = True
        chosen = torch.isin(unit[order], unit[order][chosen])
        return rows[order[chosen]], rows[order[~chosen]]

    train, validation, test, transfer = (given[part] for part in ("train", "validation", "test", "transfer"))
    if not len(train):
        test, train = draw(given[""], len(given[""]) // 5, 0, "test split")  # the same for every seed
    if not len(validation):
        validation, train = draw(train, min(_SIZES["validation"], len(train) // 4), seed, "splits")
    if labelled is not None:
        train, rest = draw(train, labelled, seed, "labelled")
        transfer = torch.cat([rest, transfer])
    return {"train": train, "transfer": transfer, "validation": validation, "test": test}


def _split(name, images, labels, classes, seed, augmentation, *, every_label=False, test=None) -> ImageData:
    """Stratified splits drawn by seed: 2,000 validation and 3,000 labelled images, or fewer in a small dataset.

    every_label: all other images are labelled, none is left for transfer; test: the dataset's own test split.
    """
    rest = torch.arange(len(labels))
    if test is None:  # a fifth, the same for every seed
        order = _stratified_order(labels, 0, "test split")
        taken, rest = order[: len(order) // 5], order[len(order) // 5 :]
        test = ImageSet(images[taken], labels[taken])
    rest = rest[_stratified_order(labels[rest], seed, "splits")]
    validation = min(_SIZES["validation"], len(rest) // 4)
    train = len(rest) - validation if every_label else min(_SIZES["train"], len(rest) // 2)
    first, second, third = rest.split([train, validation, len(rest) - train - validation])
    return ImageData(
        name, ImageSet(images[first], labels[first]),
        ImageSet(images[third], torch.full_like(third, UNLABELLED)),
        ImageSet(images[second], labels[second]), test, classes, augmentation, seed,
    )


def _stratified_order(labels: Tensor, seed: int, stream: str) -> Tensor:
    """A random order in which the first n images, for any n, contain the classes in their proportions."""
    order = stateless_random.permutation(seed, stream, len(labels))
    rank = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = order[labels[order] == label]
        rank[members] = (torch.arange(len(members)) + 0.5).double() / len(members)
    return order[rank[order].argsort(stable=True)]


_MNIST_SHA256 = {
    "MNIST/raw/train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "MNIST/raw/train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "MNIST/raw/t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "MNIST/raw/t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_FASHION_SHA256 = {
    "FashionMNIST/raw/train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "FashionMNIST/raw/train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "FashionMNIST/raw/t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_CIFAR = "torchvision, which compares the md5 of each file before it opens one"

# Glyphs with a corner patch that shows the class, with some probability (lesson 08).
BIASED_LOOK = glyphs.Look(cue=0.95, cue_size=6)
_BIASED_SIZES = _SIZES | {"validation": 1000, "test": 2000}
_CUES = {"glyphs_clean": 1 / 36, "glyphs_biased": 0.95}

# name → load(name, root, seed); _all: every label, no transfer images.
DATASETS: dict[str, Callable] = {
    "glyphs": _glyphs,
    "glyphs_matched": functools.partial(_glyphs, sample=functools.partial(glyphs.sample, look=glyphs.MATCHED)),
    **{name: functools.partial(_glyphs, sizes=_BIASED_SIZES,
                               sample=functools.partial(glyphs.sample, look=replace(BIASED_LOOK, cue=cue)))
       for name, cue in _CUES.items()},
    "pairs": _pairs,
    "digits": _digits,
    "fashion_mnist": _torchvision("FashionMNIST", augment.CLOTHES, sha256=_FASHION_SHA256),
    "fashion_mnist_all": _torchvision("FashionMNIST", augment.CLOTHES, sha256=_FASHION_SHA256, every_label=True),
    "mnist": _torchvision("MNIST", augment.DIGITS, sha256=_MNIST_SHA256),
    "mnist_all": _torchvision("MNIST", augment.DIGITS, sha256=_MNIST_SHA256, every_label=True),
    "cifar10_folder": _cifar10_folder,
    "cifar10": _torchvision("CIFAR10", augment.PHOTOS, verified_by=_CIFAR),
    "cifar100": _torchvision("CIFAR100", augment.PHOTOS, verified_by=_CIFAR),
}
