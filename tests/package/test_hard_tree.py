"""Hard trees: exports that agree with what they were made from, rules, counts, and the nearest change that flips."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.tree import DecisionTreeClassifier
from torch.testing import assert_close

from distill_utils import hard_tree
from distill_utils.hard_tree import HardTree
from distill_utils.soft_tree import SoftDecisionTree

PARTS = {
    "weights": torch.tensor([[1.0, 0, 0, 0], [0, 1, 2, 0]]), "biases": torch.tensor([-0.5, -1.0]),
    "child_nodes": torch.tensor([[-1, 1], [-2, -3]]), "leaves": 4 * torch.eye(3), "nodes": torch.tensor([0, 2]),
}  # fmt: skip
CORNERS = torch.tensor([[0.2, 1, 1, 0], [0.9, 0.1, 0.2, 0], [0.9, 0.9, 0.9, 1], [0.1, 0, 0, 1]])


@pytest.fixture
def by_hand():
    """x0 > 0.5 ? (x1 + 2·x2 > 1 ? class 2 : class 1) : class 0, on images of four numbers."""
    return HardTree(**{name: value.clone() for name, value in PARTS.items()})


@pytest.fixture
def soft():
    """A tree of depth 3 on images of 2×5×4, three classes, which has seen a batch."""
    tree = SoftDecisionTree(40, 3, 3)
    with torch.no_grad():
        tree.gates.weight.copy_(torch.randn(7, 40).sign() * (0.5 + torch.rand(7, 40)))  # none is small
        tree.gates.bias.copy_(-tree.gates.weight.sum(1) / 2)
        tree.leaves.normal_()
        tree.reached.fill_(1.0)
    return tree


@pytest.fixture
def images():
    return torch.rand(200, 2, 5, 4)


def test_a_hard_tree_follows_its_gates_to_a_leaf(by_hand):
    assert by_hand.leaf(CORNERS).tolist() == [0, 1, 2, 0]
    assert by_hand(CORNERS).argmax(1).tolist() == [0, 1, 2, 0]
    assert by_hand.paths() == [[(0, 0)], [(0, 1), (1, 0)], [(0, 1), (1, 1)]]


def test_images_that_no_gate_can_decide_are_refused(by_hand):
    with pytest.raises(ValueError, match="images must have 4 values each, got 5"):
        by_hand(torch.rand(2, 5))
    with pytest.raises(ValueError, match="images contains NaN or inf"):
        by_hand(CORNERS * math.nan)


def test_the_export_takes_the_greedy_path(soft, images):
    hard = hard_tree.harden(soft, images)
    at, scores = torch.zeros(200, dtype=torch.long), soft.gate_scores(images)
    for _ in range(3):
        at = 2 * at + 1 + (scores.gather(1, at[:, None])[:, 0] > 0).long()
    assert_close(hard(images), soft.leaves.log_softmax(1)[at - 7])


def test_the_export_equals_the_soft_tree_at_a_large_inverse_temperature(soft, images):
    soft.inverse_temperature.fill_(1e5)
    hard = hard_tree.harden(soft, images)
    found = hard_tree.hardening_fidelity(soft, hard, images)
    assert found["agreement"] == found["agreement_with_mixture"] == 1
    assert found["sure"] > 0.99
    soft.inverse_temperature.fill_(0.0)  # every leaf has probability 1/8
    found = hard_tree.hardening_fidelity(soft, hard, images)
    assert found["top_mass"] == pytest.approx(1 / 8)
    assert found["sure"] == 0


def test_pruning_removes_the_leaves_that_no_image_reaches_and_the_gates_above_them(soft, images):
    with torch.no_grad():
        soft.gates.bias[0] = 1e3  # all go right
        soft.gates.bias[5] = -1e3  # and there, half of them left
    pruned = hard_tree.harden(soft, images)
    assert {0, 5}.isdisjoint(pruned.nodes.tolist())
    assert pruned.leaf(images).unique().tolist() == list(range(len(pruned.leaves)))
    assert len(pruned.leaves) == len(pruned.nodes) + 1
    one_leaf = hard_tree.harden(soft, images[:1])
    assert_close(one_leaf(images), pruned(images[:1]).expand(200, 3))


def test_only_small_weights_are_set_to_zero(soft, images):
    with torch.no_grad():
        soft.gates.weight[:, 0] = 0.019 * soft.gates.weight.abs().max(1).values
    hard = hard_tree.harden(soft, images)
    assert hard.weights[:, 0].count_nonzero() == 0
    assert_close(hard.weights[:, 1:], soft.gates.weight[hard.nodes][:, 1:])


def test_a_tree_that_was_never_trained_is_not_exported(images):
    with pytest.raises(ValueError, match="has not been trained: its gates are random"):
        hard_tree.harden(SoftDecisionTree(40, 3, 2), images)


# CART


@pytest.fixture
def sample():
    random = torch.Generator().manual_seed(0)
    x = torch.randint(0, 17, (300, 1, 5, 4), generator=random) / 16
    return x, (x[:, 0, 1, 2] + x[:, 0, 3, 3] + 0.3 * torch.rand(300, generator=random) > 1.1).long()


def test_a_cart_on_one_hot_labels_is_the_gini_classifier(sample):
    x, y = sample
    ours = hard_tree.from_cart(hard_tree.cart(x, F.one_hot(y, 2).float(), 4), depth=4)
    gini = DecisionTreeClassifier(max_depth=4, random_state=0).fit(x.flatten(1).numpy(), y.numpy())
    expected = torch.from_numpy(gini.predict_proba(x.flatten(1).numpy())).float()
    assert_close(ours(x).softmax(1), expected, atol=1e-4, rtol=0)


def test_the_first_levels_of_a_deep_cart_are_the_shallow_cart(sample):
    x, y = sample
    targets = F.one_hot(y, 2).float()
    deep, shallow = hard_tree.cart(x, targets, 6), hard_tree.cart(x, targets, 3)
    assert_close(hard_tree.from_cart(deep, depth=3)(x), hard_tree.from_cart(shallow, depth=3)(x))
    assert len(hard_tree.from_cart(deep, depth=3).leaves) < len(hard_tree.from_cart(deep, depth=6).leaves)
    assert hard_tree.from_cart(deep, depth=0).leaf(x).unique().tolist() == [0]


@pytest.mark.parametrize("start", [2.0, 1e-42, -3.0, -1e-42, 1e38])
def test_the_export_decides_as_scikit_learn_between_neighbouring_floats(start):
    """scikit-learn's threshold between two neighbours is a float64 that no float32 equals."""
    low = torch.tensor(start)
    for _ in range(4):
        high = torch.nextafter(low, torch.tensor(math.inf))
        x = torch.stack([low, high])[:, None]
        fitted = hard_tree.cart(x, torch.eye(2), 1)
        around = torch.stack([torch.nextafter(low, torch.tensor(-math.inf)), low, high])[:, None]
        expected = torch.from_numpy(fitted.predict(around.numpy())).float()
        assert torch.equal(hard_tree.from_cart(fitted, depth=1, logits=True)(around), expected)
        low = high


