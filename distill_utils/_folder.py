"""A folder of photographs: which files are in it, and their pixels, decoded once into a memory-mapped file of bytes.

The file of pixels is in the folder of runs. Its name is a hash of the contents of the photographs, so a photograph
that is renamed, moved to another class or copied is not decoded again. Notebooks and workers map the same file.
"""

import contextlib
import hashlib
import mmap
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils._pytree import tree_map_only

from distill_utils import _store, settings
from distill_utils._progress import progress_bar

BACKGROUND = 128  # under transparent pixels: mid-grey, on which a black shape and a white one can both be seen
_READABLE = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".tga", ".avif", ".jp2",
}
_LEFTOVERS = {
    "__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__",
    "thumbs.db", "desktop.ini",
}
_PARTS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test", "unlabelled": "transfer", "unlabeled": "transfer",
}
_CHUNK = 256  # images


class DataError(RuntimeError):
    """A dataset is missing, damaged or unusable. The message says which file and what to do."""


# Pixels


class Source(NamedTuple):
    """A file of pixels. pixels: uint8 M×channels×H×W; digests: uint8 M×32, which identify them."""

    mapped: mmap.mmap
    pixels: np.ndarray
    digests: np.ndarray


class Photographs(Tensor):
    """Images N×channels×H×W whose pixels stay in a memory-mapped file of bytes until they are needed.

    To every function it is a float32 tensor with values in [0, 1]. Indexing, iteration and split read only the
    images asked for, each time from the file, and return plain tensors; so does any other operation, with all of the
    images. A tensor of its own kind, because each function that takes images would otherwise need a second case.
    It cannot be written to.
    """

    source: Source
    rows: Tensor  # LongTensor N, the positions of these images in the source

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, source: Source, rows: Tensor, device: torch.device | str = "cpu"):
        shape = (len(rows), *source.pixels.shape[1:])
        images = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32, device=torch.device(device))
        images.source, images.rows = source, rows
        return images

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.cat.default and len(args) == 1:
            first, parts = args[0][0], args[0]
            if all(isinstance(part, cls) and part.source is first.source for part in parts):
                return cls(first.source, torch.cat([part.rows for part in parts]), first.device)
        if function._schema.is_mutable and isinstance(args[0], cls):
            raise TypeError("photographs cannot be changed in place: change a copy, images[:], instead")
        args, kwargs = tree_map_only(cls, lambda images: images[:], (args, kwargs or {}))
        return function(*args, **kwargs)

    def __getitem__(self, index) -> Tensor:
        if isinstance(index, tuple):
            first, *others = index or (slice(None),)
            if isinstance(first, slice):
                return self[first][(slice(None), *others)]
            return self[first][tuple(others)] if isinstance(first, int) else self[:][index]
        rows = self.rows[index.cpu() if isinstance(index, Tensor) else index]
        images = torch.from_numpy(self.source.pixels[rows.flatten().numpy()]).to(self.device)
        if hasattr(mmap, "MADV_DONTNEED"):  # or the pages that were read would count as this process's memory
            self.source.mapped.madvise(mmap.MADV_DONTNEED)
        return images.float().div_(255).view(*rows.shape, *self.shape[1:])

    def __setitem__(self, index, value):
        raise TypeError("photographs cannot be changed in place: change a copy, images[:], instead")

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __deepcopy__(self, memo):
        return self

    def __repr__(self, **_) -> str:
        return f"Photographs({'×'.join(map(str, self.shape))}, {self.device})"

    def split(self, size: int, dim: int = 0) -> Iterator[Tensor]:
        """Plain tensors of `size` images, one at a time."""
        return (self[positions] for positions in torch.arange(len(self)).split(size))

    def subset(self, index) -> "Photographs":
        """The images at these positions, still in the file."""
        return Photographs(self.source, self.rows[index], self.device)

    def numpy(self, **_) -> np.ndarray:
        return self[:].cpu().numpy()

    def to(self, *args, **kwargs) -> Tensor:
        """On another device, to which only the images that are asked for are moved."""
        if len(args) == 1 and not kwargs and isinstance(args[0], torch.device | str):
            return Photographs(self.source, self.rows, args[0])
        return super().to(*args, **kwargs)

    @property
    def contents(self) -> bytes:
        """What identifies the images and their order, without reading a pixel."""
        return self.source.digests[self.rows.numpy()].tobytes()


