"""A reader's own photographs: what a folder holds, which split an image is in, and how its pixels are read."""

import os
import shutil
import warnings

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from distill_utils import (
    _folder,
    _store,
    augment,
    data,
    evaluation,
    explain,
    models,
    plots,
    recipes,
    settings,
    training,
)

SPLITS = ("train", "transfer", "validation", "test")


def photograph(path, number=0, colour=(200, 60, 30)):
    """An image file, 40×30 pixels, with a row of black and white fields that differs for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (40, 30), colour)
    for bit in range(10):
        image.paste((255 * (number >> bit & 1),) * 3, (5 + 3 * bit, 10, 8 + 3 * bit, 20))
    image.save(path)


def fill(folder, classes, count=12, first=0):
    """Classes of `count` different photographs, each class of a colour of its own."""
    for k, name in enumerate(classes):
        colour = (250 if k % 3 == 0 else 9 * k, 250 if k % 3 == 1 else 0, 250 if k % 3 == 2 else 0)
        for i in range(count):
            photograph(folder / name / f"{first + i:03}.png", first + i + 100 * k, colour)
    return folder


@pytest.fixture
def own(tmp_path):
    return fill(tmp_path / "own", ("birds", "cats", "dogs"))


def load(folder, **options):
    """The dataset of a folder, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = data.load(f"folder:{folder}", **options)
    return loaded, " ".join(str(warning.message) for warning in caught)


def sizes(loaded):
    return [len(getattr(loaded, part)) for part in SPLITS]


def pixels(file, folder, *, side=8):
    """An image file as the package reads it, side×side×3 in [0, 255]; `folder` is empty and for this file."""
    folder.mkdir()
    shutil.move(file, folder / file.name)
    return _folder.decode(folder / file.name, side).transpose(1, 2, 0).astype(int)


# Which images, in which split


def test_all_labels_are_used_and_each_image_is_in_one_split(own):
    loaded, said = load(own)
    assert sizes(loaded) == [22, 0, 7, 7]
    assert (loaded.classes, loaded.in_channels, said) == (("birds", "cats", "dogs"), 3, "")
    assert "22 labelled, 0 unlabelled, 7 validation and 7 test images of 3 classes, 32×32 pixels" in loaded.about
    for part in (loaded.train, loaded.validation, loaded.test):
        assert part.images.shape[1:] == (3, 32, 32)
        assert torch.equal(part.images.mean((2, 3)).argmax(1), part.labels)
    for part in SPLITS:
        assert [found.parent.name for found in loaded.files[part]] == [
            loaded.classes[label] for label in getattr(loaded, part).labels
        ]
    read = torch.from_numpy(_folder.decode(loaded.files["test"][3], 32)) / 255
    assert torch.equal(read, loaded.test.images[3])
    seen = {image.numpy().tobytes() for part in SPLITS for image in getattr(loaded, part).images}
    assert len(seen) == 36


def test_labelled_and_unlabelled_make_the_transfer_set(own):
    fill(own, ["unlabelled"], 5, first=50)
    assert sizes(load(own)[0]) == [22, 5, 7, 7]
    loaded, _ = load(own, labelled=9)
    assert sizes(loaded) == [9, 18, 7, 7]
    assert (loaded.transfer.labels == -1).all()
    assert loaded.train.labels.bincount().tolist() == [3, 3, 3]
    assert len((loaded.train + loaded.transfer).subset(torch.arange(20)).images) == 20


def test_the_seed_moves_all_but_the_test_split(own):
    first, second = load(own)[0], load(own, seed=1)[0]
    assert torch.equal(first.test.images, second.test.images)
    assert not torch.equal(first.validation.images, second.validation.images)


@pytest.mark.parametrize("validation", ["val", "Validation", None])
def test_given_splits_are_used(tmp_path, validation):
    for k, part in enumerate(filter(None, ("train", "test", validation))):
        fill(tmp_path / part, ("a", "b"), 8, first=100 * k)
    loaded, _ = load(tmp_path)
    assert loaded.classes == ("a", "b")
    assert sizes(loaded) == ([16, 0, 16, 16] if validation else [12, 0, 4, 16])
    assert {row.numpy().tobytes() for row in loaded.test.images}.isdisjoint(
        row.numpy().tobytes() for row in loaded.train.images
    )  # fmt: skip


