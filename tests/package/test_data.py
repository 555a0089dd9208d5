"""Image sets: disjoint stratified splits, verified files, errors that name the file, and the fingerprint."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from distill_utils import augment, data, glyphs, settings
from distill_utils.data import ImageSet

SPLITS = ("train", "transfer", "validation", "test")
REAL = ("digits", "mnist", "fashion_mnist")
KIND = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


def files_of(name):
    """The folder of torchvision's files, or a skip where they are not."""
    folder = settings.data_folder() / KIND[name]
    if not any(folder.rglob("*ubyte")):  # a download that failed leaves empty folders
        pytest.skip(f"no {KIND[name]} under {settings.data_folder()}: set DISTILL_DATA to the folder that holds it")
    return folder


def load(name, seed=0):
    if name in KIND:
        files_of(name)
    return data.load(name, seed=seed)


def source(name):
    """All images of a dataset and their labels as its makers order them, uint8 or 16ths, before any split."""
    if name == "digits":
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        return np.round(pixels / 16 * 255).astype(np.uint8), labels
    import torchvision

    parts = [getattr(torchvision.datasets, KIND[name])(settings.data_folder(), train=part) for part in (True, False)]
    return np.concatenate([part.data for part in parts]), np.concatenate([part.targets for part in parts])


def pixel_rows(images):
    """The images as bytes, one object each."""
    return [row.tobytes() for row in (images * 255).round().to(torch.uint8).flatten(1).numpy()]


# Splits


@pytest.mark.parametrize("name", REAL)
def test_every_image_of_a_real_set_is_in_one_split_with_its_own_label(name):
    loaded = load(name)
    pixels, labels = source(name)
    sets = [getattr(loaded, part) for part in SPLITS]
    found = Counter(row for part in sets for row in pixel_rows(part.images))
    assert found == Counter(row.tobytes() for row in pixels)
    known = {(row.tobytes(), int(label)) for row, label in zip(pixels, labels, strict=True)}
    for part in (loaded.train, loaded.validation, loaded.test):
        assert known.issuperset(zip(pixel_rows(part.images), part.labels.tolist(), strict=True))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("digits", [719, 360, 359, 359]),
        ("mnist", [3000, 55_000, 2000, 10_000]),
        ("mnist_all", [58_000, 0, 2000, 10_000]),
    ],
)
def test_splits_have_their_sizes_and_hold_the_classes_in_proportion(name, sizes):
    if name != "digits":
        files_of("mnist")
    loaded = data.load(name)
    assert [len(getattr(loaded, part)) for part in SPLITS] == sizes
    assert (loaded.transfer.labels == -1).all()
    drawn = loaded.train + loaded.validation + (loaded.test if name == "digits" else loaded.validation)
    shares = drawn.labels.bincount().double() / len(drawn)
    for part in (loaded.train, loaded.validation):
        counts = part.labels.bincount(minlength=len(loaded.classes))
        assert (counts - shares * len(part)).abs().max() < 4


@pytest.mark.parametrize("name", ["digits", "fashion_mnist"])
def test_the_seed_moves_the_labelled_images_and_never_the_test_split(name):
    first, second, again = (load(name, seed) for seed in (0, 1, 0))
    assert torch.equal(first.test.images, second.test.images)
    assert torch.equal(first.train.images, again.train.images)
    shared = set(pixel_rows(first.train.images)) & set(pixel_rows(second.train.images))
    assert len(shared) < 0.7 * len(first.train)


def test_glyph_splits_share_no_image_and_have_their_sizes(monkeypatch):
    monkeypatch.setattr(data, "_render_cached", lambda factors: (torch.zeros(len(factors["index"]), 1, 2, 3), None))
    loaded = data.load("glyphs", seed=4)
    sets = [getattr(loaded, part) for part in SPLITS]
    assert [len(part) for part in sets] == [3000, 9000, 2000, 10_000]
    indices = torch.cat([part.factors["index"] for part in sets])
    assert len(indices.unique()) == 24_000
    assert all((part.factors["seed"] == 4).all() for part in sets)
    assert (loaded.transfer.labels == -1).all()
    for part in (loaded.train, loaded.validation, loaded.test):
        counts = part.labels.bincount(minlength=36)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("name", ["glyphs", "glyphs_matched"])
def test_glyphs_come_with_their_factors_and_masks_also_from_the_store(name, monkeypatch):
    for part, size in {"train": 5, "transfer": 4, "validation": 3, "test": 2}.items():
        monkeypatch.setitem(data._SIZES, part, size)
    fresh, kept = data.load(name, seed=1), data.load(name, seed=1)
    for part in SPLITS:
        drawn, masks = glyphs.render(getattr(fresh, part).factors)
        for loaded in (getattr(fresh, part), getattr(kept, part)):
            assert torch.equal(loaded.images, drawn)
            assert all(torch.equal(loaded.masks[mask], masks[mask]) for mask in masks)
    other = data.load(name, seed=2)
    assert not torch.equal(other.train.images, fresh.train.images)
    assert fresh.fingerprint != other.fingerprint


# Sets


