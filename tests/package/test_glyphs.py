"""The generated dataset: exact counterfactuals, exact masks, and no trivial map that finds the glyph."""

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chi2_contingency, f_oneway
from sklearn.linear_model import RidgeClassifier

from distill_utils import glyphs
from distill_utils.explain import metrics

CUED = glyphs.Look(cue=0.95)
PARTS = ("object", "distractor", "cue")

# Of six images of seed 1: the sum of each image's grey levels, and the pixels of each mask of all six.
GOLDEN_DEFAULT = ([104065, 107501, 104146, 105659, 102563, 103190], [488, 109, 0])
GOLDEN_MATCHED = ([102173, 105197, 101999, 102351, 101045, 101711], [406, 109, 0])
GOLDEN_CUED = ([104541, 108048, 104603, 105601, 102656, 103406], [488, 103, 96])


def draw(look, count=2016, seed=3):
    factors = glyphs.sample(torch.arange(count), seed, look)
    return factors, *glyphs.render(factors)


@pytest.fixture(scope="module")
def default():
    return draw(glyphs.Look())


@pytest.fixture(scope="module")
def matched():
    return draw(glyphs.MATCHED)


@pytest.fixture(scope="module")
def cued():
    return draw(CUED, 360)


def pick(factors, rows):
    return {name: values[rows] for name, values in factors.items()}


def changed(images, factors):
    """Where rendering other factors gives other pixels, bool N×H×W."""
    return (glyphs.render(factors)[0] != images)[:, 0]


def test_pixels_have_their_golden_values():
    """Stored models and committed results depend on these images."""
    for look, expected in {glyphs.Look(): GOLDEN_DEFAULT, glyphs.MATCHED: GOLDEN_MATCHED, CUED: GOLDEN_CUED}.items():
        _, images, masks = draw(look, 6, seed=1)
        assert (images * 255).round().sum((1, 2, 3)).tolist() == pytest.approx(expected[0], abs=2)
        assert [int(masks[part].sum()) for part in PARTS] == pytest.approx(expected[1], abs=1)


# Exact counterfactuals


def test_an_image_depends_on_its_own_factors_alone(default):
    factors, images, masks = default
    rows = torch.tensor([2000, 5, 1500, 999, 1000])
    drawn, drawn_masks = glyphs.render(pick(factors, rows))
    assert torch.equal(drawn, images[rows])
    assert all(torch.equal(drawn_masks[part], masks[part][rows]) for part in PARTS)
    again = glyphs.sample(rows, 3)
    assert all(torch.equal(again[name], factors[name][rows]) for name in factors)


@pytest.mark.parametrize("part", PARTS)
def test_removing_a_part_changes_its_mask_and_nothing_else(part, cued):
    factors, images, masks = cued
    moved = changed(images, glyphs.without(factors, part))
    assert not (moved & ~masks[part]).any()
    assert moved.flatten(1).any(1).all()
    assert moved[masks[part]].float().mean() > 0.9


def test_a_removed_distractor_uncovers_the_glyph_behind_it(cued):
    factors, _, masks = cued
    uncovered = glyphs.without(factors, "distractor")
    behind = changed(glyphs.render(uncovered)[0], glyphs.without(uncovered, "object")) & masks["distractor"]
    assert behind.any()


def test_another_class_changes_only_where_either_glyph_is(cued):
    factors, images, masks = cued
    other = factors | {"label": (factors["label"] + 5) % 36}
    drawn, drawn_masks = glyphs.render(other)
    moved = (drawn != images)[:, 0]
    assert not (moved & ~(masks["object"] | drawn_masks["object"])).any()
    assert moved.flatten(1).any(1).all()


# What an image is


def test_images_are_grey_levels_of_a_byte(default):
    _, images, _ = default
    assert images.shape == (2016, 1, 28, 28)
    assert torch.equal((images * 255).round() / 255, images)
    assert images.min() >= 0
    assert images.max() <= 1


def test_the_background_has_the_declared_mean_and_spread(default):
    factors, _, _ = default
    bare = glyphs.without(glyphs.without(pick(factors, slice(0, 100)), "object"), "distractor")
    drawn, _ = glyphs.render(bare | {"noise_sd": torch.zeros(100)})
    assert drawn.mean((1, 2, 3)).sub(0.5).abs().max() < 1e-3
    assert drawn.std((1, 2, 3)).sub(0.06).abs().max() < 2e-3


@pytest.mark.parametrize("scene", ["default", "matched", "cued"])
def test_masks_are_disjoint_and_the_object_is_never_empty(scene, request):
    _, _, masks = request.getfixturevalue(scene)
    assert sum(masks[part].int() for part in PARTS).max() == 1
    assert masks["object"].flatten(1).any(1).all()
    assert 0.06 < masks["object"].float().mean() < 0.10
    assert masks["cue"].flatten(1).sum(1).unique().tolist() == [16 if scene == "cued" else 0]


