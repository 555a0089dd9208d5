"""Functions that learners call with numbers of their own, on generated arguments: right ones give what the docstring
promises; of wrong ones (an empty batch, a missing row, NaN, a label too many, a negative temperature) the answer is
still right, or an error says in one sentence what is wrong. make properties draws 1,000 cases per function.
"""

import math
import traceback
import warnings
from pathlib import Path

import pytest
import torch
from generated import WORDS, Draw, an_augmentation, every_class, folder, located, logit_pair, seeds_of, share
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from distill_utils import augment, commands, data, evaluation, hard_tree, stateless_random, stats
from distill_utils.explain import metrics

PACKAGE = Path(data.__file__).parent

# Faults that people make


def placed(draw: Draw, tensor: Tensor, value) -> Tensor:
    found = tensor.clone().contiguous()
    if found.numel():
        found.view(-1)[draw.whole(0, found.numel() - 1)] = value
    return found


def faults(draw: Draw, value) -> list:
    """Broken versions of a value."""
    if isinstance(value, Tensor):
        found = [value[:0], value[1:], torch.cat([value, value[:1]]), value.flatten(), value[None], value.numpy()]
        if value.is_floating_point():
            return [*found, value.long(), *(placed(draw, value, x) for x in (math.nan, math.inf, -math.inf, 1e38))]
        return [*found, placed(draw, value, -2), placed(draw, value, 1000)] if value.dtype == torch.int64 else found
    if isinstance(value, list):
        return [[], value[1:], [*value, 0.5], [*value[1:], math.nan], [math.inf, *value[1:]], [value]]
    if isinstance(value, float):
        return [0.0, -1.0, math.nan, math.inf, 1e300, 10**400]
    if isinstance(value, str):
        return [draw.word()]
    return [0, -1, 0.5] if isinstance(value, int) and not isinstance(value, bool) else []


def spoiled(draw: Draw, arguments: dict) -> dict:
    """The arguments with one of them broken."""
    name = draw.one(*(name for name, value in arguments.items() if faults(draw, value)))
    return arguments | {name: draw.one(*faults(draw, arguments[name]))}


# What is right


def tensors(value) -> list[Tensor]:
    """Every number in a result or among arguments."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, float | int):
        value = torch.tensor(min(max(value, -1e300), 1e300), dtype=torch.float64)
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in tensors(part)]
    return [value.double()] if isinstance(value, Tensor) else []


def moderate(value) -> bool:
    """Finite, and so small that no sum or square overflows: of other numbers a loss may be NaN or inf."""
    return all(bool((tensor.abs() <= 1e15).all()) for tensor in tensors(value))


def between(low: float, high: float = math.inf):
    """Finite, and every number in [low, high], up to rounding, which grows with the arguments."""

    def right(result, given) -> bool:
        if not moderate(given):
            return True
        size = max([1.0, *(float(tensor.abs().max()) for tensor in tensors(given) if tensor.numel())])
        slack = 1e-5 * size**3 if high == math.inf else 1e-4
        return all(bool(((x >= low - slack) & (x <= high + slack)).all()) for x in tensors(result))

    return right


in_unit = between(0, 1)


def classified(d):
    return {"outputs": d.floats("NC"), "labels": d.labels()}


def two_located(d):
    """Maps and two parts that never overlap."""
    maps = d.floats("NHW")
    part = d.masks("NHW")
    return {"maps": maps, "part": part, "other": ~part}


def level(d, name="level"):
    return {name: share(d)}


def a_folder(d) -> str:
    """Images in one folder per class: right ones, with strange names, and a file that is no image."""
    path = folder()
    for name in ("a", "b é"):
        (path / name).mkdir()
        for i in range(d.one(8, 8, 1, 0)):
            Image.new("RGB", (d.whole(1, 40), 9), (i, 2 * i, 99)).save(path / name / f"{i}.png")
    if d.one(False, False, True):
        (path / "a" / "no image.png").write_bytes(b"GIF89a" + bytes(d.whole(0, 20)))
    return f"folder:{path}"


# function -> its arguments, and what a result has to be
CASES = {
    evaluation.score: (classified, between(0)),
    evaluation.compare: (lambda d: {k: logit_pair(d)[k] for k in ("student_logits", "teacher_logits")}, between(0)),
    evaluation.reliability: (classified, in_unit),
    evaluation.confusions: (classified, lambda r, g: int(r.sum()) == len(g["labels"])),
    evaluation.soft_confusions: (lambda d: every_class(d) | {"temperature": d.number(0.1, 100)}, in_unit),
    evaluation.look_alikes: (
        lambda d: {"confusions": d.floats("CC", scales=(1.0, 30.0)).abs() + 0.1, "groups": d.whole(1, d.size("C"))},
        lambda r, g: 0 == int(r.min()) <= int(r.max()) < g["groups"]),
    stats.t_interval: (lambda d: {"values": d.values()} | level(d), lambda r, g: r.low <= r.mean <= r.high),
    stats.paired_interval: (lambda d: seeds_of(d) | level(d), lambda r, g: r.low <= r.mean <= r.high),
    stats.p_value: (seeds_of, in_unit),
    stats.holm: (
        lambda d: {"p_values": d.draw(st.lists(st.floats(0, 1), min_size=1, max_size=6))},
        lambda r, g: all(p <= found <= 1 for p, found in zip(g["p_values"], r, strict=True))),
    stats.equivalent: (lambda d: seeds_of(d) | {"smallest": d.number(1e-3, 1e3)}, lambda r, g: r in (True, False)),
    stats.verdict: (
        lambda d: seeds_of(d) | {"smallest": d.number(1e-3, 1e3), "p": share(d)},
        lambda r, g: r.startswith(("improves", "worsens", "no meaningful", "inconclusive"))),
    stats.proportion_interval: (lambda d: {"share": d.number(0, 1), "count": d.whole(1, 10**5)}, in_unit),
    metrics.relevance_mass: (located, between(-math.inf, 1)),
    metrics.relevance_share: (two_located, between(-1, 1)),
    augment.augment: (
        lambda d: {"images": d.shares("NKHW"), "index": d.longs("N", 2**62), "view": d.whole(0, 10**9),
                   "augmentation": an_augmentation(d)}, in_unit),
    stateless_random.uniform: (
        lambda d: {"seed": d.whole(-(2**70), 2**70), "stream": d.word(), "index": d.longs("N", 2**62)}, in_unit),
    hard_tree.cart: (
        lambda d: {"images": d.shares("ND"), "targets": d.floats("NC").softmax(1), "depth": d.whole(1, 4)},
        lambda r, g: r.get_depth() <= g["depth"]),
    data.load: (lambda d: {"name": d.one("digits", a_folder(d)), "root": folder()}, lambda r, g: len(r.train) > 0),
}  # fmt: skip


def answer(function, arguments):
    """What a function returns, or the error that it raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # as numpy reports a division by zero
            return function(**arguments)
    except Exception as error:
        return error