def test_with_train_and_val_alone_val_is_the_test_split(tmp_path):
    fill(tmp_path / "train", ("a", "b"), 8)
    fill(tmp_path / "val", ("a", "b"), 5, first=100)
    assert sizes(load(tmp_path)[0]) == [12, 0, 4, 10]


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, ("car", "train"))
    assert load(tmp_path)[0].classes == ("car", "train")


def _extra_folder(folder):
    fill(folder, ("more",))


def _no_train(folder):
    shutil.rmtree(folder / "train")


def _other_classes(folder):
    fill(folder / "test", ("c",))


def _one_missing(folder):
    shutil.rmtree(folder / "test" / "b")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_extra_folder, r"got more, test, train: name the folder of classes, such as folder:.*/test$"),
        (_no_train, r"got test: name the folder of classes"),
        (_other_classes, r"test must have the folders of train/: 'c' is in one of them alone"),
        (_one_missing, r"test must have the folders of train/: 'b' is in one of them alone"),
    ],
)
def test_splits_that_do_not_fit_each_other_are_refused(tmp_path, harm, message):
    fill(tmp_path / "train", ("a", "b"), 8)
    fill(tmp_path / "test", ("a", "b"), 8, first=100)
    harm(tmp_path)
    with pytest.raises(data.DataError, match=message):
        load(tmp_path)


def test_a_folder_around_the_classes_is_named(own):
    with pytest.raises(data.DataError, match=f"got own: did you mean folder:{own}"):
        load(own.parent)


def _one_class(folder):
    shutil.rmtree(folder / "cats")
    shutil.rmtree(folder / "dogs")
    return folder


def _empty_class(folder):
    (folder / "eels").mkdir()
    return folder


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_one_class, "must have at least two folders of images, got birds"),
        (_empty_class, "eels has no image that can be read: add images, or remove the folder"),
        (lambda folder: folder / "nowhere", "nowhere is not a directory: use folder:PATH .* relative path starts at"),
        (lambda folder: "~no-such-user/photos", "invalid path in 'folder:~no-such-user/photos' .*; use folder:PATH"),
        (lambda folder: "x" * 300, "invalid path in 'folder:xxx"),
    ],
)
def test_an_unusable_folder_raises_an_error_that_says_what_to_do(own, harm, message):
    with pytest.raises(data.DataError, match=message):
        data.load(f"folder:{harm(own)}")


