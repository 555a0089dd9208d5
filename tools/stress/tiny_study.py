"""A study of a second that is copied into a copy of the package, as studies/tiny.py; TINY_LOG is where it logs."""

import os
from pathlib import Path

import torch

from distill_utils import studies


def run(arm, seed, dataset):
    with Path(os.environ["TINY_LOG"]).open("a") as file:
        file.write(f"{arm['arm']} {seed}\n")
    x = torch.rand(700, 700, generator=torch.Generator().manual_seed(seed))
    for _ in range(8):
        x = torch.tanh(x @ x.T / 700)
    return {"score": float(x.mean()) + 0.01 * arm["arm"]}


def scores(arm):
    return lambda runs: studies.select(runs, "score", arm=arm)


CLAIM = studies.Claim("arm 3 against arm 0", "score", scores(3), scores(0), 0.02)
STUDY = studies.Study("tiny", lambda dataset: [{"arm": i} for i in range(4)], run, lambda dataset: [CLAIM],
                      datasets=("glyphs",), keys=("arm",))  # fmt: skip
