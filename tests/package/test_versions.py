"""The versions of artifacts are honest: what is inside a tiny one of each kind is compared with committed numbers.

A stored artifact is found again whatever the source text says, so an edit that changes what is inside must raise the
version of its kind. To raise one: change the number in _store.VERSIONS, then write the new numbers with
`python tests/package/test_versions.py`. One edit of each module that shapes an artifact is tried, to see that it is
noticed here: a warm store hides none of them.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from distill_utils import _store, data, hard_tree, recipes, settings
from distill_utils.explain import integrated_gradients
from distill_utils.recipes import Recipe, load_or_train
from distill_utils.studies import biased_cue, hinton_mnist, storage, techniques
from distill_utils.studies import language as language_study
from distill_utils.training import Schedule, reestimate_batch_norm

COMMITTED = Path(__file__).with_name("versions.json")
TOLERANCE = 3e-3  # relative: what other processors round differently in a few steps

SHORT = Schedule(steps=3, batch_size=32)
TEACHER = Recipe(model="teacher", dataset="digits", options={"width": 6}, schedule=SHORT)
STUDENT = Recipe(dataset="digits", options={"width": 4}, schedule=SHORT)


def described(values: torch.Tensor) -> list[float]:
    """A few numbers that change when anything in a tensor does: mean, size, and two weighted sums."""
    flat = values.detach().double().flatten()
    place = torch.arange(len(flat)).double()
    return [
        float(x) for x in (flat.mean(), flat.std(), (flat * place.cos()).mean(), (flat * (place / 7).sin()).mean())
    ]


def trained(**changes) -> list[float]:
    """The loss of each step, and how far the weights moved: what a changed loss, schedule or network changes."""
    recipe = Recipe(**{**STUDENT.__dict__, **changes})
    before = recipes.untrained(recipe, quiet=True).state_dict()
    done = load_or_train(recipe, quiet=True)
    moved = torch.cat([(x - before[name]).flatten().double() for name, x in done.model.state_dict().items()])
    start = torch.cat([x.flatten().double() for x in before.values()])
    return [*done.history["loss"], float(moved.abs().mean()), float(moved.std()), *described(start)]


def distilled(method: str, **options) -> list[float]:
    """DIST and RKD divide by the spread of the teacher's outputs, so theirs is trained until it has one; otherwise
    rounding decides."""
    teacher = replace(TEACHER, schedule=Schedule(steps=30, batch_size=32)) if method in ("DIST", "RKD") else TEACHER
    return trained(method=method, method_options=options, teacher=teacher)


def images(name: str) -> list[float]:
    part = data.load(name).validation.subset(torch.arange(72))
    masks = torch.stack(list(part.masks.values())) if part.masks else torch.zeros(2)
    return described(part.images) + described(masks.float())


def photographs() -> list[float]:
    """Of 16 bits, with transparency, and a large JPEG."""
    folder = settings.runs_folder() / "own"
    ramp = np.linspace(0, 65535, 150 * 200).reshape(150, 200)
    for k, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(8):
            grey = ramp * (i + 1 + 8 * k) / 16
            Image.fromarray(grey.astype(np.uint16)).save(folder / name / f"{i} 16.png")
            planes = [grey / 257, grey.T.reshape(150, 200) / 257, 255 - grey / 257, ramp / 257]
            Image.fromarray(np.stack(planes, -1).astype(np.uint8)).save(folder / name / f"{i} alpha.png")
            Image.fromarray(np.stack(planes[:3], -1).astype(np.uint8)).save(folder / name / f"{i}.jpg", quality=95)
    return described(data.load(f"folder:{folder}", side=16).test.images[:])


def tree(method: str, **options) -> list[float]:
    changes = {"model": "soft_tree", "options": {"in_features": 64, "depth": 4}, "method_options": options}
    return trained(method=method, teacher=TEACHER if "targets" in method else None, **changes)


def cart() -> list[float]:
    train = data.load("digits").train
    grown = hard_tree.cart(train.images, torch.nn.functional.one_hot(train.labels, 10).float(), 4)
    return described(hard_tree.from_cart(grown, depth=3)(train.images))


def maps() -> list[float]:
    train = data.load("digits").train.subset(torch.arange(200))
    model = recipes.untrained(STUDENT).eval()
    reestimate_batch_norm(model, train.images)  # or its logits would hardly differ between images
    return described(integrated_gradients(model, train.images[:20], train.labels[:20], baseline="grey").maps)


def logits(views: int) -> list[float]:
    digits = data.load("digits")
    model = load_or_train(TEACHER, quiet=True).model
    reestimate_batch_norm(model, digits.train.images)  # or it would give every view of every image the same answer
    recorded = recipes.record(model, digits.train.images, views=views, augmentation=data.augment.GLYPHS, quiet=True)
    return described(torch.stack(recorded))


def words(arm: dict) -> list[float]:
    tiny = {
        "SIZES": {"train": 90, "validation": 20, "test": 20}, "OWN": 40, "WRITTEN": 60, "UNITS": dict.fromkeys(
            language_study.UNITS, 8), "SCHEDULES": {name: Schedule(3, 16, schedule.lr)
                                                    for name, schedule in language_study.SCHEDULES.items()},
    }  # fmt: skip
    with patch.multiple(language_study, **tiny):
        found = language_study.trained(arm, quiet=True)
    weights = torch.cat([weight.flatten() for weight in found.model.state_dict().values()])
    return [*found.curve["excess_bits"], *found.curve["attractor_error"], found.teacher_words, *described(weights)]


# What a tiny artifact is made by, and the version that it belongs to: a kind of _store.VERSIONS, or a method.
ARTIFACTS = {
    "images: glyphs": lambda: images("glyphs"),
    "images: glyphs_matched": lambda: images("glyphs_matched"),
    "images: glyphs_biased": lambda: images("glyphs_biased"),
    "photographs: own": photographs,
    "images: pairs": lambda: images("pairs"),
    "model: teacher": lambda: trained(**TEACHER.__dict__),
    "model: augmented": lambda: trained(schedule=Schedule(steps=3, batch_size=32, views=3),
                                        augmentation=data.augment.GLYPHS),
    "model: dropout": lambda: trained(options={"width": 4, "dropout": 0.3}),
    "model: resnet": lambda: trained(model="resnet", options={"width": 8, "blocks": 1}),
    "model: cut": lambda: trained(method="distillation", teacher=TEACHER, cut=True),
    "model: mlp": lambda: mlp(),
    "method hard_labels": lambda: trained(method_options={"smoothing": 0.1}),
    "method distillation": lambda: distilled("distillation", temperature=3.0, alpha=0.7),
    "method tree_on_labels": lambda: tree("tree_on_labels"),
    "method tree_on_soft_targets": lambda: tree("tree_on_soft_targets", temperature=2.0),
    **{f"method {name}": lambda name=name: distilled(name, **techniques.TECHNIQUES[name][1])
       for name in techniques.TECHNIQUES if name in recipes.METHODS and name != techniques.PLAIN},
    **{f"method {name}": lambda name=name: distilled(name, temperature=biased_cue.TEMPERATURE)
       for name in ("smoothed", "permuted", "e2kd", "attention")},
    "method stored soft targets": lambda: distilled(
        "stored soft targets", temperature=storage.HOT, kind="samples", k=4),
    "logits: unaugmented": lambda: logits(0),
    "logits: augmented": lambda: logits(2),
    "maps: integrated gradients": maps,
    "cart: digits": cart,
    "language: alone": lambda: words(language_study.ALONE),
    "language: soft": lambda: words({"method": "soft", "temperature": 2.0}),
    "language: sequence": lambda: words(language_study.SEQUENCE),
    "language: on policy": lambda: words(language_study.REVERSE),
    "language: fresh": lambda: words(language_study.FRESH),
}  # fmt: skip
for name, method in recipes.METHODS.items():  # a new one of the package is tried with its default options
    if method.loss.__module__.startswith("distill_utils."):
        ARTIFACTS.setdefault(f"method {name}", lambda name=name: distilled(name))


def mlp() -> list[float]:
    torch.manual_seed(0)
    network = hinton_mnist.MLP(10, width=12, dropout=0.5, input_dropout=0.2).eval()
    return described(network(torch.linspace(0, 1, 5 * 784).view(5, 1, 28, 28)))


def different(name: str) -> list[tuple[float, float]]:
    """The committed and the present numbers of a tiny artifact, where they differ."""
    committed, found = json.loads(COMMITTED.read_text(encoding="utf-8"))[name]["numbers"], ARTIFACTS[name]()
    floor = 0.01 * max(map(abs, committed))  # a sum of almost nothing is compared with the others' size
    return [(a, b) for a, b in zip(committed, found, strict=True) if abs(a - b) > TOLERANCE * max(abs(a), floor)]


def version_of(name: str) -> tuple[int, str]:
    """The present version that an artifact belongs to, and where it is written."""
    kind, _, detail = name.partition(" ")
    if kind == "method":
        return recipes.METHODS[detail].version, f'version= of @method("{detail}")'
    return _store.VERSIONS[kind.rstrip(":")], f"VERSIONS[{kind.rstrip(':')!r}] in _store.py"


@pytest.mark.parametrize("name", ARTIFACTS)
def test_what_an_artifact_holds_changes_with_its_version_alone(name):
    torch.set_num_threads(1)
    committed = json.loads(COMMITTED.read_text(encoding="utf-8")).get(name, {}).get("version")
    version, where = version_of(name)
    cure = f"raise {where} if that is meant, then run python tests/package/test_versions.py"
    assert committed == version, f"{name} is new, or has a new version: run python tests/package/test_versions.py"
    found = different(name)
    assert not found, f"{name} now holds other numbers {found}: stored ones would be stale; {cure}"


# module -> its right and wrong text, and an artifact whose numbers have to change
EDITS = {
    "recipes": ("parts.append(asked(index, view).half())", "parts.append(asked(index, view).half().roll(1, 0))",
                "logits: unaugmented"),
    "_folder": ("Image.Resampling.BILINEAR)", "Image.Resampling.NEAREST)", "photographs: own"),
    "language": ('seed, "sentences")', 'seed, "phrases")', "language: soft"),
    "augment": ('f"view {view}", index,', 'f"view  {view}", index,', "logits: augmented"),
    "data": ("float().view(-1, 1, 8, 8) / 16", "float().view(-1, 1, 8, 8).flip(3) / 16", "model: teacher"),
    "stateless_random": ("0x40A7B892E31B1A47", "0x40A7B892E31B1A49", "model: teacher"),
    "models": ("stride=stride, padding=1, bias=False", "stride=stride, padding=1, bias=True", "model: teacher"),
    "training": ('f"epoch {epoch}"', 'f"epoch  {epoch}"', "model: teacher"),
    "losses": ("log_target=True) * temperature**2", "log_target=True)", "method distillation"),
    "feature_losses": ("return (student - teacher).square().mean()", "return (student - teacher).abs().mean()",
                       "method attention transfer"),
    "soft_tree": ("self.inverse_temperature * self.gates(x)", "2 * self.inverse_temperature * self.gates(x)",
                  "method tree_on_soft_targets"),
    "hard_tree": ("Regressor(max_depth=depth,", "Regressor(max_depth=depth - 2,", "cart: digits"),
    "explain": ("outputs.mean(1)", "outputs.amax(1)", "maps: integrated gradients"),
    "studies.hinton_mnist": ("nn.Linear(width, width), nn.ReLU()", "nn.Linear(width, width), nn.Tanh()",
                             "model: mlp"),
}  # fmt: skip


class Edited(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Imports one module of the package from its source with one text replaced; no file changes."""

    def __init__(self, module: str, right: str, wrong: str):
        self.module, self.right, self.wrong = f"distill_utils.{module}", right, wrong

    def find_spec(self, name, path, target=None):
        if name != self.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        super().__init__(name, spec.origin)
        spec.loader = self
        return spec

    def get_code(self, name):
        source = Path(self.path).read_text(encoding="utf-8")
        assert source.count(self.right) == 1, f"{name} has {self.right!r} {source.count(self.right)} times, not once"
        return compile(source.replace(self.right, self.wrong), self.path, "exec")


