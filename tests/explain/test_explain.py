"""Explainers: known answers, completeness, the networks that DeepLIFT must refuse or accept, and bad input."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill_utils import explain, models
from distill_utils.explain import BASELINES, UnsupportedModel, deeplift, integrated_gradients, occlusion
from distill_utils.explain.deeplift_check import check_supported

EXPLAINERS = [deeplift, integrated_gradients, occlusion]


class Net(nn.Module):
    """Two convolutions, `middle`, which is the construct under test, and a linear head."""

    def __init__(self, middle, **parts):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head, self.middle = nn.Linear(6 * 16, 5), middle
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, images):
        features = self.middle(self, self.second(self.first(images)))
        return self.head(F.adaptive_avg_pool2d(features, 4).flatten(1))


class MyReLU(nn.ReLU):
    pass


LOST = r"not complete .* \(median error .* lost (between|after) '{}'.*x\.clone\(\).*integrated_gradients"
# Broken: (middle, its modules, message). Safe: (middle, its modules).
BROKEN = {
    "functional ReLU": (lambda m, x: F.relu(x), {}, r"the model calls relu outside a module .* types: nn\.ReLU"),
    "clamp": (lambda m, x: x.clamp(min=0), {}, r"calls clamp outside a module .* types: nn\.ReLU"),
    "ReLU made in forward": (lambda m, x: nn.ReLU()(x), {}, r"the model calls relu outside a module.* in __init__"),
    "reused ReLU": (lambda m, x: m.a(m.second(m.a(x))), {"a": nn.ReLU()},
                    r"'a' \(ReLU\) is used more than once: give each use its own nn\.ReLU\(\)"),
    "subclass of ReLU": (lambda m, x: m.a(x), {"a": MyReLU()}, r"'a' \(MyReLU\) calls relu .* exactly one of these"),
    "ReLU before max pooling": (lambda m, x: m.p(m.a(x)), {"a": nn.ReLU(), "p": nn.MaxPool2d(2)},
                                r"'p' \(MaxPool2d\) directly follows 'a' \(ReLU\).*AvgPool2d"),
    "an Identity between them": (lambda m, x: m.p(m.i(m.a(x))),
                                 {"a": nn.ReLU(), "i": nn.Identity(), "p": nn.MaxPool2d(2)},
                                 r"'p' \(MaxPool2d\) directly follows 'a' \(ReLU\)"),
    "functional max pooling": (lambda m, x: F.max_pool2d(x, 2), {}, r"calls max_pool2d outside .*nn\.AvgPool2d"),
    "GELU": (lambda m, x: m.a(x), {"a": nn.GELU()}, r"'a' \(GELU\) calls gelu outside .* types: nn\.ReLU"),
    "group norm": (lambda m, x: m.n(x), {"n": nn.GroupNorm(2, 6)}, r"'n' \(GroupNorm\) .* use nn\.BatchNorm2d"),
    "product": (lambda m, x: x * m.a(x.mean((2, 3), keepdim=True)), {"a": nn.Sigmoid()},
                r"the model multiplies or divides two signals \(mul\).*not defined: .*integrated_gradients"),
    "softmax": (lambda m, x: m.a(x), {"a": nn.Softmax(1)}, r"'a' \(Softmax\) calls softmax .* return logits"),
    "reciprocal": (lambda m, x: 1 / (x + 9), {}, r"the model calls rdiv outside"),
    "pooling windows overlap": (lambda m, x: m.p(x), {"p": nn.MaxPool2d(3, 2, 1)}, LOST.format("second")),
    "functional dropout": (lambda m, x: F.dropout(x, 0.1), {}, LOST.format("head")),
    "ReLU beside a shortcut": (lambda m, x: m.a(x) + x, {"a": nn.ReLU()}, LOST.format("a")),
}  # fmt: skip
SAFE = {
    "ReLU, average pooling": (lambda m, x: m.p(m.a(x)), {"a": nn.ReLU(), "p": nn.AvgPool2d(2)}),
    "ReLU in place": (lambda m, x: m.a(x), {"a": nn.ReLU(inplace=True)}),
    "ReLU, clone, max pooling": (lambda m, x: m.p(m.a(x).clone()), {"a": nn.ReLU(), "p": nn.MaxPool2d(2)}),
    "ReLU, BatchNorm, max pooling": (lambda m, x: m.p(m.n(m.a(x))),
                                     {"a": nn.ReLU(), "n": nn.BatchNorm2d(6), "p": nn.MaxPool2d(2)}),
    "residual block": (lambda m, x: m.b(m.second(h := m.a(x)) + h), {"a": nn.ReLU(), "b": nn.ReLU()}),
    "Softplus": (lambda m, x: m.a(x), {"a": nn.Softplus()}),
    "LeakyReLU, dropout": (lambda m, x: m.d(m.a(x)), {"a": nn.LeakyReLU(), "d": nn.Dropout(0.5)}),
    "constants": (lambda m, x: m.a((x - 0.5) / 0.25) * m.gain.exp(),
                  {"a": nn.ReLU(), "gain": nn.Parameter(torch.ones(6, 1, 1))}),
    "linear functions": (lambda m, x: torch.cat([F.pad(m.a(x.clone()), (1, 1)).mean((2, 3), keepdim=True),
                                                 x.sum((2, 3), keepdim=True) / 9], 1)[:, :6], {"a": nn.ReLU()}),
}  # fmt: skip


@pytest.fixture
def images():
    """Twenty images, 20×1×16×16, and classes to explain."""
    return torch.rand(20, 1, 16, 16), torch.arange(20) % 5


@pytest.mark.parametrize("name", BROKEN)
def test_broken_constructs_are_refused_for_the_right_reason(name, images):
    middle, parts, message = BROKEN[name]
    with pytest.raises(UnsupportedModel, match=message):
        deeplift(Net(middle, **parts), *images)


@pytest.mark.parametrize("name", SAFE)
def test_safe_constructs_are_explained_and_add_up(name, images):
    middle, parts = SAFE[name]
    attribution = deeplift(Net(middle, **parts), *images)
    assert attribution.maps.shape == (20, 16, 16)
    assert attribution.residual.median() < 1e-4


@pytest.mark.parametrize("baseline", ["grey", "another image"])
@pytest.mark.parametrize(
    ("name", "channels", "options"),
    [("teacher", 1, {}), ("student", 3, {"width": 4, "dropout": 0.5}), ("resnet", 3, {"blocks": 1})],
)
def test_every_model_of_the_series_is_complete_to_a_ten_thousandth(name, channels, options, baseline):
    model = models.build(name, 10, channels, **options).eval()
    images = torch.rand(8, channels, 28, 28)
    assert deeplift(model, images, torch.arange(8), baseline).residual.median() < 1e-4


def test_a_hidden_nonlinearity_is_located_by_the_completeness_error(images):
    class Cube(torch.autograd.Function):
        """A nonlinearity that cannot be seen from Python."""

        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return torch.from_numpy(x.detach().numpy() ** 3)

        @staticmethod
        def backward(context, gradient):
            return 3 * gradient * context.saved_tensors[0] ** 2

    model = Net(lambda m, x: m.third(Cube.apply(x)), third=nn.Conv2d(6, 6, 1)).eval()
    check_supported(model, images[0])
    with pytest.raises(UnsupportedModel, match="median error .* lost between 'second' and 'third'"):
        deeplift(model, *images)


@pytest.mark.parametrize("count", [1, 20])
def test_a_broken_pool_is_found_although_a_flat_baseline_hides_it(count, images, monkeypatch):
    monkeypatch.setattr(explain, "check_supported", lambda *_: None)  # only the numerical check
    images, classes = images
    layers = nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 49, 5)
    with pytest.raises(UnsupportedModel, match="median error .* against another image"):
        deeplift(nn.Sequential(*layers), images[:count], classes[:count], 0.0)


def test_a_linear_model_has_the_known_map(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 5)).eval()
    weight = model[1].weight - model[1].weight.mean(0)
    images, classes = images
    expected = (weight[classes].view(20, 16, 16) * (images[:, 0] - 0.25)).detach()
    for explainer in (deeplift, integrated_gradients):
        found = explainer(model, images, classes, 0.25)
        torch.testing.assert_close(found.maps, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.change, expected.sum((1, 2)), atol=1e-5, rtol=1e-4)
    pixel = occlusion(model, images, classes, 0.25, size=1)
    torch.testing.assert_close(pixel.maps, expected, atol=1e-5, rtol=1e-4)


def test_deeplift_of_one_relu_follows_the_rescale_rule():
    """score = relu(a + 2b - 1) - mean; from (0, 0) to (1, 1) the unit goes from 0 to 2 while its input goes 3."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 2.0]]))
        model[1].bias.fill_(-1)
        model[3].weight.copy_(torch.tensor([[3.0], [1.0]]))  # centred: ±1 times the unit
    case = model, torch.ones(1, 1, 1, 2), torch.tensor([0]), 0.0
    found = deeplift(*case)
    assert found.maps.flatten().tolist() == pytest.approx([2 / 3, 4 / 3])
    assert found.change.tolist() == pytest.approx([2.0])
    assert integrated_gradients(*case, steps=500).maps.flatten().tolist() == pytest.approx([2 / 3, 4 / 3], rel=0.01)


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_a_shift_of_all_logits_changes_nothing_and_a_factor_scales_the_map(explainer, images):
    class Shifted(nn.Module):
        def __init__(self, factor):
            super().__init__()
            torch.manual_seed(3)
            self.model, self.factor = models.build("student", 5, width=4), factor
            self.shift = nn.Sequential(nn.Flatten(), nn.Linear(256, 1))

        def forward(self, x):
            return self.factor * self.model(x) + (self.factor != 1) * 5 * self.shift(x)

    images, classes = images
    one, other = (explainer(Shifted(factor).double().eval(), images.double(), classes).maps for factor in (1, 3))
    torch.testing.assert_close(other, 3 * one, atol=1e-9 * float(one.abs().max()), rtol=1e-6)


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_an_image_alone_gets_the_map_that_it_gets_among_others(explainer, images):
    model, (images, classes) = models.build("student", 5, width=4).eval(), images
    together, alone = explainer(model, images, classes, "grey"), explainer(model, images[3:4], classes[3:4], "grey")
    torch.testing.assert_close(alone.maps[0], together.maps[3], atol=1e-6, rtol=1e-4)