def open_photographs(files: list[Path], hashes: list[str], side: int, before: list[str]) -> Photographs:
    """The photographs of these files, in their order, each scaled and cropped to side × side pixels.

    hashes, before: of content_hashes. One channel where all photographs are grey, else three. Raises DataError, which
    names them, for files that cannot be read.
    """
    unique = dict(sorted(dict(zip(hashes[::-1], files[::-1], strict=True)).items()))  # of copies, the first
    names, path = list(unique), _path(unique, side)
    if not path.exists():
        with _store.locked(path.with_name(f".{path.stem}.lock")):
            if not path.exists():
                _decode(unique, path, side, before)
    channels, left = divmod(path.stat().st_size, len(names) * side**2)
    if left or channels not in (1, 3):
        raise _store.DamagedFile(f"{path} is damaged (it has another size): delete it and run again")
    mapped, pixels = map_pixels(path, (len(names), channels, side, side))
    shape = (_store.VERSIONS["photographs"], *pixels.shape[1:])
    digests = [hashlib.sha256(f"{name} {shape}".encode()).digest() for name in names]
    source = Source(mapped, pixels, np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32))
    place = {name: i for i, name in enumerate(names)}
    return Photographs(source, torch.tensor([place[name] for name in hashes]))


def map_pixels(path: Path, shape: tuple[int, int, int, int]) -> tuple[mmap.mmap, np.ndarray]:
    """A file of pixels, mapped into memory, and the same as uint8 N×channels×H×W."""
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return mapped, np.frombuffer(mapped, np.uint8).reshape(shape)


def _path(names: Iterable[str], side: int) -> Path:
    """Where the pixels of photographs with these hashes, in sorted order, are stored."""
    key = {"contents": _store.digest([*names]), "side": side, "version": _store.VERSIONS["photographs"]}
    return settings.runs_folder() / f"photographs-{_store.digest(key)}.uint8"


def content_hashes(files: list[Path], root: Path) -> tuple[list[str], list[str]]:
    """The SHA-256 of each file, and the sorted ones of what was in the folder before. They are remembered with the
    files' sizes and times of change, so that only what is new or changed is read."""
    index = settings.runs_folder() / f"photographs-{_store.digest([str(root)])}.json"
    known = _store.read_json(index) if index.exists() else {}
    stamps = {str(file): [(status := file.stat()).st_size, status.st_mtime_ns] for file in files}
    new = [name for name, stamp in stamps.items() if known.get(name, [])[:2] != stamp]
    hashes = dict(zip(new, _parallel(_hash, new, "reading the photographs"), strict=True))
    now = {name: [*stamp, hashes[name]] if name in hashes else known[name] for name, stamp in stamps.items()}
    if now != known:
        _store.write_json(index, now)
    return [digest for *_, digest in now.values()], sorted({digest for *_, digest in known.values()})