@pytest.mark.parametrize("module", EDITS)
def test_an_edit_of_a_module_is_noticed(module):
    """In a process of its own: what is imported here is what was there before, and threads may run here."""
    *edit, name = EDITS[module]
    ended = subprocess.run([sys.executable, __file__, module], capture_output=True, text=True, check=False)
    assert ended.returncode in (0, 3), ended.stderr[-2000:]
    assert ended.returncode == 0, f"{name} stays the same after {edit} in {module}"


def test_every_module_that_shapes_an_artifact_is_edited():
    """What trains, draws, records or explains; the others store, check, show, or compare what is there. Glyphs
    and pairs take long to draw, and are compared above as they are."""
    root = Path(_store.__file__).parent
    others = {"__init__", "__main__", "_checkpoint", "_progress", "_recorded", "_store", "_translate", "_validate",
              "batchnorm", "checks", "evaluation", "glyphs", "pairs", "parallel", "plots", "settings", "speed",
              "stats", "teachers", "tree_plot", "widgets"}  # fmt: skip
    modules = {path.stem for path in root.glob("*.py")} - others
    missing = modules ^ (set(EDITS) - {"explain", "studies.hinton_mnist"})
    assert not missing, f"add an edit of {missing}, or name it above"


def test_every_kind_has_a_tiny_artifact():
    missing = [kind for kind in _store.VERSIONS if not any(name.startswith(f"{kind}:") for name in ARTIFACTS)]
    assert not missing, f"add to ARTIFACTS: {', '.join(missing)}"


def notices(module: str) -> bool:
    """With the package imported anew, one of its modules edited."""
    *edit, name = EDITS[module]
    sys.meta_path.insert(0, Edited(module, *edit))
    for each in [each for each in sys.modules if each.startswith("distill_utils")]:
        del sys.modules[each]
    spec = importlib.util.spec_from_file_location("versions_of_the_edited", __file__)
    anew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anew)
    return bool(anew.different(name))


if __name__ == "__main__" and len(sys.argv) == 2:
    torch.set_num_threads(1)
    sys.exit(0 if notices(sys.argv[1]) else 3)

if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.environ["DISTILL_RUNS"] = folder
        torch.set_num_threads(1)
        found = {}
        for name, make in ARTIFACTS.items():
            found[name] = {"version": version_of(name)[0], "numbers": [round(value, 8) for value in make()]}
    COMMITTED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