@pytest.mark.parametrize("function", CASES, ids=lambda function: function.__name__)
@given(source=st.data())
def test_an_answer_is_right_or_an_error_of_one_sentence(function, source):
    make, right = CASES[function]
    draw = Draw(source.draw)
    whole = arguments = make(draw)
    if draw.one(True, True, False):
        arguments = spoiled(draw, whole)
    found = answer(function, arguments)
    if not isinstance(found, Exception):
        assert right(found, arguments), found
        return
    assert arguments is not whole or function is data.load, found  # a folder may hold too few images
    raised_in = Path(traceback.extract_tb(found.__traceback__)[-1].filename)
    assert isinstance(found, ValueError | data.DataError), repr(found)
    assert PACKAGE in raised_in.parents, repr(found)
    assert len(str(found).splitlines()) == 1


# The command line: whatever is typed, the answer is a status and a sentence, never a traceback

NUMBERS = WORDS | st.integers(-3, 300).map(str) | st.floats().map(str) | st.sampled_from(["1e3", "1_000", "9" * 5000])
OPTIONS = ("--width", "--steps", "--batch-size", "--lr", "--views", "--temperature", "--alpha", "--seed", "--out",
           "--dataset", "--model", "--teacher", "--device", "--checkpoint-every")  # fmt: skip


@given(words=st.lists(st.tuples(st.sampled_from(OPTIONS), NUMBERS), max_size=3, unique_by=lambda pair: pair[0]))
def test_whatever_is_typed_behind_train_is_answered_in_a_sentence(words, monkeypatch, tmp_path, capsys):
    from distill_utils.commands import train

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "train", lambda recipe, out, **options: out)  # all arguments were accepted
    line = ["train", "student", "--out", "run", "--dataset", "digits", *(f"{name}={word}" for name, word in words)]
    capsys.readouterr()
    try:
        status = commands.main(line)
    except SystemExit as left:  # how argparse refuses
        status = left.code
    said = capsys.readouterr().err
    assert status in (0, 1, 2)
    assert {0: said == "", 1: said.startswith("error: "), 2: "error: " in said}[status], said
    assert "Traceback" not in said
