"""Checks: they print no number, fail outside their band, and keep every measured value."""

import json
import math

import numpy as np
import pytest
import torch

from distill_utils import checks, settings
from distill_utils.checks import CheckFailed, check


@pytest.fixture(autouse=True)
def notebook(monkeypatch):
    monkeypatch.setattr(checks, "_notebook", "02_distill")


def rows(notebook="02_distill"):
    files = sorted((settings.build_folder() / "checks").glob(f"{notebook}.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("value", "band"),
    [
        (5.0, {"low": 5}),
        (5, {"high": 5}),
        (torch.tensor(0.25), {"low": 0.2}),
        (True, {}),
        (np.float64(7), {"low": 6, "high": 8}),
        (np.ones(2).max() == 1, {}),
        ((torch.ones(2) > 0).all(), {}),
    ],
)
def test_a_passing_check_prints_its_name_and_no_number(value, band, capsys):
    check("the student beats θ₁", value, **band)
    assert capsys.readouterr().out == "PASS the student beats θ₁\n"
    assert rows() == [{
        "notebook": "02_distill", "name": "the student beats θ₁", "dataset": "glyphs", "value": float(value),
        "low": band.get("low"), "high": band.get("high"), "null": None, "passed": True,
    }]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "band", "message"),
    [
        (4.9, {"low": 5}, "gain: measured 4.9, expected ≥ 5"),
        (5.1, {"high": 5}, "gain: measured 5.1, expected ≤ 5"),
        (0.5, {"low": 0.1, "high": 0.2}, "gain: measured 0.5, expected 0.1 … 0.2"),
        (math.nan, {"low": 0}, "gain: measured nan, expected ≥ 0"),
        (False, {}, "gain: measured False, expected true"),
        (1.0, {}, "gain: measured 1.0, expected true"),  # a number without a band is no claim
    ],
)
def test_a_failing_check_raises_with_value_and_band_and_is_recorded(value, band, message, capsys):
    with pytest.raises(CheckFailed) as caught:
        check("gain", value, **band)
    assert str(caught.value) == message
    assert "PASS" not in capsys.readouterr().out
    (row,) = rows()
    assert row["passed"] is False
    assert row["value"] == float(value) or math.isnan(value)


def test_a_band_may_depend_on_the_dataset(monkeypatch, capsys):
    low = {"glyphs": 5, "digits": 1}
    with pytest.raises(CheckFailed, match="measured 2, expected 5 … 9"):
        check("gain", 2, low=low, high=9)
    monkeypatch.setenv("DISTILL_DATASET", "digits")
    check("gain", 2, low=low, high={"digits": 9})
    monkeypatch.setenv("DISTILL_DATASET", "folder:mine")
    check("gain", 2, low=low)
    check("gain", -3, low=low, high={"glyphs": 9})
    assert capsys.readouterr().out == "PASS gain\n" + "NO BAND for folder:mine?side=32: gain\n" * 2
    assert [row["passed"] for row in rows()] == [False, True, None, None]
    assert [row["dataset"] for row in rows()] == ["glyphs", "digits", "folder:mine?side=32", "folder:mine?side=32"]


def test_begin_removes_the_earlier_checks_of_that_notebook_alone():
    for notebook in ("01_train", "02_distill"):
        checks.begin(notebook)
        check("gain", 1, low=0)
    checks.begin("01_train")
    check("loss", 2, low=0)
    assert [(row["notebook"], row["name"]) for row in rows("*")] == [("01_train", "loss"), ("02_distill", "gain")]


def test_the_table_shows_every_check_with_value_and_band():
    check("gain", 5.25, low=5)
    check("disjoint", True)
    with pytest.raises(CheckFailed):
        check("loss", 3.0, high=2)
    check("other", 1, low={"digits": 1})
    lines = checks.table().splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["PASS", "PASS", "FAIL", "none"]
    assert lines[1].split() == ["PASS", "02_distill", "5.25", "≥", "5", "gain"]
    assert lines[3].split() == ["FAIL", "02_distill", "3", "≤", "2", "loss"]


def test_claims_say_what_each_claim_of_this_notebook_came_to():
    check("gain", 5.25, low=5)
    check("loss", 0.12345, high=2)
    check("rows", 8, 8, 8)
    check("share", 0.5, 0.1, 0.9)
    check("disjoint", True)
    check("other", 1, low={"digits": 1})
    assert [tuple(row.values()) for row in checks.claims()] == [
        ("gain", "5.25", "≥ 5"), ("loss", "0.123", "≤ 2"), ("rows", "8", "= 8"), ("share", "0.5", "0.1 … 0.9"),
        ("disjoint", "yes", "yes"), ("other", "1", "no band here"),
    ]  # fmt: skip


def test_a_damaged_file_is_named_and_begin_replaces_it():
    path = settings.build_folder() / "checks" / "02_distill.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"notebook": "02_dis', "utf-8")
    with pytest.raises(ValueError, match=rf"^{path} is damaged \(.*\): delete it and run again$"):
        checks.table()
    checks.begin("02_distill")
    check("gain", 1, low=0)
    assert len(checks.table().splitlines()) == 2


@pytest.mark.parametrize(
    ("band", "null", "share"),
    [
        ({"low": 10}, 0, 2 / 3),
        ({"high": 18}, 24, 2 / 3),
        ({"low": 12, "high": 20}, 9, 0.5),
        ({"low": 10}, None, None),
    ],
)
def test_a_null_shows_which_share_of_the_effect_a_band_asks_for(band, null, share):
    check("gain", 15, **band, null=null)
    assert checks.remains(rows()[0]) == (share and pytest.approx(share))
    assert ("" if null is None else f" {null} ") in checks.table().splitlines()[1]


@pytest.mark.parametrize("band", [{"low": 0}, {"high": 3}, {"low": -1, "high": 1}])
def test_a_check_that_its_null_would_pass_is_refused(band):
    with pytest.raises(ValueError, match=r"gain: the null 0 must lie outside of the band, got (≥|≤|-1 …)"):
        check("gain", 1, **band, null=0)
    assert not (settings.build_folder() / "checks").exists()