def test_copies_of_a_picture_are_in_one_split(own):
    for i in range(12):
        shutil.copy(own / "cats" / f"{i:03}.png", own / "cats" / f"copy of {i}.png")
    loaded, said = load(own)
    assert sum(sizes(loaded)) == 48
    assert said == ""
    parts = [{row.tobytes() for row in getattr(loaded, part).images.numpy()} for part in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 36


def test_a_picture_with_two_labels_is_reported_and_in_one_split(own):
    shutil.copy(own / "cats" / "003.png", own / "dogs" / "tom.png")
    loaded, said = load(own)
    assert f"the same picture has two labels: {own}/cats/003.png and dogs/tom.png" in said
    parts = [{row.tobytes() for row in getattr(loaded, part).images.numpy()} for part in SPLITS]
    assert sum(map(len, parts)) == 36


def test_what_the_test_split_has_is_left_out_of_the_others(tmp_path):
    fill(tmp_path / "train", ("a", "b"), 8)
    fill(tmp_path / "test", ("a", "b"), 8, first=100)
    shutil.copy(tmp_path / "test" / "a" / "100.png", tmp_path / "train" / "a" / "x.png")
    (tmp_path / "unlabelled").mkdir()
    shutil.copy(tmp_path / "test" / "b" / "101.png", tmp_path / "unlabelled")
    loaded, said = load(tmp_path)
    assert sizes(loaded) == [12, 0, 4, 16]
    assert "1 images in train/ are left out" in said
    assert "1 images in unlabelled/ are left out" in said


def test_pieces_of_one_photograph_stay_together(tmp_path):
    for k, name in enumerate(("a", "b")):
        for i in range(48):
            photograph(tmp_path / "own" / name / f"{name}{i // 4}_{i % 4}.png", i + 100 * k, (i // 4, 80 * k, 0))
    loaded, _ = load(tmp_path / "own", groups=r"(.*)_\d")
    found = [{(round(255 * float(r)), round(255 * float(g))) for r, g in getattr(loaded, part).images[:, :2, 0, 0]}
             for part in SPLITS]  # fmt: skip
    assert sum(map(len, found)) == len(set.union(*found)) == 24
    assert sum(sizes(loaded)) == 96
    with pytest.raises(data.DataError, match="fits no file name"):
        load(tmp_path / "own", groups="(x+)y")


@pytest.mark.parametrize("count", [3, 4, 7])
def test_a_rare_class_is_in_every_split(tmp_path, count):
    fill(tmp_path, ("a", "b"), 60)
    fill(tmp_path, ("rare",), count, first=200)
    loaded, _ = load(tmp_path, labelled=20)
    for part in (loaded.train, loaded.validation, loaded.test):
        assert part.labels.bincount(minlength=3).min() > 0


def test_a_class_that_cannot_be_in_every_split_is_named(own):
    for file in list((own / "cats").iterdir())[2:]:
        file.unlink()
    with pytest.raises(data.DataError, match=r"class 'cats' has too few images \(2\) to be in training"):
        load(own)


def test_links_that_lead_back_add_nothing(own):
    (own / "cats" / "again").symlink_to(own / "cats")
    (own / "cats" / "all").symlink_to(own)
    (own / "dogs" / "gone.png").symlink_to(own / "nowhere.png")
    (own / "dogs" / "self").symlink_to(own / "dogs" / "self")
    (own / "dogs" / "again.png").symlink_to(own / "dogs" / "000.png")
    loaded, said = load(own)
    assert sum(sizes(loaded)) == 36
    assert "1 broken links" in said


def test_hidden_files_and_leftovers_are_neither_images_nor_classes(own):
    source = own / "cats" / "000.png"
    for name in (".hidden/x.png", "__MACOSX/cats/x.png", "cats/._000.png", "cats/.thumbs/x.png", "cats/@eaDir/x.png",
                 "dogs/.ipynb_checkpoints/x.png", "dogs/003.png~", "dogs/Thumbs.db", ".DS_Store", "#recycle/x.png",
                 "$RECYCLE.BIN/x.png", "System Volume Information/x.png", "cats/lost+found/x.png",
                 "birds/__pycache__/x.png", "birds/desktop.ini"):  # fmt: skip
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, own / name)
    loaded, said = load(own)
    assert sum(sizes(loaded)) == 36
    assert loaded.classes == ("birds", "cats", "dogs")
    assert said == ""


def test_what_cannot_be_read_is_counted_and_named(own):
    for i in range(12):
        (own / "cats" / f"{i}.heic").write_bytes(b"not read")
    (own / "dogs" / "notes.TXT").touch()
    photograph(own / "loose.png")
    loaded, said = load(own)
    assert sum(sizes(loaded)) == 36
    assert "14 files are not read: 12 .heic, 1 outside of the folders, 1 .txt" in said
    assert "12 .heic" in loaded.about


@pytest.mark.parametrize("ending", ["gif", "jfif", "JPG", "webp", "bmp", "tiff"])
def test_every_usual_format_is_read(own, ending):
    for file in (own / "cats").iterdir():
        kind = {"jfif": "JPEG", "JPG": "JPEG", "tiff": "TIFF"}.get(ending, ending.upper())
        Image.open(file).save(file.with_suffix(f".{ending}"), format=kind)
        file.unlink()
    loaded, said = load(own)
    assert said == ""
    assert sum(int((getattr(loaded, part).labels == 1).sum()) for part in SPLITS) == 12


# How an image is read


def test_a_photograph_on_its_side_is_turned_upright(tmp_path):
    image = Image.new("RGB", (32, 32), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 32, 16))  # above
    exif = Image.Exif()
    exif[0x0112] = 8  # turn it to the left to show it
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "x.jpg", exif=exif, quality=95, subsampling=0)
    read = pixels(tmp_path / "x.jpg", tmp_path / "own")
    assert (read[:3, :, 0] > 200).all()
    assert (read[5:, :, 2] > 200).all()


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_a_ramp_of_16_bits_stays_a_ramp(tmp_path, ending):
    ramp = np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (32, 1))
    Image.fromarray(ramp).save(tmp_path / f"x.{ending}")
    read = pixels(tmp_path / f"x.{ending}", tmp_path / "own", side=32)
    assert abs(read[0, :, 0] - ramp[0] / 257).max() <= 1