def test_subsets_and_sums_keep_images_labels_masks_and_factors_together():
    def numbered(start, count):
        where = torch.arange(start, start + count)
        return ImageSet(
            where.float().view(-1, 1, 1, 1).expand(-1, 2, 4, 3), where,
            {"object": (where[:, None, None] % 2 == 0).expand(-1, 4, 3)}, {"index": where},
        )  # fmt: skip

    both = numbered(0, 5) + numbered(5, 3)
    rows = both.subset(torch.tensor([6, 1, 3]))
    assert len(both) == 8
    assert rows.labels.tolist() == rows.factors["index"].tolist() == rows.images[:, 1, 3, 2].tolist() == [6, 1, 3]
    assert rows.masks["object"][:, 3, 2].tolist() == [True, False, False]
    bare = both + replace(numbered(8, 1), masks=None, factors=None)
    assert bare.masks is None
    assert bare.factors is None
    assert bare.subset(torch.tensor([8])).labels.tolist() == [8]


def test_an_image_set_with_one_label_too_few_is_refused_and_so_is_an_index_out_of_range():
    images = torch.zeros(5, 1, 2, 2)
    with pytest.raises(ValueError, match="must be an int64 tensor N with N = 5"):
        ImageSet(images, torch.arange(4))
    with pytest.raises(ValueError, match=r"must have the same length, got \[5, 5, 4\]"):
        ImageSet(images, torch.arange(5), factors={"index": torch.arange(4)})
    with pytest.raises(ValueError, match="index out of range for 5 images"):
        ImageSet(images, torch.arange(5)).subset(torch.tensor([5]))


@pytest.mark.parametrize("part", ["train", "transfer", "validation"])
def test_the_fingerprint_changes_with_any_pixel_or_label_that_training_sees(part):
    loaded = data.load("digits")
    image_set = getattr(loaded, part)
    pixels, labels = image_set.images.clone(), image_set.labels.clone()
    pixels[7, 0, 3, 2] += 1 / 16
    labels[7] += 1
    changed = [replace(image_set, images=pixels), replace(image_set, labels=labels)]
    prints = [replace(loaded, **{part: image_set}).fingerprint for image_set in (image_set, *changed)]
    assert prints[0] == loaded.fingerprint
    assert len(set(prints)) == 3


# Errors


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown dataset 'glyph': must be one of ") as caught:
        data.load("glyph")
    assert all(name in str(caught.value) for name in [*data.DATASETS, "folder:PATH", "DISTILL_DATASET"])
    with pytest.raises(ValueError, match="unknown dataset ''"):
        data.load("")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_missing_files_that_cannot_be_fetched_say_where_to_put_them(name, tmp_path):
    (tmp_path / "file").touch()  # nothing can be made below a file, so no download is tried
    with pytest.raises(data.DataError, match=rf"{tmp_path}/file/data and could not be downloaded .*DISTILL_DATA"):
        data.load(name, root=tmp_path / "file" / "data")


@pytest.mark.parametrize("declared", [{}, {"sha256": {}}, {"verified_by": ""}])
def test_a_dataset_without_checksums_cannot_be_declared(declared):
    with pytest.raises(ValueError, match="^KMNIST must have checksums: give the sha256 of each file"):
        data._torchvision("KMNIST", augment.DIGITS, **declared)


def test_photographs_of_cifar10_in_a_folder_keep_their_test_split_and_their_name(tmp_path, monkeypatch):
    with pytest.raises(data.DataError, match=f"{tmp_path}/CIFAR10_folder is not a directory: put photographs"):
        data.load("cifar10_folder", root=tmp_path)
    monkeypatch.setitem(data._SIZES, "train", 8)
    for part, count in {"train": 10, "test": 3}.items():
        for name in ("cat", "dog"):
            (folder := tmp_path / "CIFAR10_folder" / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (len(part), ord(name[0]), 5 * i)).save(folder / f"{i}.png")
    photographs = data.load("cifar10_folder", root=tmp_path)
    sizes = [len(getattr(photographs, part)) for part in SPLITS]
    assert photographs.name == "cifar10_folder"
    assert photographs.about.startswith("cifar10_folder: 8 labelled, 7 unlabelled")
    assert sizes == [8, 7, 5, 6]


def test_the_error_of_a_download_becomes_one_line(monkeypatch, tmp_path):
    import torchvision

    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["file:///nowhere/", "file:///no/other/"])
    with pytest.raises(data.DataError, match=r"MNIST .* could not be downloaded \(.*\)\. Run again") as caught:
        data.load("mnist", root=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_named(tmp_path):
    raw = files_of("fashion_mnist") / "raw"
    copy = tmp_path / "FashionMNIST" / "raw"
    copy.mkdir(parents=True)
    for file in raw.iterdir():
        (copy / file.name).symlink_to(file)
    damaged = copy / "t10k-images-idx3-ubyte"
    damaged.unlink()
    damaged.write_bytes((raw / damaged.name).read_bytes()[:-7])
    with pytest.raises(data.DataError, match=f"{damaged} is damaged .*delete it"):
        data.load("fashion_mnist", root=tmp_path)
