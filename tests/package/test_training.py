"""The training loop: whose weights move, what a step sees, and runs that end as if nobody had interrupted them."""

import contextlib
import copy
import functools
import itertools
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from distill_utils import _store, losses, models, recipes, training
from distill_utils.augment import Augmentation
from distill_utils.data import ImageSet
from distill_utils.training import Schedule, TrainingDiverged, fit, logits, one_cycle

AUGMENTATION = Augmentation(rotation=0.2, shift=1.0, contrast=0.3)
SHORT = Schedule(steps=18, batch_size=8, lr=0.01, views=2)  # four steps an epoch, a report at every step
LONG = Schedule(steps=60, batch_size=8, lr=0.01, views=3)  # a report every third step


def alone(model, batch):
    return losses.hard_label_loss(model(batch.images), batch.labels), {}


def weighted(model, batch, weight):
    total, parts = alone(model, batch)
    return weight * total, parts


def soft(model, batch):
    loss = losses.soft_target_loss(model(batch.images), batch.teacher_logits, 3.0)
    return loss, {"soft": loss}


def state(model):
    return _store.checksum(model.state_dict())


def weights(model):
    return torch.cat([values.detach().flatten() for values in model.parameters()])


@pytest.fixture
def train(tiny_set):
    """fit with this module's habits; keyword arguments as for fit."""

    def run(model, loss=alone, schedule=SHORT, images=tiny_set, **options):
        return fit(model, images, loss, schedule, **{"augmentation": AUGMENTATION, "quiet": True} | options)

    return run


# Whose weights move, and in which mode


@pytest.mark.parametrize("training_before", [True, False])
def test_a_teacher_network_does_not_change_and_gets_no_gradient(train, tiny_model, training_before):
    teacher = tiny_model(5).train(training_before)
    before = state(teacher)

    def loss(model, batch):
        assert not teacher.training
        assert not batch.teacher_logits.requires_grad
        return soft(model, batch)

    train(tiny_model(), loss, teacher=teacher)
    assert state(teacher) == before
    assert teacher.training == training_before
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_teachers_mode_is_restored_after_a_failure_too(train, tiny_model):
    teacher = tiny_model(5).train()

    def loss(model, batch):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train(tiny_model(), loss, teacher=teacher)
    assert teacher.training


def test_a_loss_that_leaks_gradient_into_the_teacher_still_moves_the_student_alone(train, tiny_model):
    teacher, student = tiny_model(5), tiny_model()
    before = state(teacher), state(student)
    train(student, lambda model, batch: ((model(batch.images) - teacher(batch.images)).square().mean(), {}),
          teacher=teacher)  # fmt: skip
    assert state(teacher) == before[0]
    assert state(student) != before[1]


def test_the_student_is_in_train_mode_at_every_step_and_in_eval_mode_afterwards(train, tiny_model, tiny_set):
    modes = []

    def loss(model, batch):
        modes.extend(module.training for module in model.modules())
        return alone(model, batch)

    model = tiny_model().eval()
    train(model, loss, validation=tiny_set)
    assert len(modes) == 18 * 7
    assert all(modes)
    assert not any(module.training for module in model.modules())


def test_a_batchnorm_that_the_caller_froze_stays_frozen(train, tiny_model, tiny_set):
    model = tiny_model().train()
    model[1].eval()
    before, modes = model[1].running_mean.clone(), []

    def loss(model, batch):
        modes.append((model[1].training, model[4].training))
        return alone(model, batch)

    train(model, loss, validation=tiny_set)
    assert set(modes) == {(False, True)}
    assert torch.equal(model[1].running_mean, before)


def test_every_parameter_of_the_student_is_trained(train, tiny_model):
    model = tiny_model()
    before = {name: values.clone() for name, values in model.named_parameters()}
    train(model, lambda model, batch: (sum(values.sum() for values in model.parameters()), {}))
    assert all((values < before[name]).all() for name, values in model.named_parameters())


# What a step sees


def seen(train, model, **options):
    """Of every step, what a loss was given: (index, images, labels, done)."""
    steps = []

    def loss(model, batch):
        steps.append((batch.index.tolist(), batch.images.clone(), batch.labels, batch.progress))
        return alone(model, batch)

    train(model, loss, **options)
    return steps