@pytest.mark.parametrize("shape", [0, 255])
def test_a_shape_that_only_transparency_shows_is_seen(tmp_path, shape):
    image = np.full((32, 32, 4), shape, np.uint8)
    image[..., 3] = 0
    image[8:24, 8:24, 3] = 255
    Image.fromarray(image).save(tmp_path / "x.png")
    read = pixels(tmp_path / "x.png", tmp_path / "own", side=32)
    assert (read[0] == _folder.BACKGROUND).all()
    assert (read[16, 16] == shape).all()


@pytest.mark.parametrize("mode", ["LA", "L", "P"])
def test_what_is_transparent_in_grey_or_by_one_colour_is_seen_too(tmp_path, mode):
    image, options = Image.new("L", (32, 32), 0), {}
    image.paste(200, (8, 8, 24, 24))
    if mode == "LA":
        image.putalpha(image.point(lambda value: 255 if value else 0))
    else:  # one value, or one place of a palette, is transparent
        image, options = image.convert(mode), {"transparency": 0}
    image.save(tmp_path / "x.png", **options)
    read = pixels(tmp_path / "x.png", tmp_path / "own", side=32)
    assert (read[0] == _folder.BACKGROUND).all()
    assert (read[16, 16] == 200).all()


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "CMYK", "1", "L"])
def test_every_mode_is_read(tmp_path, mode):
    image = Image.new("RGB", (20, 30), (255, 255, 255)).convert(mode)
    name = "x.jpg" if mode == "CMYK" else "x.png"
    image.save(tmp_path / name)
    assert (pixels(tmp_path / name, tmp_path / "own") >= 250).all()


