"""Explainers: known answers, completeness, what DeepLIFT must refuse and what it must not, and bad input."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill_utils import explain, models
from distill_utils.explain import (
    BASELINES,
    UnsupportedModel,
    cam,
    deeplift,
    grad_cam,
    integrated_gradients,
    occlusion,
    with_features,
)

EXPLAINERS = [deeplift, integrated_gradients, occlusion]


class Block(nn.Module):
    """Convolution, something, average, head; `middle` is what a construct of the gallery puts in."""

    def __init__(self, middle, **parts):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head, self.middle = nn.Linear(6 * 16, 5), middle
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, images):
        hidden = self.middle(self, images)
        return self.head(F.adaptive_avg_pool2d(hidden, 4).flatten(1))


class MyReLU(nn.ReLU):
    pass


class Cube(torch.autograd.Function):
    """A bend that nothing written in Python shows."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy() ** 3)

    @staticmethod
    def backward(context, gradient):
        return 3 * gradient * context.saved_tensors[0] ** 2


def two(between, **parts):
    """convolution → between → convolution → between."""
    return Block(lambda m, x: between(m, m.second(between(m, m.first(x)))), **parts)


def hooked():
    model = Block(lambda m, x: m.relu(m.first(x)), relu=nn.ReLU())
    model.relu.register_full_backward_hook(lambda *_: None)
    return model


def one(between, **parts):
    return Block(lambda m, x: between(m, m.second(m.first(x))), **parts)


BROKEN = {
    "functional ReLU": (lambda: two(lambda m, x: F.relu(x)), r"the model calls relu as a function.*nn\.ReLU\(\)"),
    "ReLU as a method": (lambda: two(lambda m, x: x.relu()), r"the model calls relu as a function"),
    "clamp": (lambda: two(lambda m, x: x.clamp(min=0)), r"calls clamp as a function.*nn\.ReLU\(\)"),
    "ReLU made in forward": (lambda: two(lambda m, x: nn.ReLU()(x)), r"an nn\.ReLU is made inside forward of"),
    "reused ReLU": (lambda: two(lambda m, x: m.relu(x), relu=nn.ReLU()),
                    r"'relu' \(ReLU\) is used more than once: give each use its own nn\.ReLU\(\)"),
    "subclass of ReLU": (lambda: one(lambda m, x: m.act(x), act=MyReLU()),
                         r"'act' \(MyReLU\) is a subclass.*nn\.ReLU"),
    "ReLU directly before max pooling": (
        lambda: one(lambda m, x: m.pool(m.relu(x)), relu=nn.ReLU(), pool=nn.MaxPool2d(2)),
        r"'pool' \(MaxPool2d\) directly follows 'relu' \(ReLU\).*AvgPool2d"),
    "max pooling directly before ReLU": (
        lambda: one(lambda m, x: m.relu(m.pool(x)), relu=nn.ReLU(), pool=nn.MaxPool2d(2)),
        r"'relu' \(ReLU\) directly follows 'pool' \(MaxPool2d\)"),
    "an Identity does not part them": (
        lambda: one(lambda m, x: m.pool(m.same(m.relu(x))), relu=nn.ReLU(), same=nn.Identity(), pool=nn.MaxPool2d(2)),
        r"'pool' \(MaxPool2d\) directly follows"),
    "nor does dropout in eval mode": (
        lambda: one(lambda m, x: m.pool(m.drop(m.relu(x))), relu=nn.ReLU(), drop=nn.Dropout(), pool=nn.MaxPool2d(2)),
        r"'pool' \(MaxPool2d\) directly follows"),
    "overlapping max pooling": (lambda: one(lambda m, x: m.pool(x), pool=nn.MaxPool2d(3, 2, 1)),
                                r"'pool' \(MaxPool2d\) has windows that overlap"),
    "functional max pooling": (lambda: one(lambda m, x: F.max_pool2d(x, 2)), r"calls max_pool2d as a function"),
    "adaptive max pooling": (lambda: one(lambda m, x: m.pool(x), pool=nn.AdaptiveMaxPool2d(4)),
                             r"'pool' \(AdaptiveMaxPool2d\) has no DeepLIFT rule"),
    "GELU": (lambda: one(lambda m, x: m.act(x), act=nn.GELU()), r"'act' \(GELU\) has no DeepLIFT rule: use one"),
    "SiLU": (lambda: one(lambda m, x: m.act(x), act=nn.SiLU()), r"'act' \(SiLU\) has no DeepLIFT rule"),
    "PReLU": (lambda: one(lambda m, x: m.act(x), act=nn.PReLU()), r"'act' \(PReLU\) has no DeepLIFT rule"),
    "ReLU6": (lambda: one(lambda m, x: m.act(x), act=nn.ReLU6()), r"'act' \(ReLU6\) has no DeepLIFT rule"),
    "LayerNorm": (lambda: one(lambda m, x: m.norm(x), norm=nn.GroupNorm(2, 6)), r"'norm' \(GroupNorm\) has no"),
    "product of activations": (
        lambda: one(lambda m, x: x * m.gate(x.mean((2, 3), keepdim=True)), gate=nn.Sigmoid()),
        r"the model multiplies or divides two signals \(mul\).*integrated_gradients"),
    "softmax at the end": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 5), nn.Softmax(1)),
                           r"'2' \(Softmax\) computes a softmax: return logits"),
    "functional log-softmax": (lambda: one(lambda m, x: F.log_softmax(x, 1)), r"log_softmax: return logits"),
    "reciprocal": (lambda: one(lambda m, x: 1 / (x + 9)), r"calls rdiv as a function"),
    "functional dropout": (lambda: one(lambda m, x: F.dropout(x, 0.1)), r"drops out at random in eval mode too"),
    "ReLU beside a shortcut": (lambda: one(lambda m, x: m.relu(x) + x, relu=nn.ReLU()),
                               r"'relu' \(ReLU\) shares its input with add in the model"),
    "a backward hook": (hooked, r"'relu' \(ReLU\) has a backward hook"),
    "custom autograd function": (lambda: one(lambda m, x: Cube.apply(x)),
                                 r"does not add up .* median of .*It is lost between 'second' and 'head'"),
}  # fmt: skip