def _hash(name: str) -> str:
    with open(name, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parallel(function: Callable, values: list, what: str, done: int = 0) -> Iterator:
    """function(value) of each value, in order, in threads: reading, decoding and scaling all leave Python's lock."""
    total, quiet = done + len(values), not values
    with (
        ThreadPoolExecutor(settings.cores()) as pool,
        progress_bar(total, what, unit="image", initial=done, quiet=quiet) as bar,
    ):
        for start in range(0, len(values), _CHUNK):  # so that no more results than these wait in memory
            for result in pool.map(function, values[start : start + _CHUNK]):
                yield result
                bar.update()


def _decode(files: dict[str, Path], path: Path, side: int, before: list[str]) -> None:
    """Write the pixels of these files, by hash. What a killed process has written is continued; photographs that
    were decoded before others were added or removed are copied from their file, which is then deleted."""
    partial, size, earlier, kept = path.with_suffix(".partial"), 3 * side**2, _path(before, side), {}
    if earlier.exists():
        pixels = np.memmap(earlier, np.uint8, "r").reshape(len(before), -1, side, side)
        kept = {name: i for i, name in enumerate(before)}

    def read(name):
        try:
            row = kept.get(name)
            return decode(files[name], side) if row is None else np.broadcast_to(pixels[row], (3, side, side)).copy()
        except Exception as error:  # whatever the decoder raises
            return DataError(f"{files[name]} cannot be read as an image ({error})")

    with _store.friendly_os_errors(path):
        with open(partial, "ab") as out:
            done = out.tell() // size
            out.truncate(done * size)
            errors: list[str] = []
            for image in _parallel(read, [*files][done:], "decoding the photographs", done):
                if isinstance(image, DataError):
                    errors.append(str(image))
                elif not errors:
                    out.write(image)
            os.fsync(out.fileno())
        if errors:
            more = f" and {len(errors) - 10} more" * (len(errors) > 10)
            raise DataError(f"{'; '.join(sorted(errors)[:10])}{more}: fix or remove it")
        if all((chunk == chunk[:, :1]).all() for chunk in _chunks(partial, side)):
            with _store.atomic(path) as temporary, open(temporary, "wb") as out:
                for chunk in _chunks(partial, side):
                    out.write(chunk[:, 0].tobytes())
            partial.unlink()
        else:
            os.replace(partial, path)
    if earlier != path:
        with contextlib.suppress(OSError):  # on Windows, where a process still reads it
            earlier.unlink()


def _chunks(path: Path, side: int) -> Iterator[np.ndarray]:
    with open(path, "rb") as file:
        while pixels := file.read(_CHUNK * 3 * side**2):
            yield np.frombuffer(pixels, np.uint8).reshape(-1, 3, side, side)


def decode(file: Path, side: int) -> np.ndarray:
    """An image file as uint8 3×side×side, as a viewer shows it: upright by its EXIF tag, 16 bits scaled to 8,
    transparency over BACKGROUND, scaled by its shorter side and cropped around the centre."""
    with Image.open(file) as image:
        image.draft(None, (2 * side, 2 * side))  # a large JPEG is decoded at a half, a quarter or an eighth
        image = ImageOps.exif_transpose(image)
        if image.mode[0] in "IF":
            image = _eight_bits(image)
        if image.mode[-1] in "Aa" or "transparency" in image.info:
            image = image.convert("RGBA")
            background = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
            image = Image.alpha_composite(background, image)
        image = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1).copy()


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits, or of floats in [0, 1], in 8 bits. Pillow's own conversion makes it white."""
    pixels = np.asarray(image).astype(np.float64)
    white = 1 if image.mode == "F" else 65535
    if pixels.min() < 0 or pixels.max() > white:
        raise ValueError(f"pixels from {pixels.min():g} to {pixels.max():g}: save it with 8 or 16 bits per channel")
    return Image.fromarray(np.round(pixels * (255 / white)).astype(np.uint8))


# Files


class Found(NamedTuple):
    """What is in a folder. parts: "train", "validation", "test", "transfer", or "" where the folder has no splits of
    its own; labels: -1 in "transfer"; skipped: how many files of each ending were left out."""

    files: list[Path]
    parts: list[str]
    labels: list[int]
    classes: tuple[str, ...]
    skipped: Counter


def scan(root: Path) -> Found:
    """Find the photographs of a folder of classes, or of train/ and test/ with the classes inside. Raises DataError
    for a layout that could be understood in two ways, and for a class without photographs."""
    found = Found([], [], [], _classes(layout := _layout(root)), Counter())
    found.skipped.update(["outside of the folders" for file in _visible(root)[1] if _readable(file)])
    for part, folders in layout.items():
        given, known = {folder.name for folder in folders}, {*found.classes}
        if part != "transfer" and given != known:
            where, name = next(iter(folders)).parent, sorted(given ^ known)[0]
            raise DataError(f"{where} must have the folders of train/: {name!r} is in one of them alone")
        for folder in folders:
            files = _photographs(folder, {_identity(folder) for folder in [root, *folders]}, found.skipped)
            if not files and part != "transfer":
                raise DataError(f"{folder} has no image that can be read: add images, or remove the folder")
            found.files.extend(files)
            found.parts.extend([part] * len(files))
            found.labels.extend([-1 if part == "transfer" else found.classes.index(folder.name)] * len(files))
    return found


