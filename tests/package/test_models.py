"""Networks: sizes, safety for DeepLIFT by construction, students cut from teachers, BatchNorm statistics."""

import pytest
import torch
from torch import fx, nn
from torch.testing import assert_close

from distill_utils import _store, models
from distill_utils.training import logits, reestimate_batch_norm

NETWORKS = [("teacher", {}), ("student", {}), ("resnet", {}), ("resnet", {"blocks": 1, "width": 8})]


@pytest.fixture
def trained():
    """A function that builds a plain network whose BatchNorms are as uneven as training leaves them."""

    def make(width=5, dropout=0.0):
        model = models.build("student", 3, 2, width=width, dropout=dropout)
        for norm in _norms(model):
            nn.init.normal_(norm.weight)
            nn.init.uniform_(norm.bias)
        reestimate_batch_norm(model, torch.rand(20, 2, 12, 9))
        return model

    return make


def _norms(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(("name", "options"), NETWORKS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 9, 11)])
def test_a_network_gives_one_row_of_logits_per_image(name, options, shape):
    model = models.build(name, 7, shape[0], **options).eval()
    outputs = model(torch.rand(5, *shape))
    assert outputs.shape == (5, 7)
    assert not torch.allclose(outputs.sum(1), torch.ones(5), atol=1e-2)