def test_what_is_left_without_the_glyph_does_not_predict_the_class():
    factors = glyphs.sample(torch.arange(2016), 5)
    labels, accuracies = factors["label"].numpy(), []
    for shown in (factors, glyphs.without(factors, "object")):
        images, _ = glyphs.render(shown)
        features = F.avg_pool2d((images - images.mean((1, 2, 3), keepdim=True)).abs(), 2).flatten(1).numpy()
        model = RidgeClassifier().fit(features[:1512], labels[:1512])
        accuracies.append(model.score(features[1512:], labels[1512:]))
    chance, error = 1 / 36, (1 / 36 / 504) ** 0.5
    assert accuracies[0] > chance + 5 * error  # this classifier does see the glyph
    assert accuracies[1] < chance + 3 * error


@pytest.mark.parametrize("look", [glyphs.Look(), glyphs.MATCHED, glyphs.Look(cue=1 / 36)])
def test_every_other_factor_is_independent_of_the_class(look):
    factors = glyphs.sample(torch.arange(36_000), 2, look)
    named = {"face", "distractor", "distractor_face", "cue", "cue_corner"}
    for name in factors.keys() - {"index", "label"}:
        values = factors[name].view(-1, 36)  # images of class c are in column c
        if len(values.unique()) == 1:
            continue
        if name in named:
            table = torch.stack([column.bincount(minlength=int(values.max()) + 1) for column in values.T])
            assert chi2_contingency(table.numpy()).pvalue > 1e-4, name
        else:
            spread = (values - values.mean()).abs()
            for numbers in (values, spread):
                assert f_oneway(*numbers.double().T.numpy()).pvalue > 1e-4, name


# The planted cue


@pytest.mark.parametrize("rho", [0.95, 1 / 36, 0.0, 1.0])
def test_the_cue_is_that_of_the_class_with_the_declared_probability(rho):
    factors = glyphs.sample(torch.arange(36_000), 1, glyphs.Look(cue=rho))
    own = (factors["cue"] == factors["label"]).float().mean()
    assert own == pytest.approx(rho, abs=3.5 * (rho * (1 - rho) / 36_000) ** 0.5)
    conflicting = factors["cue"][factors["cue"] != factors["label"]]
    if rho < 0.5:  # every other class alike
        assert conflicting.bincount(minlength=36).float().sub(len(conflicting) / 36).abs().max() < 150
    assert factors["cue_corner"].bincount().tolist() == pytest.approx([9000] * 4, abs=300)


def test_every_class_has_its_own_patch_in_all_four_corners():
    factors = glyphs.sample(torch.arange(720), 1, glyphs.Look(cue=1.0, noise_sd=0.0))
    images, masks = glyphs.render(factors)
    patches = images[:, 0][masks["cue"]].view(720, 16)
    by_class = [patches[factors["cue"] == label].unique(dim=0) for label in range(36)]
    assert all(len(patch) == 1 for patch in by_class)
    assert len(torch.cat(by_class).unique(dim=0)) == 36
    assert len(masks["cue"].unique(dim=0)) == 4
    rows, columns = (masks["cue"].any(axis).nonzero()[:, 1].unique().tolist() for axis in (2, 1))
    assert rows == columns == [1, 2, 3, 4, 23, 24, 25, 26]


# Maps without a model


@pytest.fixture(scope="module")
def trivial():
    """The trivial maps: name → relevance mass on the glyph, mean over images."""

    def scores(scene):
        _, images, masks = scene
        return {
            name: float(metrics.relevance_mass(maps, masks["object"]).mean())
            for name, maps in metrics.trivial_maps(images).items()
        }

    return scores


def test_in_the_default_look_a_trivial_map_already_finds_the_glyph(default, trivial):
    assert trivial(default)["|x - mean|"] > 0.08


def test_in_the_matched_look_no_trivial_map_finds_the_glyph(matched, trivial):
    assert max(map(abs, trivial(matched).values())) < 0.03


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": torch.tensor([0, 0, 1, 1])}, "all images must have the same seed"),
        ({"label": torch.tensor([0, 1, 2, 36])}, r"label must be in \[0, 35\], got \[0, 1, 2, 36\]"),
    ],
)
def test_wrong_factors_raise_an_error_that_names_them(change, message):
    factors = glyphs.sample(torch.arange(4))
    with pytest.raises(ValueError, match=message):
        glyphs.render(factors | change)


def test_an_unknown_part_is_named():
    with pytest.raises(ValueError, match="unknown part 'glyph': must be one of object, distractor, cue"):
        glyphs.without(glyphs.sample(torch.arange(2)), "glyph")