def _layout(root: Path) -> dict[str, list[Path]]:
    """The folders of each part; a part of "" has no splits of its own."""
    inside = {folder: _visible(folder) for folder in _visible(root)[0]}
    part = {folder: _PARTS.get(folder.name.lower()) for folder in inside}
    transfer = [folder for folder in inside if part[folder] == "transfer"]
    # A class may be called "train" (or "test"): then it has images, and no folders of them.
    splits = [folder for folder, (folders, files) in inside.items()
              if part[folder] and folder not in transfer and folders and not any(map(_readable, files))]
    others = [folder for folder in inside if folder not in splits and folder not in transfer]
    if not splits:
        return {"": others, "transfer": transfer}
    given = {str(part[folder]): inside[folder][0] for folder in splits}
    if others or "train" not in given or len(given) < len(splits):
        names = ", ".join(folder.name for folder in inside)
        raise DataError(f"{root} must have one folder per class, or train/ and test/ with these inside, got {names}: "
                        f"name the folder of classes, such as folder:{splits[0]}")
    if "test" not in given and "validation" in given:
        given["test"] = given.pop("validation")
    return {**(given if "test" in given else {"": given["train"]}), "transfer": transfer}


def _classes(layout: dict[str, list[Path]]) -> tuple[str, ...]:
    folders = layout.get("train", layout.get("", []))
    if len(folders) > 1:
        return tuple(folder.name for folder in folders)
    nested = len(folders) == 1 and len(_visible(folders[0])[0]) > 1
    advice = f": did you mean folder:{folders[0]}?" if nested else ""
    got = ", ".join(folder.name for folder in folders) or "none"
    raise DataError(f"a folder of photographs must have at least two folders of images, got {got}{advice}")


def _photographs(folder: Path, seen: set, skipped: Counter) -> list[Path]:
    """The images in a folder and in those below it, each once, whatever links there are."""
    folders, files = _visible(folder)
    found = []
    for file in files:
        if not _readable(file):
            skipped[file.suffix.lower() or "without an ending"] += 1
        elif not file.exists():
            skipped["broken links"] += 1
        elif _identity(file) not in seen:
            seen.add(_identity(file))
            found.append(file)
    for inner in folders:
        if _identity(inner) not in seen:
            seen.add(_identity(inner))
            found += _photographs(inner, seen, skipped)
    return found


def _visible(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, sorted by name, without those that are hidden or left over."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in sorted(entries, key=lambda entry: entry.name)
                 if not re.search(r"^\.|~$", entry.name) and entry.name.lower() not in _LEFTOVERS]
    folders: list[Path] = []
    files: list[Path] = []
    for entry in shown:
        is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
        (folders if is_folder else files).append(Path(entry.path))
    return folders, files


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _readable(file: Path) -> bool:
    return file.suffix.lower() in _READABLE


def groups(files: list[Path], hashes: list[str], pattern: str | None) -> np.ndarray:
    """A number for each photograph: files of equal contents have one, and so have those whose names agree in the
    first group of a regular expression. Raises DataError where no name fits the pattern."""
    same = np.unique(hashes, return_inverse=True)[1]
    if pattern is None:
        return same
    matches = [re.search(pattern, file.name) for file in files]
    if not any(matches):
        raise DataError(f"groups={pattern} fits no file name, such as {files[0].name}")
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    named = np.unique([f"name {match[1]}" if match else f"file {i}" for i, match in enumerate(matches)],
                      return_inverse=True)[1] + same.max() + 1
    size = named.max() + 1
    return connected_components(coo_array((np.ones(len(same)), (same, named)), shape=(size, size)))[1][same]