@pytest.mark.parametrize(
    ("name", "classes", "channels", "options", "parameters"),
    [
        ("teacher", 36, 1, {}, 139_020),
        ("student", 36, 1, {}, 16_412),
        ("student", 36, 1, {"width": 16}, 62_740),
        ("resnet", 100, 3, {"blocks": 3, "width": 16}, 278_324),  # ResNet-20, published as 0.28 M on CIFAR-100
    ],
)
def test_networks_have_their_number_of_parameters(name, classes, channels, options, parameters):
    model = models.build(name, classes, channels, **options)
    assert sum(values.numel() for values in model.parameters()) == parameters


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_networks_are_safe_for_deeplift(name, options):
    model = models.build(name, 7, 2, **options).eval()
    graph = fx.Tracer().trace(model)
    modules = dict(model.named_modules())
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    activations = [target for target in called if isinstance(modules[target], nn.ReLU)]
    assert sorted(activations) == sorted(name for name, module in modules.items() if isinstance(module, nn.ReLU))
    assert not any(modules[target].inplace for target in activations)
    kinds = {type(modules[target]).__name__ for target in called}
    assert kinds <= {
        "Conv2d", "BatchNorm2d", "ReLU", "AvgPool2d", "AdaptiveAvgPool2d", "Dropout", "Linear", "Identity",
    }  # fmt: skip
    others = {getattr(node.target, "__name__", node.target) for node in graph.nodes if "call_" in node.op}
    assert others - set(called) <= {"add", "flatten"}
    *_, last, _ = graph.nodes
    assert isinstance(modules[last.target], nn.Linear)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.build("techer", 5), "unknown model 'techer': must be one of teacher, student, resnet"),
        (lambda: models.build("resnet", 5, width=7), "a ResNet must have a width of at least 8, got 7"),
        (lambda: models.cut_student(models.build("student", 3), 8), r"width must be an integer in \[1, 7\], got 8"),
    ],
)
def test_a_wrong_argument_raises_an_error_that_names_it(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# A file


@pytest.mark.parametrize(("name", "options"), [("student", {"width": 3}), ("resnet", {"blocks": 1, "width": 8})])
def test_a_saved_network_needs_nothing_but_its_file(name, options, tmp_path):
    model = models.build(name, 3, 2, **options)
    reestimate_batch_norm(model, torch.rand(20, 2, 12, 12))
    path = tmp_path / "model.safetensors"
    models.save(path, model, classes=("cat", "dog $", "猫"), side=12, note="mine")
    random = torch.get_rng_state()
    loaded = models.load(path)
    assert torch.equal(torch.get_rng_state(), random)
    images = torch.rand(4, 2, 12, 12)
    assert not loaded.training
    assert torch.equal(logits(loaded, images), logits(model, images))
    assert (loaded.classes, loaded.side, loaded.channels) == (("cat", "dog $", "猫"), 12, 2)
    assert (loaded.record["note"], loaded.record["mean"], loaded.record["sd"]) == ("mine", [0.0, 0.0], [1.0, 1.0])
    models.save(path, loaded, classes=loaded.classes, side=12)
    cut = models.cut_student(models.build("student", 3, 2, width=5), 4)
    models.save(path, cut, classes=loaded.classes, side=12)
    assert torch.equal(logits(models.load(path), images), logits(cut, images))


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    def save(model, classes="abc", **options):
        models.save(tmp_path / "model", model, **{"classes": classes, "side": 8} | options)

    changed = models.build("student", 3)
    changed.head = nn.Linear(32, 5)
    for arguments, message in (
        ((nn.Linear(3, 3),), "only a network of models.build can be saved, got Linear"),
        ((models.build("student", 3), "ab"), "a name for each of the 3 classes, got 2"),
        ((changed,), "layers have been changed"),
    ):
        with pytest.raises(ValueError, match=message):
            save(*arguments)
    with pytest.raises(ValueError, match="side must be an integer"):
        save(models.build("student", 3), side=0)
    with pytest.raises(ValueError, match="there is no model at"):
        models.load(tmp_path / "model")
    _store.save(tmp_path / "model", {"a": torch.zeros(2)}, {})
    with pytest.raises(_store.DamagedFile, match="is not a model that models.save or the command train has written"):
        models.load(tmp_path / "model")


# A student cut from its teacher's weights


def test_a_cut_keeps_the_channels_with_the_largest_batchnorm_scale(trained):
    teacher = trained(width=4)
    norm, next_conv = teacher.features[1], teacher.features[3]
    norm.weight.data = torch.tensor([0.1, -3.0, 2.0, 0.5])
    student = models.cut_student(teacher, 2)
    assert torch.equal(student.features[1].weight, torch.tensor([-3.0, 2.0]))
    assert torch.equal(student.features[0].weight, teacher.features[0].weight[[1, 2]])
    kept = _norms(teacher)[1].weight.abs().topk(4).indices.sort().values
    assert torch.equal(student.features[3].weight, next_conv.weight[kept][:, [1, 2]])
    assert torch.equal(student.head.bias, teacher.head.bias)


def test_a_cut_of_dead_channels_changes_no_output(trained):
    teacher = trained(width=5)
    for norm in _norms(teacher):
        live = torch.randperm(norm.num_features)[: norm.num_features * 2 // 5]
        dead = torch.ones(norm.num_features, dtype=torch.bool).index_fill(0, live, False)
        norm.weight.data[dead] = 0
        norm.bias.data[dead] = 0
    before, images = _store.checksum(teacher.state_dict()), torch.rand(6, 2, 12, 9)
    student = models.cut_student(teacher, 2, dropout=0.4)
    assert_close(logits(student, images), logits(teacher, images), atol=1e-5, rtol=1e-5)
    assert logits(student, images).std(0).min() > 1e-2
    assert student.dropout.p == 0.4
    student.head.weight.data.zero_()
    assert _store.checksum(teacher.state_dict()) == before


# BatchNorm statistics over all images


def test_statistics_include_the_variance_between_batches():
    model = nn.BatchNorm2d(1)
    reestimate_batch_norm(model, torch.tensor([0.0, 2.0, 4.0, 6.0]).view(4, 1, 1, 1), batch_size=2)
    assert float(model.running_mean) == 3
    assert float(model.running_var) == 5


@pytest.mark.parametrize("batch_size", [1, 4, 500])
def test_afterwards_eval_mode_agrees_with_train_mode_on_all_images_at_once(trained, batch_size):
    model, images = trained(dropout=0.0), torch.rand(9, 2, 12, 16)
    reestimate_batch_norm(model, images, batch_size=batch_size)
    recorded = logits(model, images)
    model.train()
    assert_close(recorded, model(images).detach(), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_statistics_leave_weights_dropout_and_mode_alone(trained, training):
    model, images = trained(dropout=0.5).train(training), torch.rand(9, 2, 12, 16)
    weights = _store.checksum(dict(model.named_parameters()))
    reestimate_batch_norm(model, images)
    once = _store.checksum(model.state_dict())
    assert _store.checksum(dict(model.named_parameters())) == weights
    assert model.training == model.dropout.training == training
    reestimate_batch_norm(model, images)
    assert _store.checksum(model.state_dict()) == once  # no noise of dropout, no memory of before