def test_two_methods_of_one_seed_see_the_same_batches(train, tiny_model):
    first = seen(train, tiny_model(dropout=0.0))
    second = seen(train, tiny_model(9, dropout=0.5), teacher=tiny_model(3))
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True))
    assert [step[0] for step in seen(train, tiny_model(), seed=1)] != [step[0] for step in first]


def test_an_epoch_shows_every_image_at_most_once_with_its_own_label_and_view(train, tiny_model, tiny_set):
    steps = seen(train, tiny_model())
    for epoch, batches in enumerate(steps[k : k + 4] for k in range(0, 18, 4)):
        index = torch.tensor([i for batch in batches for i in batch[0]])
        assert len(index.unique()) == len(index)
        everyone = training.augment(tiny_set.images, torch.arange(37), epoch % 2, AUGMENTATION)
        for batch in batches:
            assert torch.equal(batch[1], everyone[batch[0]])
            assert torch.equal(batch[2], tiny_set.labels[batch[0]])
    assert [step[3] for step in steps] == [k / 18 for k in range(18)]
    assert steps[0][0] != steps[4][0]


def test_without_views_images_are_seen_as_they_are(train, tiny_model, tiny_set):
    for index, images, *_ in seen(train, tiny_model(), schedule=Schedule(steps=4, batch_size=50)):
        assert sorted(index) == list(range(37))  # a set smaller than a batch is one batch
        assert torch.equal(images, tiny_set.images[index])