SAFE = {
    "ReLU modules and average pooling": lambda: one(
        lambda m, x: m.pool(m.relu(x)), relu=nn.ReLU(), pool=nn.AvgPool2d(2)
    ),
    "ReLU in place": lambda: one(lambda m, x: m.relu(x), relu=nn.ReLU(inplace=True)),
    "max pooling after a clone": lambda: one(
        lambda m, x: m.pool(m.relu(x).clone()), relu=nn.ReLU(), pool=nn.MaxPool2d(2)
    ),
    "max pooling after BatchNorm": lambda: one(
        lambda m, x: m.pool(m.norm(m.relu(x))), relu=nn.ReLU(), norm=nn.BatchNorm2d(6), pool=nn.MaxPool2d(2)
    ),
    "residual addition": lambda: one(lambda m, x: m.relu(x.clone()) + x, relu=nn.ReLU()),
    "residual block": lambda: Block(lambda m, x: m.b(m.second(h := m.a(m.first(x))) + h), a=nn.ReLU(), b=nn.ReLU()),
    "ELU": lambda: one(lambda m, x: m.act(x), act=nn.ELU()),
    "Sigmoid": lambda: one(lambda m, x: m.act(x), act=nn.Sigmoid()),
    "Tanh": lambda: one(lambda m, x: m.act(x), act=nn.Tanh()),
    "Softplus": lambda: one(lambda m, x: m.act(x), act=nn.Softplus()),
    "a reused convolution": lambda: Block(lambda m, x: m.second(m.relu(m.second(m.first(x)))), relu=nn.ReLU()),
    "LeakyReLU and dropout": lambda: one(lambda m, x: m.drop(m.a(x)), a=nn.LeakyReLU(), drop=nn.Dropout(0.5)),
    "scaling inside the model": lambda: Block(lambda m, x: m.relu(m.first((x - 0.5) / 0.25)) * m.gain.exp(),
                                              relu=nn.ReLU(), gain=nn.Parameter(torch.randn(6, 1, 1))),
    "global average by mean, other ops": lambda: one(
        lambda m, x: torch.cat([F.pad(m.relu(x.clone()), (1, 1)).mean((2, 3), keepdim=True),
                                x.sum((2, 3), keepdim=True) / 9], 1)[:, :6], relu=nn.ReLU(),
    ),
}  # fmt: skip


@pytest.fixture
def images():
    """Twenty images, 20×1×16×16, and classes to explain."""
    return torch.rand(20, 1, 16, 16), torch.arange(20) % 5


