"""python -m distill_utils train: one model by one command, the same however often it is killed or shared out."""

import os
import random
import shutil
import signal
import sys
import weakref
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
from torch import nn

from distill_utils import __main__, _store, data, evaluation, models, training
from distill_utils.augment import DIGITS
from distill_utils.commands import train
from distill_utils.recipes import Recipe
from distill_utils.training import Schedule

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
STUDENT = ("-m", "distill_utils", "train", "student", "--dataset", "digits", "--width", "4", "--views", "3",
           "--device", "cpu")  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILL_RUNS", str(folder / "runs"))
        command = ["train", "teacher", "--dataset", "digits", "--steps", "5", "--out", str(folder / "teacher")]
        assert __main__.main([*command, "--device", "cpu", "--width", "6"]) == 0
    return folder / "teacher" / "model.safetensors"


def weights(path):
    return _store.checksum(train.load(path).model.state_dict())


def finish(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def aloud(*arguments):
    """The command, printing the number of each step as it begins."""
    begin = training._batch

    def batch(images, labels, step, *rest):
        print(step, flush=True)
        return begin(images, labels, step, *rest)

    training._batch = batch
    sys.exit(__main__.main(list(arguments)))


def test_killed_at_random_moments_it_ends_in_the_very_same_weights(teacher, start_python, tmp_path):
    arguments = (*STUDENT[2:], "--teacher", str(teacher), "--steps", "400", "--checkpoint-every", "7")
    finish(start_python(*STUDENT[:2], *arguments, "--out", tmp_path / "whole"))
    moments, killed = random.Random(5), tmp_path / "killed"
    for _ in range(6):
        code = f"import test_train; test_train.aloud(*{(*arguments, '--out', str(killed))})"
        process = start_python("-c", code)
        for _ in range(moments.randint(1, 60)):
            assert process.stdout.readline(), process.stderr.read()
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert 0 < _store.load(killed / "checkpoint.safetensors")[1]["step"] < 400
    finish(start_python(*STUDENT[:2], *arguments, "--out", killed))
    assert weights(killed / "model.safetensors") == weights(tmp_path / "whole" / "model.safetensors")
    assert sorted(path.name for path in killed.iterdir()) == ["model.safetensors", "recipe.json"]


def test_torchrun_recovers_a_killed_worker(teacher, start_python, tmp_path):
    arguments = (*STUDENT, "--teacher", teacher, "--steps", "600", "--checkpoint-every", "5")
    finish(start_python(*TORCHRUN, *arguments, "--out", tmp_path / "whole"))
    process = start_python(*TORCHRUN, "--max-restarts", "2", *arguments, "--out", tmp_path / "killed")
    for line in process.stderr:
        if "training the student" in line and " 0/" not in line:
            break
    (worker,) = (child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1")
    worker.kill()
    finish(process)
    assert weights(tmp_path / "killed" / "model.safetensors") == weights(tmp_path / "whole" / "model.safetensors")


def without_statistics(folder: str) -> None:
    """What one process and two do alike: a network without BatchNorm, images augmented, a recorded teacher."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = data.load("digits").train
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    recorded = [torch.randn(len(images), 10).half() for _ in range(3)]
    processes = int(os.environ.get("WORLD_SIZE", 1))

    def loss(model, batch):
        assert len(batch.index) == 64 // processes  # no image is counted twice
        return (model(batch.images) - batch.teacher_logits).square().mean(), {}

    with train.joined("cpu", processes):
        group = weakref.ref(dist.group.WORLD) if processes > 1 else lambda: None
        history = training.fit(
            model, images, loss, Schedule(steps=60, batch_size=64, views=3), augmentation=DIGITS, teacher=recorded,
            quiet=True,
        )  # fmt: skip
    assert group() is None  # or its threads could abort Python as it ends
    if int(os.environ.get("RANK", 0)) == 0:
        _store.save(Path(folder) / "model.safetensors", model.state_dict(), history)


def test_two_processes_train_the_model_of_one(start_python, tmp_path):
    for name, launcher in (("one", ()), ("two", TORCHRUN)):
        finish(start_python(*launcher, "-m", "test_train", tmp_path / name))
    (one, history), (two, shared) = (_store.load(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=0)
    assert shared["loss"] == pytest.approx(history["loss"], abs=1e-5)
    assert history["loss"][-1] < history["loss"][0]


# What cannot be done is said before anything is trained


def refused(arguments, capsys):
    assert __main__.main(["train", "student", "--dataset", "digits", "--device", "cpu", *map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    message = err.split("\r")[-1].strip(" ")  # progress bars before it
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_a_batch_that_cannot_be_shared_is_told_at_once(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "3")
    message = refused(["--out", tmp_path / "out", "--batch-size", "100"], capsys)
    assert "a batch of 100 images cannot be shared evenly by 3 processes" in message
    assert not (tmp_path / "out").exists()


def test_a_folder_with_another_run_is_refused_with_the_difference(teacher, capsys, tmp_path):
    arguments = ["--out", tmp_path, "--teacher", teacher, "--steps", "3"]
    assert __main__.main(["train", "student", "--dataset", "digits", "--device", "cpu", *map(str, arguments)]) == 0
    before = (tmp_path / "model.safetensors").read_bytes()
    capsys.readouterr()
    message = refused([*arguments, "--temperature", "2"], capsys)
    assert "holds another run (recipe.method_options.temperature is 8.0, not 2.0)" in message
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_finished_run_is_not_done_again_and_says_how_good_it_is(tmp_path, capsys):
    recipe = Recipe(dataset="digits", schedule=Schedule(steps=3))
    path = train.train(recipe, tmp_path, device="cpu")
    first, out = path.stat().st_mtime_ns, capsys.readouterr().out
    assert train.train(recipe, tmp_path, device="cpu") == path
    assert path.stat().st_mtime_ns == first
    assert capsys.readouterr().out == out
    test = data.load("digits").test
    accuracy = 100 * evaluation.evaluate(models.load(path), test)["accuracy"]
    assert f"test accuracy {accuracy:.1f} %\nthe model is in {path}; try python -m distill_utils evaluate" in out


def test_a_student_of_labels_alone_needs_no_teacher(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    command = ["train", "student", "--dataset", "digits", "--steps", "2", "--device", "cpu", "--width", "4"]
    assert __main__.main([*command, "--alpha", "0", "--out", str(tmp_path / "alone")]) == 0
    assert "teacher" not in capsys.readouterr().err
    assert train.load(tmp_path / "alone" / "model.safetensors").recipe.teacher is None


def test_a_teacher_with_other_classes_is_refused_before_a_folder_is_claimed(capsys, tmp_path):
    other = tmp_path / "teacher.safetensors"
    record = {"recipe": asdict(Recipe(dataset="digits")), "history": {}}
    models.save(other, models.build("student", 10), classes="1023456789", side=8, **record)
    message = refused(["--out", tmp_path / "out", "--teacher", other], capsys)
    assert "class 0 is '1' there and '0' here" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", ["cut short", "of something else", "absent"])
def test_a_teacher_that_is_none_is_named(fault, teacher, capsys, tmp_path):
    path = tmp_path / "teacher.safetensors"
    if fault == "cut short":
        path.write_bytes(teacher.read_bytes()[:-9])
    elif fault == "of something else":
        _store.save(path, {"a": torch.zeros(2)}, {})
    assert str(path) in refused(["--out", tmp_path / "out", "--teacher", path], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", ["cut short", "foreign"])
def test_a_checkpoint_that_is_none_of_this_run_is_refused_and_kept(fault, teacher, capsys, tmp_path):
    arguments = ["--out", tmp_path, "--teacher", teacher, "--steps", "3"]
    path = tmp_path / "checkpoint.safetensors"
    if fault == "cut short":
        path.write_bytes(teacher.read_bytes()[:-9])
    else:
        shutil.copy(teacher, path)
    before = path.read_bytes()
    assert str(path) in refused(arguments, capsys)
    assert path.read_bytes() == before


def test_where_nothing_can_be_compiled_it_says_so_in_a_line_and_goes_on(teacher, start_python, tmp_path):
    process = start_python(
        *STUDENT, "--teacher", teacher, "--steps", "3", "--compile", "--out", tmp_path / "out",
        CXX="no-such-compiler", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"),
    )  # fmt: skip
    out = finish(process)
    assert out.startswith("torch.compile does not work here (")
    assert out.count("\n") == 3
    assert train.load(tmp_path / "out" / "model.safetensors")


if __name__ == "__main__":
    without_statistics(sys.argv[1])
