"""The soft decision tree: closed forms of its paths, its two losses and its penalty; and that it learns."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from distill_utils import losses, soft_tree, training
from distill_utils.soft_tree import SoftDecisionTree, balance_penalty, expected_leaf_cross_entropy, mixture_loss
from distill_utils.training import Batch, Schedule


@pytest.fixture
def tree():
    """Depth 3 over images of 2×5×4, 3 classes, with gates that are far from one half."""
    built = SoftDecisionTree(40, 3, 3)
    with torch.no_grad():
        built.gates.weight.normal_()
        built.leaves.normal_()
    return built


@pytest.fixture
def images():
    return torch.rand(7, 2, 5, 4)


def test_the_probability_of_a_leaf_is_the_product_of_the_gates_on_its_path(tree, images):
    tree.inverse_temperature.fill_(0.7)
    right = (0.7 * (images.flatten(1) @ tree.gates.weight.T + tree.gates.bias)).sigmoid()
    for leaf in range(8):
        node, product = 0, torch.ones(7)
        for bit in f"{leaf:03b}":  # from the root: 1 is right
            product = product * (right[:, node] if bit == "1" else 1 - right[:, node])
            node = 2 * node + (2 if bit == "1" else 1)
        assert_close(tree.leaf_log_probabilities(images)[:, leaf].exp(), product)


def test_logits_are_those_of_the_mixture_and_path_logits_those_of_the_most_likely_leaf(tree, images):
    by_hand = tree.leaf_log_probabilities(images).exp() @ tree.leaves.softmax(1)
    assert_close(tree(images).exp(), by_hand)
    assert_close(tree(images).exp().sum(1), torch.ones(7))
    best = tree.leaf_log_probabilities(images).argmax(1)
    assert_close(tree.path_logits(images), tree.leaves.log_softmax(1)[best])


def test_a_large_inverse_temperature_sends_an_image_to_one_leaf(tree, images):
    tree.inverse_temperature.fill_(1e4)
    assert_close(tree.leaf_log_probabilities(images).max(1).values, torch.zeros(7))
    assert_close(tree(images), tree.path_logits(images))
    tree.inverse_temperature.fill_(0.0)
    assert_close(tree.leaf_log_probabilities(images), torch.full((7, 8), -3 * math.log(2)))


def test_deep_paths_keep_finite_logarithms():
    tree = SoftDecisionTree(4, 3, 9)
    tree.gates.weight.data.fill_(1e4)
    loss = expected_leaf_cross_entropy(tree.leaf_log_probabilities(torch.rand(2, 4)), tree.leaves, torch.eye(3)[:2])
    loss.backward()
    assert tree.gates.weight.grad.isfinite().all()


def test_the_expected_leaf_cross_entropy_equals_a_double_loop(tree, images):
    targets = torch.randn(7, 3).softmax(1)
    log_p, log_q = tree.leaf_log_probabilities(images), tree.leaves.log_softmax(1)
    total = -sum(
        (log_p[n, leaf].exp() * targets[n, k] * log_q[leaf, k]).item()
        for n in range(7) for leaf in range(8) for k in range(3)
    )  # fmt: skip
    assert expected_leaf_cross_entropy(log_p, tree.leaves, targets).item() == pytest.approx(total / 7, rel=1e-5)


def test_the_mixture_loss_is_the_soft_target_loss_plus_the_entropy_of_the_targets(tree, images):
    teacher = 3 * torch.randn(7, 3)
    p = teacher.softmax(1)
    entropy = -(p * p.log()).sum(1).mean()
    log_p = tree.leaf_log_probabilities(images)
    expected = losses.soft_target_loss(tree(images), teacher, 1.0) + entropy
    assert_close(mixture_loss(log_p, tree.leaves, p), expected)


def test_the_expected_leaf_loss_is_at_least_the_mixture_loss_and_equal_for_one_leaf(tree, images):
    targets = torch.randn(7, 3).softmax(1)
    soft = tree.leaf_log_probabilities(images)
    assert expected_leaf_cross_entropy(soft, tree.leaves, targets) > mixture_loss(soft, tree.leaves, targets) + 1e-3
    tree.inverse_temperature.fill_(1e4)
    hard = tree.leaf_log_probabilities(images)
    assert_close(expected_leaf_cross_entropy(hard, tree.leaves, targets), mixture_loss(hard, tree.leaves, targets))


def test_balanced_gates_cost_log_two_per_level_and_others_cost_more():
    balanced = torch.full((7,), 0.5)
    assert float(balance_penalty(balanced)) == pytest.approx(3 * math.log(2))
    for gate, level in ((0, 0), (2, 1), (6, 2)):
        right = balanced.clone()
        right[gate] = 0.9
        more = -0.5 * (math.log(0.9) + math.log(0.1)) - math.log(2)
        assert float(balance_penalty(right)) == pytest.approx(3 * math.log(2) + more / 2**level)
        assert_close(balance_penalty(1 - right), balance_penalty(right))
    assert balance_penalty(torch.tensor([0.0, 1.0, 0.5])).isfinite()


def test_the_routing_average_weights_images_by_their_probability_of_arriving(tree, images):
    log_paths = tree.log_paths(images)
    right = (images.flatten(1) @ tree.gates.weight.T + tree.gates.bias).sigmoid()
    arrive = log_paths.exp()[:, :7]
    assert_close(soft_tree.update_routing_average(tree, log_paths), (arrive * right).sum(0) / arrive.sum(0))


def test_the_routing_average_covers_more_batches_at_deeper_gates(tree, images):
    def batch():
        reach = tree.log_paths(images).exp().detach()
        soft_tree.update_routing_average(tree, tree.log_paths(images))
        return reach[:, :7].sum(0), reach[:, 2::2].sum(0)

    (arrived_before, right_before) = batch()
    with torch.no_grad():
        tree.gates.bias += 2
    (arrived, right) = batch()
    # Half is forgotten in 3·2^depth steps.
    memory = torch.tensor([0.5 ** (1 / (3 * width)) for width in (1, 2, 2, 4, 4, 4, 4)])
    assert_close(tree.reached, memory * arrived_before + arrived)
    assert_close(tree.went_right, memory * right_before + right)


def test_the_penalty_pushes_a_gate_back_with_the_gradient_of_its_batch(tree, images):
    log_paths = tree.log_paths(images)
    arrive, onward = log_paths.exp()[:, :7].sum(0), log_paths.exp()[:, 2::2].sum(0)
    direct = torch.autograd.grad(balance_penalty(onward / arrive), tree.gates.bias, retain_graph=True)[0]
    averaged = torch.autograd.grad(
        balance_penalty(soft_tree.update_routing_average(tree, log_paths)), tree.gates.bias
    )[0]
    assert_close(averaged, direct)  # in the first batch the average is that batch


@pytest.mark.parametrize("method", [soft_tree.on_labels, soft_tree.on_soft_targets])
def test_fit_trains_a_tree_on_labels_and_on_soft_targets(method, tiny_set):
    tree = SoftDecisionTree(40, 3, 2)
    teacher = [10 * F.one_hot(tiny_set.labels, 3).float()]
    unlabelled = method is soft_tree.on_soft_targets
    images = type(tiny_set)(tiny_set.images, tiny_set.labels * 0 - 1) if unlabelled else tiny_set
    schedule = Schedule(steps=150, batch_size=16, lr=0.05)
    loss = functools.partial(method, balance=0.01, final_inverse_temperature=2.0)
    history = training.fit(tree, images, loss, schedule, teacher=teacher if unlabelled else None, quiet=True)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert float((tree.path_logits(tiny_set.images).argmax(1) == tiny_set.labels).float().mean()) > 0.9
    assert float(tree.inverse_temperature) > 1.5, "annealed upwards"
    assert {"fit", "balance", "sparsity", "smoothness"} <= set(history)


def test_the_parts_of_the_loss_have_their_closed_forms():
    tree, batch = SoftDecisionTree(20, 2, 2), Batch(torch.rand(3, 1, 5, 4), torch.tensor([0, 1, 0]), None, None, 0.75)
    square = torch.zeros(5, 4)
    square[1:3, 1:3] = 2.0  # a 2×2 square has eight sides
    with torch.no_grad():
        tree.gates.weight.zero_()
        tree.gates.weight[0] = tree.gates.weight[2] = square.flatten()  # of the levels 0 and 1
    total, parts = soft_tree.on_labels(
        tree, batch, sparsity=0.5, smoothness=0.25, balance=0.0, final_inverse_temperature=3.0
    )
    assert parts["sparsity"].item() == 0.5 * 8 * (1 + 1 / 2)
    assert parts["smoothness"].item() == 0.25 * 16 * (1 + 1 / 2)
    assert float(tree.inverse_temperature) == 2.0  # halfway from 1 to 3 at three quarters of training
    assert_close(total, sum(parts.values()))


def test_a_gate_keeps_the_weights_that_move_its_score_most_from_the_middle_of_training_on():
    tree, labels, images = SoftDecisionTree(20, 2, 2), torch.tensor([0, 1, 0]), torch.rand(3, 1, 5, 4)
    images[:, :, 0] = 0.0  # pixels that never change
    before = tree.gates.weight.detach().clone()
    soft_tree.on_labels(tree, Batch(images, labels, None, None, 0.4), pixels=3)
    assert torch.equal(tree.gates.weight, before)
    soft_tree.on_labels(tree, Batch(images, labels, None, None, 0.6), pixels=3)
    kept, effect = tree.gates.weight != 0, before.abs() * images.flatten(1).std(0)
    assert kept.sum(1).tolist() == [3] * len(before)
    assert torch.equal(tree.gates.weight[kept], before[kept])
    assert not kept[:, :4].any()
    assert all(row[~mask].max() < row[mask].min() for row, mask in zip(effect, kept, strict=True))


def test_an_image_without_a_label_is_refused(tree, images):
    with pytest.raises(ValueError, match="needs a label for every image: use on_soft_targets"):
        soft_tree.on_labels(tree, Batch(images, torch.tensor([0, 1, -1, 0, 0, 0, 0]), None, None, 0.0))


def test_wrong_sizes_are_refused_and_too_few_leaves_give_a_warning(tree):
    with pytest.raises(ValueError, match=r"depth must be an integer in \[1, 16\], got 0"):
        SoftDecisionTree(4, 2, 0)
    with pytest.raises(ValueError, match=r"images must have 40 values each, got 16: .*in_features=16"):
        tree(torch.rand(3, 1, 4, 4))
    with pytest.warns(UserWarning, match=r"depth 4 has only 16 leaves for 36 classes: use depth 6 or more"):
        SoftDecisionTree(4, 36, 4)