@pytest.mark.parametrize("name", BROKEN)
def test_the_gallery_of_broken_constructs_is_refused_for_the_right_reason(name, images):
    make, reason = BROKEN[name]
    with pytest.raises(UnsupportedModel, match=reason):
        deeplift(make().eval(), *images)


@pytest.mark.parametrize("name", SAFE)
def test_safe_constructs_are_explained_and_add_up(name, images):
    attribution = deeplift(SAFE[name]().eval(), *images)
    assert attribution.maps.shape == (20, 16, 16)
    assert attribution.residual.median() < 1e-4


@pytest.mark.parametrize("baseline", [*BASELINES, 0.5])
@pytest.mark.parametrize(
    ("name", "channels", "options"),
    [
        ("teacher", 1, {}),
        ("student", 1, {}),
        ("student", 3, {"width": 4, "dropout": 0.5}),
        ("resnet", 3, {"blocks": 1}),
    ],
)
def test_every_model_of_the_series_is_complete_to_a_ten_thousandth(name, channels, options, baseline):
    model = models.build(name, 10, channels, **options).eval()
    images = torch.rand(8, channels, 28, 28)
    assert deeplift(model, images, torch.arange(8), baseline).residual.median() < 1e-4


def test_what_the_check_cannot_see_the_gate_does_and_says_where(images):
    class Hidden(nn.Module):
        def forward(self, x):
            return Cube.apply(x)

    model = nn.Sequential(nn.Conv2d(1, 4, 3), Hidden(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
                          nn.Linear(4 * 144, 5)).eval()  # fmt: skip
    explain.check_supported(model, images[0])
    with pytest.raises(UnsupportedModel, match="lost between '0' and '1'"):
        deeplift(model, *images)


def test_a_flat_baseline_hides_a_broken_pool_and_another_image_does_not(images, monkeypatch):
    monkeypatch.setattr(explain, "check_supported", lambda *_: None)  # leave it to the numbers
    pool = Block(lambda m, x: m.pool(m.relu(m.first(x))), relu=nn.ReLU(), pool=nn.MaxPool2d(2)).eval()
    pool.first.padding = (0, 0)  # no border: a flat image stays flat
    with pytest.raises(UnsupportedModel, match="against another image"):
        deeplift(pool, *images, 0.0)


def test_a_linear_model_has_the_known_map(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 5)).eval()
    weight = model[1].weight - model[1].weight.mean(0)
    images, classes = images
    expected = (weight[classes].view(20, 16, 16) * (images[:, 0] - 0.25)).detach()
    for explainer in (deeplift, integrated_gradients):
        found = explainer(model, images, classes, 0.25)
        torch.testing.assert_close(found.maps, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.change, expected.sum((1, 2)), atol=1e-5, rtol=1e-4)
    pixel = occlusion(model, images, classes, 0.25, size=1, stride=1)
    torch.testing.assert_close(pixel.maps, expected, atol=1e-5, rtol=1e-4)