def test_integrated_gradients_add_up_as_the_steps_grow(images):
    model = models.build("student", 5).eval()
    few, many = (integrated_gradients(model, *images, steps=steps).residual.median() for steps in (2, 64))
    assert many < 0.05 < 10 * few
    assert many < few


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_a_model_is_explained_in_eval_mode_and_left_as_it_was(explainer, images):
    model = models.build("student", 5, width=4, dropout=0.5).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = explainer(model, *images).maps
    assert not expected.requires_grad
    assert torch.equal(explainer(model.train(), *images).maps, expected)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(not module._forward_hooks and not module._backward_hooks for module in model.modules())


def test_baselines_are_flat_or_smooth_or_another_image(images):
    images, _ = images
    assert (BASELINES["grey"](images).var((2, 3)) < 1e-12).all()
    point = torch.zeros(1, 1, 81, 81)
    point[..., 40, 40] = 1
    spread = (BASELINES["blurred"](point)[0, 0].sum(0) * (torch.arange(81) - 40) ** 2).sum().sqrt()
    assert spread == pytest.approx(81 / 8, rel=0.03)
    torch.testing.assert_close(BASELINES["blurred"](torch.full((1, 2, 9, 7), 0.3)), torch.full((1, 2, 9, 7), 0.3))
    assert torch.equal(BASELINES["another image"](images)[0], images[1])


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_bad_input_is_named(explainer, images):
    model, (images, classes) = models.build("student", 5, width=4), images
    broken = images.clone()
    broken[7, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="images contains NaN"):
        explainer(model, broken, classes)
    with pytest.raises(ValueError, match=r"classes must be in \[0, 4\] for 5 logits, got 5 to 5"):
        explainer(model, images, torch.full((20,), 5))
    with pytest.raises(ValueError, match="classes must be an int64 tensor N with N = 20"):
        explainer(model, images, classes[:3])
    with pytest.raises(ValueError, match="baseline must be one of blurred, grey, another image, a number"):
        explainer(model, images, classes, "black")
    with pytest.raises(ValueError, match="needs at least two images"):
        explainer(model, images[:1], classes[:1], "another image")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_or_parallel_network_is_explained_and_a_traced_one_is_named(images):
    model = models.build("student", 5, width=4).eval()
    expected = deeplift(model, *images).maps
    in_place = copy.deepcopy(model)
    in_place.compile()
    for wrapped in (torch.compile(model), in_place, nn.DataParallel(model)):
        torch.testing.assert_close(deeplift(wrapped, *images).maps, expected)
    traced = torch.jit.trace(model, images[0])
    for network, name in ((traced, "the model"), (nn.Sequential(torch.compile(model)), "0")):
        with pytest.raises(UnsupportedModel, match=f"{name} is traced, scripted or compiled"):
            deeplift(network, *images)


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_inference_mode_is_named(explainer, images):
    model = models.build("student", 5, width=4)
    with torch.inference_mode():
        inside = images[0] * 1
        with pytest.raises(ValueError, match=r"torch.inference_mode forbids: explain outside of it"):
            explainer(model, *images)
    with pytest.raises(ValueError, match="pass clones of tensors that were made in it"):
        explainer(model, inside, images[1])
