"""The study of storage: what is read back of soft targets is a distribution, and in one way an unbiased one."""

import pytest
import torch

from distill_utils import recipes
from distill_utils.studies import storage

P = torch.tensor([[0.5, 0.2, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7]])


def read_back(kind, k, seed=0):
    return storage.kept(P, kind, k, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "k"), [("all", 0), ("top", 1), ("spread", 2), ("samples", 3)])
def test_what_is_read_back_is_a_distribution(kind, k):
    found = read_back(kind, k)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(2))


def test_the_largest_are_kept_and_the_rest_is_left_out_or_spread():
    torch.testing.assert_close(read_back("top", 1), torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1]]))
    torch.testing.assert_close(read_back("spread", 1)[0], torch.tensor([0.5, 0.5 / 3, 0.5 / 3, 0.5 / 3]))
    torch.testing.assert_close(read_back("spread", 1)[1], P[1])


def test_samples_are_right_on_average_and_differ_between_seeds():
    many = torch.stack([read_back("samples", 2, seed) for seed in range(4000)])
    torch.testing.assert_close(many.mean(0), P, atol=0.03, rtol=0)
    assert not torch.equal(many[0], many[1])


def test_keeping_all_is_plain_distillation():
    recorded = [torch.randn(8, 36).half()]
    context = recipes.Context(None, None, None, recorded, 0)
    found = storage._stored(context, temperature=2.0, kind="all", k=0)["recorded"][0]
    torch.testing.assert_close((found / 2).softmax(1), (recorded[0].float() / 2).softmax(1))


def test_every_claim_compares_arms_that_are_run():
    runs = [{"arm": arm, "seed": 0, "metrics": {"test_accuracy": float(i)}}
            for i, arm in enumerate(storage.arms("glyphs"))]  # fmt: skip
    for claim in storage.claims("glyphs"):
        assert len(claim.treated(runs)) == len(claim.control(runs)) == 1
        assert claim.treated(runs) != claim.control(runs)