def test_a_large_jpeg_is_scaled_and_cropped_like_a_small_png(tmp_path):
    ramp = np.zeros((600, 900, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.linspace(0, 255, 900), np.linspace(0, 255, 600)[:, None]
    for name in ("x.png", "x.jpg"):
        Image.fromarray(ramp).save(tmp_path / name, **({"quality": 95} if name == "x.jpg" else {}))
    exact, drafted = (pixels(tmp_path / f"x.{kind}", tmp_path / kind, side=16) for kind in ("png", "jpg"))
    assert abs(exact - drafted).max() <= 4
    assert exact[0, 0, 0] > 40  # of the wider side, the ends are cut off
    assert exact[0, 0, 1] < 12


@pytest.mark.parametrize("saved_as", ["L", "RGB"])
def test_photographs_that_are_all_grey_have_one_channel(tmp_path, saved_as):
    for k, name in enumerate(("a", "b")):
        for i in range(8):
            (tmp_path / "own" / name).mkdir(parents=True, exist_ok=True)
            Image.new("L", (9, 9), 100 * k + i).convert(saved_as).save(tmp_path / "own" / name / f"{i}.png")
    loaded, _ = load(tmp_path / "own", side=8)
    assert loaded.train.images.shape[1:] == (1, 8, 8)
    assert {round(255 * float(x)) for x in loaded.train.images.mean((1, 2, 3))} <= {*range(8), *range(100, 108)}
    photograph(tmp_path / "own" / "a" / "colour.png")
    assert load(tmp_path / "own", side=8)[0].in_channels == 3


# Read once


def test_nothing_is_decoded_twice(own, monkeypatch):
    decoded, decode = [], _folder.decode
    monkeypatch.setattr(_folder, "decode", lambda file, side: (decoded.append(file.name), decode(file, side))[1])
    first, _ = load(own)
    assert len(decoded) == 36
    (own / "cats" / "003.png").rename(own / "dogs" / "tom.png")
    os.utime(own / "cats" / "004.png", (1, 1))
    assert load(own)[0].fingerprint != first.fingerprint
    assert len(decoded) == 36
    photograph(own / "cats" / "new.png", 999)
    loaded, _ = load(own)
    assert decoded[36:] == ["new.png"]
    assert len(list(settings.runs_folder().glob("photographs-*.uint8"))) == 1, "that of the smaller set is deleted"
    for part in SPLITS[2:]:
        assert torch.equal(getattr(loaded, part).images.mean((2, 3)).argmax(1)[:3] < 3, torch.ones(3) > 0)
    assert load(own, side=16)[0].train.images.shape[2:] == (16, 16)
    assert len(decoded) == 37 + 37


def test_a_killed_reading_goes_on_where_it_was(own, monkeypatch):
    decode, calls = _folder.decode, []

    def killed(file, side):
        calls.append(file)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return decode(file, side)

    monkeypatch.setattr(_folder, "decode", killed)
    with pytest.raises(KeyboardInterrupt):
        load(own)
    (partial,) = settings.runs_folder().glob("photographs-*.partial")
    with open(partial, "ab") as file:
        file.write(b"half an image")
    calls.clear()
    monkeypatch.setattr(_folder, "decode", lambda file, side: (calls.append(file), decode(file, side))[1])
    loaded, _ = load(own)
    assert len(calls) < 36
    for part in (loaded.train, loaded.validation, loaded.test):
        assert torch.equal(part.images.mean((2, 3)).argmax(1), part.labels)


def test_a_changed_photograph_is_read_again(own):
    before, _ = load(own)
    photograph(own / "cats" / "003.png", 77, (0, 255, 255))
    after, _ = load(own)
    assert before.fingerprint != after.fingerprint
    assert any(
        (image[:, 0, 0] == torch.tensor([0, 1, 1])).all() for p in SPLITS for image in getattr(after, p).images
    )


def test_a_damaged_file_of_pixels_is_named(own):
    load(own)
    (path,) = settings.runs_folder().glob("photographs-*.uint8")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(_store.DamagedFile, match=f"{path} is damaged"):
        load(own)


def test_files_that_are_no_images_are_all_named(own):
    for name in ("003", "005"):
        (own / "cats" / f"{name}.png").write_bytes(b"no image" + name.encode())
    with pytest.raises(
        data.DataError, match=r"cannot be read as an image .*; .*cannot .*: fix or remove it"
    ) as caught:
        load(own)
    assert all(f"{own}/cats/{name}.png" in str(caught.value) for name in ("003", "005"))


# One meaning everywhere


def test_the_side_means_the_same_wherever_it_is_said(own, monkeypatch):
    said = [load(own, side=16)[0], data.load(f"folder:{own}?side=16")]
    monkeypatch.setenv("DISTILL_SIDE", "16")
    monkeypatch.setenv("DISTILL_DATASET", f"folder:{own}")
    said += [load(own)[0], data.load(settings.dataset())]
    assert {each.name for each in said} == {settings.dataset()}
    assert len({each.fingerprint for each in said}) == 1
    assert {tuple(each.test.images.shape[2:]) for each in said} == {(16, 16)}
    assert load(own, side=8)[0].name.endswith("?side=8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 7}, r"side must be an integer in \[8, inf\), got 7"),
        ({"labelled": 0}, r"labelled must be an integer in \[1, inf\), got 0"),
        ({"groups": "a+"}, r"groups must be a regular expression with a group, got 'a\+'"),
        ({"groups": "(a"}, "groups must be a regular expression"),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(own, options, message, monkeypatch):
    with pytest.raises(ValueError, match=message):
        load(own, **options)
    with pytest.raises(ValueError, match="is given twice"):
        settings.with_option(f"folder:{own}?side=32", "side", 64)
    with pytest.raises(ValueError, match=r"side is for a dataset folder:PATH, not for digits"):
        data.load("digits", side=64)
    monkeypatch.setenv("DISTILL_SIDE", "large")
    with pytest.raises(ValueError, match="side must be an integer .*, got 'large'"):
        load(own)


def test_a_relative_path_means_the_same_in_a_command_and_in_a_kernel(own, start_python):
    """A kernel starts in notebooks/."""
    code = "import os; os.chdir('notebooks'); from distill_utils import data, settings; "
    code += "print(data.load(settings.dataset()).about)"
    relative = os.path.relpath(own, settings.ROOT)
    out, err = start_python(
        "-c", code, DISTILL_DATASET=f"folder:{relative}", PYTHONPATH=str(settings.ROOT)
    ).communicate()
    assert "22 labelled" in out, err
    assert sizes(load(relative)[0]) == [22, 0, 7, 7]


# A float tensor to every function


@pytest.fixture
def both(own):
    """The same splits as photographs in a file and as plain tensors."""
    loaded, _ = load(own, side=16)
    plain = {part: data.ImageSet(getattr(loaded, part).images[:], getattr(loaded, part).labels) for part in SPLITS}
    return loaded, data.ImageData("plain", **plain, classes=loaded.classes)


def results(loaded):
    """What the functions of the package that take images make of a dataset."""
    torch.manual_seed(0)
    train, test = loaded.train, loaded.test
    model = models.build("student", 3, 3, width=4)
    training.reestimate_batch_norm(model, train.images)
    recorded = recipes.record(model.eval(), train.images, views=2, augmentation=augment.PHOTOS, quiet=True)
    schedule = training.Schedule(steps=3, batch_size=8, views=2)
    history = training.fit(model, train + loaded.transfer, recipes.distillation, schedule, teacher=recorded,
                           augmentation=augment.PHOTOS, validation=loaded.validation, quiet=True)  # fmt: skip
    fig = plots.image_grid(test.images, [loaded.classes[k] for k in test.labels])
    fig.canvas.draw()
    drawn = np.asarray(fig.canvas.buffer_rgba())
    plots.plt.close(fig)
    found = {
        "fit": history["loss"], "evaluate": list(evaluation.evaluate(model, test).values()), "record": recorded[1],
        "subset": train.subset(train.labels != 1).images, "sum": (train + test).images, "figure": drawn,
        "deeplift": explain.deeplift(model, test.images, test.labels).maps,
        "ig": explain.integrated_gradients(model, test.images, test.labels, "another image").maps,
        "occlusion": explain.occlusion(model, test.images, test.labels, 0.5).maps,
        "augment": augment.augment(test.images, torch.arange(len(test)), 1, augment.GLYPHS),
        "forward": model(test.images), "arithmetic": (1 - test.images * 2).flatten(1).std(1),
        "index": test.images[2, 1], "tuple": test.images[1:3, 0], "mask": train.images[train.labels == 2],
        "cat": torch.cat([train.images, test.images, torch.ones(1, 3, 16, 16)]), "array": np.asarray(test.images),
    }  # fmt: skip
    return {
        name: torch.as_tensor(np.asarray(torch.as_tensor(value).detach())).double() for name, value in found.items()
    }


def test_photographs_are_a_float_tensor_to_every_function(both):
    lazily, plainly = map(results, both)
    for name in plainly:
        assert lazily[name].shape == plainly[name].shape, name
        assert torch.allclose(lazily[name], plainly[name], atol=1e-6), name
    images = both[0].train.images
    assert (images.dtype, images.is_floating_point(), len(images)) == (torch.float32, True, 22)
    assert type(images[:2]) is torch.Tensor
    assert isinstance((both[0].train + both[0].test).subset(torch.arange(3)).images, _folder.Photographs)
    assert [len(part) for part in images.split(9)] == [9, 9, 4]


def test_an_epoch_takes_the_memory_of_a_batch(tmp_path):
    """Of 128 MB of pixels; pages of a mapped file count as memory of the process that read them."""
    path, count = tmp_path / "pixels", 2**27 // (3 * 64**2)
    path.touch()
    os.truncate(path, count * 3 * 64**2)  # zeros, which take no room on the disk
    source = _folder.Source(*_folder.map_pixels(path, (count, 3, 64, 64)), np.zeros((count, 32), np.uint8))
    images = _folder.Photographs(source, torch.arange(count))
    rows = torch.randperm(count).split(128)
    float(images[rows[0]].sum())
    before, most = psutil.Process().memory_info().rss, 0
    for index in rows:
        float(images[index].sum())
        most = max(most, psutil.Process().memory_info().rss)
    assert most - before < 40e6


def test_photographs_cannot_be_changed_by_mistake(own):
    images = load(own)[0].train.images
    for change in (lambda: images.mul_(2), lambda: images.__setitem__(0, 1), lambda: images.clamp_(0.2, 0.5)):
        with pytest.raises(TypeError, match=r"cannot be changed in place: change a copy, images\[:\], instead"):
            change()
    copy = images[:]
    copy[0] = 0
    assert float(images[0].max()) > 0


def test_records_of_the_same_photographs_are_found_again(own, monkeypatch):
    model = models.build("student", 3, 3, width=4).eval()
    first = recipes.record(model, load(own)[0].train.images, quiet=True)
    asked, logits = [], training.logits

    def counted(model, images, **options):
        asked.append(len(images))
        return logits(model, images, **options)

    monkeypatch.setattr(training, "logits", counted)
    assert torch.equal(recipes.record(model, load(own)[0].train.images, quiet=True)[0], first[0])
    assert sum(asked) <= 8, "eight images show whether the teacher is the one that was recorded"
