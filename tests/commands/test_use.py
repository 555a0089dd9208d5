"""python -m distill_utils evaluate, predict and export: a model works where its file is, without its dataset."""

import json

import pytest
import torch
from PIL import Image

from distill_utils import __main__, models, recipes
from distill_utils.commands import use
from distill_utils.training import logits, reestimate_batch_norm


def model(path, classes="0123456789", channels=1, side=8):
    network = models.build("student", len(classes), channels, width=4)
    reestimate_batch_norm(network, torch.rand(30, channels, side, side))
    models.save(path, network, classes=classes, side=side)
    return path


def command(capsys, *arguments):
    status = __main__.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def test_evaluate_measures_on_validation_and_test(tmp_path, capsys):
    path = model(tmp_path / "model.safetensors")
    status, out, _ = command(capsys, "evaluate", path, "--dataset", "digits")
    test = recipes.dataset("digits").test
    right = (logits(models.load(path), test.images).argmax(1) == test.labels).float().mean()
    assert status == 0
    assert out.splitlines()[-1].split()[:3] == ["test", "359", f"{float(right):.1%}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": "1023456789"}, "class 0 is '1' there and '0' here"),
        ({"classes": "abc"}, "it lacks '0', '1', '2', … and it also has 'a', 'b', 'c'"),
        ({"channels": 3}, "takes images of 3×8×8 (channels×H×W), those of digits have 1×8×8"),
        ({"side": 16}, "takes images of 1×16×16"),
    ],
)
def test_a_dataset_that_is_not_the_models_is_refused(options, message, tmp_path, capsys):
    status, out, err = command(
        capsys, "evaluate", model(tmp_path / "m.safetensors", **options), "--dataset", "digits"
    )
    assert (status, out) == (1, "")
    assert message in err
    assert ("choose others with --dataset" in err) == ("classes" in options)
    assert err.count("\n") == 1


def test_predict_reads_photographs_and_names_what_it_cannot_read(tmp_path, capsys):
    path = model(tmp_path / "m.safetensors", classes=("cat", "dog", "猫"), channels=3, side=12)
    photo = Image.new("RGB", (40, 20), (250, 10, 10))
    photo.paste((10, 10, 250), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    photo.save(tmp_path / "a.jpg", exif=exif, quality=95)
    (tmp_path / "b.png").write_bytes(b"no image")
    pixels = use.read_image(tmp_path / "a.jpg", 12, 3)
    assert pixels.shape == (3, 12, 12)
    assert pixels[2, 0].mean() > 0.8  # the blue half is on top, as a viewer shows it
    assert use.read_image(tmp_path / "a.jpg", 12, 1).shape == (1, 12, 12)
    status, out, err = command(capsys, "predict", path, tmp_path / "a.jpg", tmp_path / "b.png", "--json")
    row = json.loads(out)
    expected = logits(models.load(path), pixels[None])[0].softmax(0)
    assert row["class"] == ("cat", "dog", "猫")[int(expected.argmax())]
    assert row["probabilities"][row["class"]] == pytest.approx(float(expected.max()), abs=1e-4)
    assert status == 1
    assert f"{tmp_path}/b.png cannot be read as an image" in err
    status, out, _ = command(capsys, "predict", path, tmp_path / "a.jpg")
    assert status == 0
    assert out.startswith(f"{tmp_path}/a.jpg  {row['class']} ")


def test_an_exported_model_gives_the_same_logits_without_this_package(tmp_path, start_python, capsys):
    path = model(tmp_path / "m.safetensors", channels=3, side=12)
    status, out, _ = command(capsys, "export", path)
    assert status == 0
    assert f"{tmp_path}/m.pt2: same logits" in out
    images = torch.rand(5, 3, 12, 12)
    files = {"model.json": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=files).module()
    torch.testing.assert_close(program(images), logits(models.load(path), images), atol=1e-5, rtol=0)
    about = json.loads(files["model.json"])
    assert (about["classes"], about["side"], about["sd"]) == ([*"0123456789"], 12, [1.0] * 3)
    assert about["resize"].startswith("shorter side to `side`")
    status, _, said = command(capsys, "predict", tmp_path / "m.pt2", tmp_path / "a.jpg")
    assert (status, said.count("\n")) == (1, 1)
    assert "m.pt2 was exported, for programs without this package" in said


def test_an_exported_onnx_file_gives_the_same_logits(tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="the extra export is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    path = model(tmp_path / "m.safetensors", channels=3, side=12)
    status, out, _ = command(capsys, "export", path)
    assert status == 0
    assert f"{tmp_path}/m.onnx: same logits" in out
    session, images = onnxruntime.InferenceSession(tmp_path / "m.onnx"), torch.rand(5, 3, 12, 12)
    (found,) = session.run(["logits"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), logits(models.load(path), images), atol=1e-5, rtol=0)
    about = json.loads(session.get_modelmeta().custom_metadata_map["model"])
    assert about["classes"] == [*"0123456789"]


def test_an_export_that_answers_otherwise_is_removed(tmp_path):
    network, path = models.load(model(tmp_path / "m.safetensors")), tmp_path / "m.pt2"
    path.touch()
    with pytest.raises(ValueError, match=r"m\.pt2 was removed: its logits differ from the model's by 0\.001"):
        use._compare(path, network, lambda images: network(images) + 1e-3, torch.rand(3, 1, 8, 8))
    assert not path.exists()