def test_the_callers_random_state_is_given_back(train, tiny_model):
    model, before = tiny_model(), torch.get_rng_state()
    train(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_callers_random_state_decides_nothing(train, tiny_model):
    states = []
    for caller in (1, 2):
        model = tiny_model()
        torch.manual_seed(caller)
        train(model)
        states.append(state(model))
    assert states[0] == states[1]


def test_a_cached_teacher_gives_the_same_student_as_an_online_one(train, tiny_model, tiny_set):
    """Up to the rounding of half precision; a cache whose rows or views are misplaced gives another student."""
    teacher, schedule = tiny_model(5).eval(), Schedule(steps=40, batch_size=8, lr=0.003, views=3)
    cache = recipes.record(teacher, tiny_set.images, views=3, augmentation=AUGMENTATION, quiet=True)

    def student(teacher):
        model = tiny_model()
        train(model, soft, schedule, teacher=teacher)
        return weights(model)

    online = student(teacher)
    moved = (online - weights(tiny_model())).norm()
    assert (student(cache) - online).norm() < 0.01 * moved
    assert (student(torch.stack(cache)) - online).norm() < 0.01 * moved
    for misplaced in (cache[1:] + cache[:1], [view.roll(1, 0) for view in cache]):
        assert (student(misplaced) - online).norm() > 0.05 * moved


# Interrupted runs


class Interrupted(Exception):
    pass


def interrupted_at(moments):
    """A loss that raises at these steps, once each, in the midst of a step."""
    moments = set(moments)

    def loss(model, batch):
        step = round(batch.progress * LONG.steps)
        total, parts = alone(model, batch)
        if step in moments:
            moments.remove(step)
            raise Interrupted
        return total, parts

    return loss


@pytest.mark.parametrize(("draw", "every"), [(0, None), (1, None), (2, 4), (3, 1)])  # a report comes every third step
def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(
    draw, every, train, tiny_model, tiny_set, tmp_path
):
    whole = tiny_model()
    history = train(whole, schedule=LONG, seed=4, validation=tiny_set)
    moments = random.Random(draw).sample(range(60), 5)
    loss, runs, path = interrupted_at(moments), 0, tmp_path / "checkpoint"
    resumed = None
    while resumed is None:
        model, runs = tiny_model(seed=7 if path.exists() else 0), runs + 1  # a checkpoint holds all that matters
        with contextlib.suppress(Interrupted):
            resumed = train(model, loss, LONG, seed=4, validation=tiny_set, checkpoint=path, checkpoint_every=every)
    assert runs == 6
    assert resumed == history
    assert state(model) == state(whole)


def test_a_finished_run_is_not_trained_again(train, tiny_model, tmp_path):
    model, again = tiny_model(), tiny_model(1)
    history = train(model, checkpoint=tmp_path / "checkpoint")

    @functools.wraps(alone)
    def refuse(*_):
        pytest.fail("asked for a step")

    assert train(again, refuse, checkpoint=tmp_path / "checkpoint") == history
    assert state(again) == state(model)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"schedule": Schedule(steps=18, batch_size=8, lr=0.02, views=2)}, "schedule.lr is 0.01, not 0.02"),
        ({"seed": 1}, "seed is 0, not 1"),
        ({"images": slice(30)}, "images.count is 37, not 30; images.pixels is .*"),
        ({"images": torch.arange(36, -1, -1)}, r"images.pixels is \w+, not \w+; images.labels is .*"),
        ({"augmentation": replace(AUGMENTATION, shift=2.0)}, "augmentation.shift is 1.0, not 2.0"),
        ({"loss": functools.partial(weighted, weight=3.0)}, "loss.options.weight is 2.0, not 3.0"),
        ({"loss": alone}, "loss.name is weighted, not alone; loss.code is .*"),
        ({"teacher": 1}, r"teacher is \w+, not \w+"),
        ({"teacher": [torch.zeros(37, 3)] * 2}, r"teacher is \w+, not \w+"),
        ({"teacher": None}, r"teacher is \w+, not None"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(change, difference, train, tiny_model, tiny_set, tmp_path):
    path, loss = tmp_path / "checkpoint", functools.partial(weighted, weight=2.0)
    history = train(tiny_model(), loss, teacher=tiny_model(7), checkpoint=path)
    assert train(tiny_model(1), loss, teacher=tiny_model(7), checkpoint=path) == history
    if "images" in change:
        change = {"images": tiny_set.subset(change["images"])}
    if change.get("teacher") == 1:
        change = {"teacher": tiny_model(8)}
    with pytest.raises(_store.DamagedFile, match=f"{path} is the checkpoint of another run [(]{difference}[)]"):
        train(tiny_model(), checkpoint=path, **{"loss": loss, "teacher": tiny_model(7)} | change)


def test_a_number_that_a_loss_refers_to_is_part_of_it(train, tiny_model, tmp_path):
    def halved(weight):
        return lambda model, batch: (weight * alone(model, batch)[0], {})

    train(tiny_model(), halved(0.5), checkpoint=tmp_path / "checkpoint")
    with pytest.raises(_store.DamagedFile, match=r"[(]loss.options.weight is 0.5, not 0.25[)]"):
        train(tiny_model(), halved(0.25), checkpoint=tmp_path / "checkpoint")


def test_a_damaged_checkpoint_is_named(train, tiny_model, tmp_path):
    path = tmp_path / "checkpoint"
    train(tiny_model(), checkpoint=path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(_store.DamagedFile, match=f"{path} is damaged"):
        train(tiny_model(), checkpoint=path)


def train_with_checkpoint(folder: str) -> str:
    """What the killed processes below run: a print per step, a checkpoint every third step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = ImageSet(torch.rand(37, 2, 8, 9), torch.arange(37) % 3)
    model = models.build("student", 3, 2, width=3, dropout=0.4)

    def loss(model, batch):
        print(f"step {round(batch.progress * LONG.steps)}", flush=True)
        return alone(model, batch)

    fit(model, images, loss, LONG, augmentation=AUGMENTATION, checkpoint=Path(folder) / "checkpoint", quiet=True)
    return state(model)


def test_a_killed_process_goes_on_to_bit_identical_weights(start_python, tmp_path, capsys):
    (tmp_path / "whole").mkdir()
    whole = train_with_checkpoint(tmp_path / "whole")
    first = 0
    for kill_after in (7, 20):
        code = f"import test_training; test_training.train_with_checkpoint({str(tmp_path)!r})"
        process = start_python("-c", code)
        lines = [process.stdout.readline() for _ in range(kill_after)]
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert lines[0] == f"step {first}\n"
        first = _store.load(tmp_path / "checkpoint")[1]["step"]
        assert first > 0
    capsys.readouterr()
    assert train_with_checkpoint(tmp_path) == whole
    assert capsys.readouterr().out.startswith(f"step {first}\n")


# Half the width


def test_bf16_is_used_inside_the_model_and_nowhere_else(train, tiny_model, tiny_set):
    model, exact, seen = tiny_model(dropout=0.0), tiny_model(dropout=0.0), []
    hook = model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))

    def loss(model, batch):
        seen.append(model(batch.images).dtype)
        return alone(model, batch)

    history = train(model, loss, replace(SHORT, bf16=True))
    model(tiny_set.images)
    assert seen.pop() == torch.float32  # and not afterwards
    hook.remove()
    assert seen[:2] == [torch.bfloat16, torch.float32]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert logits(model, tiny_set.images).dtype == torch.float32
    expected = train(exact)
    assert history["loss"] != expected["loss"]
    assert history["loss"] == pytest.approx(expected["loss"], abs=0.05)


# A loss that is no number


def test_a_checkpoint_between_two_reports_never_holds_a_ruined_state(train, tiny_model, tmp_path):
    path = tmp_path / "checkpoint"

    def loss(model, batch):
        total, parts = alone(model, batch)
        return total * (float("nan") if round(batch.progress * 60) == 31 else 1), parts

    with pytest.raises(TrainingDiverged, match=f"kept at {path}"):
        train(tiny_model(), loss, LONG, checkpoint=path, checkpoint_every=1)  # reports come after steps 30 and 33
    tensors, record = _store.load(path)
    assert record["step"] == 31
    assert all(values.isfinite().all() for name, values in tensors.items() if name.startswith("model."))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_run_says_where_and_keeps_the_last_good_checkpoint(bad, train, tiny_model, tmp_path):
    path = tmp_path / "checkpoint"

    def loss(model, batch):
        total, _ = alone(model, batch)
        return total, {"part": total * (bad if round(batch.progress * 60) == 31 else 1)}

    with pytest.raises(TrainingDiverged) as caught:
        train(tiny_model(), loss, LONG, checkpoint=path)
    message = str(caught.value)
    assert "between steps 31 and 33" in message
    assert f"part = {bad:g}" in message
    assert "lower learning rate than 0.01" in message
    assert f"kept at {path}" in message
    assert _store.load(path)[1]["step"] == 30
    assert all(values.isfinite().all() for values in _store.load(path)[0].values())


@pytest.mark.parametrize("step", [32, 59])
def test_a_step_that_ruins_the_weights_is_noticed_at_its_report(step, train, tiny_model, tmp_path):
    def loss(model, batch):
        total, _ = alone(model, batch)
        if round(batch.progress * 60) == step:  # finite, but its gradient is not
            total = total + (0 * total).sqrt()
        return total, {}

    path = tmp_path / "checkpoint"
    with pytest.raises(TrainingDiverged):
        train(tiny_model(), loss, LONG, checkpoint=path)
    assert all(values.isfinite().all() for values in _store.load(path)[0].values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 2.5}, r"steps must be an integer in \[0, inf\), got 2.5"),
        ({"steps": -1}, "steps must be"), ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": -1}, "batch_size must be"), ({"views": 1.0}, "views must be"),
        ({"lr": float("nan")}, "lr must be"), ({"weight_decay": None}, "weight_decay must be"),
    ],
)  # fmt: skip
def test_a_schedule_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**options)


def test_a_batch_of_one_image_is_refused_where_batchnorm_would_estimate_from_it(train, tiny_model):
    one = Schedule(steps=2, batch_size=1)
    with pytest.raises(ValueError, match="a batch of one image has no spread that BatchNorm could estimate"):
        train(tiny_model(), schedule=one)
    frozen = tiny_model().train()
    frozen[1].eval()
    train(frozen, schedule=one)


def test_a_network_in_half_precision_is_not_trained(train, tiny_model):
    with pytest.raises(
        ValueError, match=r"half precision cannot be trained: call float\(\) on it, and use Schedule\(bf16=True\)"
    ):
        train(tiny_model().half())


@pytest.mark.parametrize("answer", [lambda z: (z, None), lambda z: {"logits": z}])
def test_a_student_that_returns_no_tensor_is_refused_before_a_step(answer, train):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(40, 3)

        def forward(self, images):
            return answer(self.head(images.flatten(1)))

    with pytest.raises(ValueError, match="must return logits as a tensor, got (tuple|dict): wrap it in a module"):
        train(Other())


def test_a_checkpoint_at_every_no_step_is_refused(train, tiny_model, tmp_path):
    with pytest.raises(ValueError, match="checkpoint_every must be an integer"):
        train(tiny_model(), checkpoint=tmp_path / "checkpoint", checkpoint_every=0)


@pytest.mark.parametrize("ask", [logits, training.reestimate_batch_norm])
@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_a_batch_of_no_images_is_refused(ask, batch_size, tiny_model, tiny_set):
    with pytest.raises(ValueError, match="batch_size must be an integer"):
        ask(tiny_model(), tiny_set.images, batch_size=batch_size)


def test_a_teacher_may_answer_in_half_precision_and_in_a_dict(train, tiny_model, tiny_set):
    teacher, expected, got = tiny_model(5).eval(), [], []

    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = copy.deepcopy(teacher).to(torch.bfloat16)

        def forward(self, images):
            return {"logits": self.network(images)}

    for asked, seen in ((teacher, expected), (Other(), got)):
        train(tiny_model(), lambda m, b, seen=seen: (seen.append(b.teacher_logits), soft(m, b))[1], teacher=asked)
    assert got[0].dtype == torch.float32
    torch.testing.assert_close(got[0], expected[0], atol=0.05, rtol=0.05)


def test_an_empty_set_is_refused(train, tiny_model, tiny_set):
    with pytest.raises(ValueError, match="cannot train on an empty image set"):
        train(tiny_model(), images=tiny_set.subset(slice(0, 0)))


# Learning


def test_the_learning_rate_warms_up_peaks_and_ends_at_zero():
    rates = [one_cycle(k / 1000) for k in range(1001)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[200] == max(rates) == 1
    assert rates[1000] == pytest.approx(0, abs=1e-12)
    assert rates[600] == pytest.approx(0.5)
    assert rates[:201] == sorted(rates[:201])
    assert rates[200:] == sorted(rates[200:], reverse=True)
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 0.01


def test_fit_learns_what_can_be_learned_and_reports_it(train, tiny_model, tiny_set):
    model = tiny_model()
    history = train(model, schedule=Schedule(steps=130, batch_size=8, lr=0.01), validation=tiny_set)
    assert history["step"] == [*range(7, 130, 7), 130]
    assert history["loss"][-1] < 0.2 < history["loss"][0]
    assert history["validation_accuracy"][-1] > 0.95
    assert (training.logits(model, tiny_set.images).argmax(1) == tiny_set.labels).float().mean() > 0.95


def test_reports_are_means_over_the_steps_since_the_last_one(train, tiny_model):
    values = iter(range(25))
    history = train(tiny_model(), lambda model, batch: (0 * model(batch.images).sum() + next(values), {}),
                    Schedule(steps=25, batch_size=8))  # fmt: skip
    assert history["step"] == [*range(2, 25, 2), 25]
    assert history["loss"] == [k + 0.5 for k in range(0, 24, 2)] + [24.0]


def test_logits_do_not_depend_on_the_batch_size_and_leave_the_mode_alone(tiny_model, tiny_set):
    for mode in (True, False):
        model = tiny_model().train(mode)
        few, many = (training.logits(model, tiny_set.images, batch_size=size) for size in (5, 500))
        assert model.training == mode
        assert not few.requires_grad
        torch.testing.assert_close(few, many, atol=1e-6, rtol=0)


def test_a_network_is_trained_inside_no_grad_too(train, tiny_model):
    free, inside = tiny_model(), tiny_model()
    train(free)
    with torch.no_grad():
        train(inside)
    assert all(torch.equal(a, b) for a, b in zip(free.parameters(), inside.parameters(), strict=True))