def test_deeplift_of_one_relu_is_shared_by_the_rescale_rule():
    """score = relu(a + 2b - 1) - mean; from (0, 0) to (1, 1) the unit goes from 0 to 2 while its input goes 3."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 2.0]]))
        model[1].bias.fill_(-1)
        model[3].weight.copy_(torch.tensor([[3.0], [1.0]]))  # centred: ±1 times the unit
    found = deeplift(model, torch.ones(1, 1, 1, 2), torch.tensor([0]), 0.0)
    assert found.maps.flatten().tolist() == pytest.approx([2 / 3, 4 / 3])
    assert found.change.tolist() == pytest.approx([2.0])
    assert integrated_gradients(model, torch.ones(1, 1, 1, 2), torch.tensor([0]), 0.0, steps=500).maps.flatten(
    ).tolist() == pytest.approx([2 / 3, 4 / 3], rel=0.01)  # fmt: skip


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


def test_the_model_is_left_as_it_was(images):
    model = models.build("student", 5, width=4).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for explainer in EXPLAINERS:
        assert not explainer(model, *images).maps.requires_grad
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(not module._forward_hooks and not module._backward_hooks for module in model.modules())


def test_baselines_are_flat_or_smooth_or_another_image(images):
    images, _ = images
    assert (BASELINES["grey"](images).var((2, 3)) < 1e-12).all()
    smooth = BASELINES["blurred"](images)
    assert (smooth.var((2, 3)) < 0.1 * images.var((2, 3))).all()
    torch.testing.assert_close(BASELINES["blurred"](torch.full((1, 2, 9, 7), 0.3)), torch.full((1, 2, 9, 7), 0.3))
    assert torch.equal(BASELINES["another image"](images)[0], images[1])


# Grad-CAM


def test_grad_cam_of_a_pooled_linear_head_is_the_class_activation_map(images):
    model, (images, classes) = models.build("student", 5, width=4).eval(), images
    features, outputs = with_features(model, images, "features")
    weight = model.head.weight - model.head.weight.mean(0)
    area = features.shape[2] * features.shape[3]
    expected = torch.einsum("nc,nchw->nhw", weight[classes], features) / area
    torch.testing.assert_close(cam(features, outputs, classes), expected, atol=1e-6, rtol=1e-4)
    maps = grad_cam(model, images, classes)
    assert maps.shape == (20, 16, 16)
    assert maps.min() == 0
    assert not maps.requires_grad
    assert grad_cam(model, images, classes, signed=True).min() < 0


def test_a_loss_on_the_map_has_the_gradient_that_differences_give():
    torch.manual_seed(0)
    model = models.build("student", 4, width=2).double().eval()
    images, classes = torch.rand(3, 1, 16, 16, dtype=torch.float64), torch.tensor([0, 1, 2])

    def loss():
        return cam(*with_features(model, images, "features.9"), classes, create_graph=True).square().sum()

    weight = model.features[10 + 1].weight  # above the layer: it acts through the gradient alone
    gradient = torch.autograd.grad(loss(), weight)[0]
    step = torch.zeros_like(weight)
    step[1, 2, 1, 1] = 1e-6
    with torch.no_grad():
        weight += step
        above = float(loss_value(loss))
        weight -= 2 * step
        below = float(loss_value(loss))
    assert float(gradient[1, 2, 1, 1]) == pytest.approx((above - below) / 2e-6, rel=1e-4)


def loss_value(loss):
    with torch.enable_grad():
        return loss().detach()


# Bad input


@pytest.mark.parametrize("explainer", [*EXPLAINERS, grad_cam])
def test_bad_input_is_named(explainer, images):
    model, (images, classes) = models.build("student", 5, width=4).eval(), images
    broken = images.clone()
    broken[7, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="image 7 has a pixel that is not finite"):
        explainer(model, broken, classes)
    with pytest.raises(ValueError, match="classes go from 0 to 4: found"):
        explainer(model, images, torch.full((20,), 5))
    with pytest.raises(ValueError, match="LongTensor with one entry an image"):
        explainer(model, images, classes[:3])
    with pytest.raises(ValueError, match="at least one"):
        explainer(model, images[:0], classes[:0])
    with pytest.raises(ValueError, match="train mode"):
        explainer(model.train(), images, classes)


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_a_baseline_that_does_not_fit_is_named(explainer, images):
    model, (images, classes) = models.build("student", 5, width=4).eval(), images
    for wrong in (torch.zeros(16, 16), torch.zeros(20, 1, 8, 8), torch.zeros(3, 1, 16, 16)):
        with pytest.raises(ValueError, match=r"a baseline must have the images' shape \(20, 1, 16, 16\): found"):
            explainer(model, images, classes, wrong)
    with pytest.raises(ValueError, match="unknown baseline 'black': one of blurred, grey, another image"):
        explainer(model, images, classes, "black")
    with pytest.raises(ValueError, match="there is no other image to compare with"):
        explainer(model, images[:1], classes[:1], "another image")
    with pytest.raises(ValueError, match="the baseline of image 0 has a pixel that is not finite"):
        explainer(model, images, classes, float("nan"))
    same = [explainer(model, images, classes, b).maps for b in (0.3, torch.full((1, 16, 16), 0.3))]
    assert torch.equal(*same)


def test_one_module_in_train_mode_is_named(images):
    model = models.build("student", 5, width=4).eval()
    model.features[1].train()
    with pytest.raises(UnsupportedModel, match=r"'features\.1' \(BatchNorm2d\) is in train mode"):
        deeplift(model, *images)


def test_a_window_that_leaves_gaps_is_refused(images):
    model = models.build("student", 5, width=4).eval()
    with pytest.raises(ValueError, match="a window of 2 at stride 3 does not cover"):
        occlusion(model, *images, size=2, stride=3)