# Reading


def test_the_complexity_of_a_tree_by_hand(by_hand):
    counted = hard_tree.complexity(by_hand, CORNERS)
    assert (counted["depth"], counted["gates"], counted["leaves"]) == (2, 2, 3)
    assert counted["pixels"] == 1.5
    assert counted["path"] == 1.5  # two images take one gate, two take two
    # x0 > 0.5 is one comparison; x1 + 2·x2 > 1 one product (a weight of 1 needs none) and one comparison; the leaf is
    # looked up.
    assert counted["operations"] == (2 + 4 + 4 + 2) / 4
    assert counted["leaves_for_95"] == 3
    assert hard_tree.complexity(by_hand, CORNERS[:1])["leaves_for_95"] == 1


def test_rules_read_as_a_program(by_hand):
    assert hard_tree.rules(by_hand, "abc", shape=(2, 2)).splitlines() == [
        "if row 0, column 0 > 0.500:",
        "    if gate 2 > 0 (2 pixels):",
        "        predict c (0.96)",
        "    else:",
        "        predict b (0.96)",
        "else:",
        "    predict a (0.96)",
    ]
    by_hand.weights[0, 0], by_hand.biases[0] = -2.0, 0.5
    assert hard_tree.rules(by_hand, "abc", shape=(2, 2)).startswith("if row 0, column 0 < 0.250:")


def test_a_decision_lists_its_gates_and_their_scores(by_hand):
    decision = hard_tree.explain(by_hand, CORNERS[2])
    assert [(step.gate, step.yes) for step in decision.steps] == [(0, True), (1, True)]
    assert [step.score for step in decision.steps] == pytest.approx([0.4, 1.7])
    assert decision.answer == 2


def test_the_nearest_change_has_its_closed_form(by_hand):
    image = torch.tensor([0.6, 0.5, 0.4, 0.0])  # class 2: 0.1 from the first plane, 0.3/√5 = 0.134 from the second
    decision = hard_tree.explain(by_hand, image)
    assert (decision.answer, decision.other) == (2, 0)
    assert_close(decision.nearest, torch.tensor([-0.101, 0, 0, 0]), atol=1e-5, rtol=0)
    image[0] = 0.9
    decision = hard_tree.explain(by_hand, image)
    assert decision.other == 1
    assert float(decision.nearest.norm()) == pytest.approx(0.3 / math.sqrt(5) + 0.001, abs=1e-5)


def test_the_nearest_change_flips_the_tree_and_no_shorter_one_does(soft, images):
    hard = hard_tree.harden(soft, images)
    directions = F.normalize(torch.randn(3000, 40), dim=1).view(-1, 2, 5, 4)
    for image in images[:5]:
        decision = hard_tree.explain(hard, image)
        assert int(hard((image + decision.nearest)[None]).argmax()) == decision.other != decision.answer
        tries = image + 0.999 * decision.nearest.norm() * directions
        assert bool((hard(tries).argmax(1) == decision.answer).all())


def test_no_change_flips_a_tree_whose_leaves_predict_one_class(by_hand):
    by_hand.leaves[:] = torch.tensor([1.0, 0, 0])
    decision = hard_tree.explain(by_hand, CORNERS[0])
    assert (decision.nearest, decision.other) == (None, None)


def test_a_surrogate_of_two_levels_follows_a_model_with_two_thresholds():
    features = torch.rand(2000, 3)
    answers = (features[:, 0] > 0.5).long() * 2 + (features[:, 2] > 0.3).long()
    fidelity = hard_tree.surrogate_fidelity(
        features[:1000], answers[:1000], (features[1000:], answers[1000:]), (1, 2)
    )
    assert fidelity[1] < 0.9
    assert fidelity[2] > 0.98
