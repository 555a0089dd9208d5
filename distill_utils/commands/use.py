"""A trained model at work: python -m distill_utils evaluate | predict | export MODEL."""

import importlib.util
import io
import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from distill_utils import _folder, _recorded, _store, evaluation, models, recipes, settings
from distill_utils.training import logits

_EQUAL = 1e-5  # logits of an exported model may differ by this much


def evaluate(path: Path, dataset: str) -> str:
    """Accuracy, negative log-likelihood and calibration error of a model on validation and test, as a table.

    Raises ValueError for a dataset with other classes or images of another size than the model's.
    """
    model = models.load(path)
    own = dataset.startswith("folder:") and "side=" not in dataset
    image_data = recipes.dataset(settings.dataset(dataset, model.side if own else None))
    try:
        _recorded.check_classes(model.classes, image_data.classes)
    except ValueError as error:
        raise ValueError(f"{error}: these are the images of {dataset}, choose others with --dataset") from error
    expected, found = (model.channels, model.side, model.side), tuple(image_data.test.images.shape[1:])
    if found != expected:
        sizes = ["×".join(map(str, shape)) for shape in (expected, found)]
        raise ValueError(f"the model takes images of {sizes[0]} (channels×H×W), those of {dataset} have {sizes[1]}")
    lines = [f"{path} on {dataset}", f"{'':12}{'images':>8}{'accuracy':>10}{'nll':>8}{'ece':>8}"]
    for part in ("validation", "test"):
        image_set = getattr(image_data, part)
        scores = evaluation.evaluate(model, image_set)
        lines.append(f"{part:12}{len(image_set):8,}{scores['accuracy']:10.1%}{scores['nll']:8.3f}{scores['ece']:8.3f}")
    return "\n".join(lines)


def predict(path: Path, images: list[Path], *, as_json: bool = False) -> bool:
    """Print the three most probable classes of each image file. Returns whether all could be read.

    A file is read as a folder of images is: turned as its EXIF tag says, its shorter side scaled to the model's size,
    the middle cut out. A probability is the softmax of the logits, which is often too high for the first class.
    """
    model, ok = models.load(path), True
    width = max(len(str(image)) for image in images)
    for image in images:
        try:
            pixels = read_image(image, model.side, model.channels)
        except Exception as error:  # whatever the decoder of a damaged file raises
            print(f"error: {image} cannot be read as an image ({error})", file=sys.stderr)
            ok = False
            continue
        found = logits(model, pixels[None])[0].softmax(0).sort(descending=True)
        best = {model.classes[k]: round(p, 4) for p, k in zip(*(x[:3].tolist() for x in found), strict=True)}
        if as_json:
            row = {"image": str(image), "class": next(iter(best)), "probabilities": best}
            print(json.dumps(row, ensure_ascii=False))
        else:
            print(f"{image!s:{width}}  " + "  ".join(f"{name} {p:.1%}" for name, p in best.items()))
    return ok


def read_image(path: Path, side: int, channels: int) -> Tensor:
    """An image file as a float tensor channels×side×side in [0, 1], read as a folder of photographs is."""
    image = torch.from_numpy(_folder.decode(path, side)).float() / 255
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # of a colour's brightness (ITU-R BT.601)
    return image if channels == 3 else (weights * image).sum(0, keepdim=True)


def export(path: Path) -> list[Path]:
    """Write a model beside its file as .pt2, which torch.export.load reads without this package, and as .onnx where
    the packages of the extra "export" are installed. Both take any number of images, float in [0, 1].

    Each file is read and run once: raises ValueError where its logits differ from the model's by more than 1e-5.
    """
    model = models.load(path).to(memory_format=torch.contiguous_format)  # torch.export.save warns of another
    images = torch.rand(3, model.channels, model.side, model.side, generator=torch.Generator().manual_seed(0))
    shapes = ({0: torch.export.Dim("images")},)
    about = json.dumps({name: model.record[name] for name in ("classes", "side", "channels", "mean", "sd")}
                       | {"resize": "shorter side to `side`, bilinear, then the middle cut out"})
    written, buffer = [path.with_suffix(".pt2")], io.BytesIO()
    program = torch.export.export(model, (images,), dynamic_shapes=shapes)
    torch.export.save(program, buffer, extra_files={"model.json": about})
    with _store.atomic(written[0]) as temporary:
        temporary.write_bytes(buffer.getvalue())
    exported = torch.export.load(written[0]).module()
    _compare(written[0], model, exported, images)
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        install = f"{sys.executable} -m pip install {' '.join(missing)}"
        print(f"no ONNX file: {', '.join(missing)} not installed ({install})")
        return written
    import onnxruntime

    written.append(path.with_suffix(".onnx"))
    names = {"input_names": ["images"], "output_names": ["logits"]}
    onnx = torch.onnx.export(model, (images,), dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
    onnx.model.metadata_props["model"] = about
    with _store.atomic(written[1]) as temporary:
        onnx.save(temporary, external_data=False)
    session = onnxruntime.InferenceSession(written[1], providers=["CPUExecutionProvider"])
    _compare(written[1], model, lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), images)
    return written


@torch.no_grad()
def _compare(path: Path, model: nn.Module, exported, images: Tensor) -> None:
    difference = max(float((exported(part) - model(part)).abs().max()) for part in (images, images[:1]))
    if not difference <= _EQUAL:
        path.unlink()
        raise ValueError(f"{path} was removed: its logits differ from the model's by {difference:g}")
    print(f"{path}: same logits as the model, to within {difference:.1g}")
