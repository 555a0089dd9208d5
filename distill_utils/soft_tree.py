"""A decision tree that learns by gradient: Frosst and Hinton's soft decision tree (2017, arXiv 1711.09784).

Nodes are numbered level by level from the root, 0; the children of node i are 2i + 1, on the left, and 2i + 2. Every
inner node is a gate that asks one linear question of the whole image and goes right with probability
p = σ(β (w·x + b)); every leaf holds a distribution over classes that no image changes. β is one inverse temperature
for all gates: as it grows, a gate turns from a mixture of answers into a yes or no, which hard_tree.harden exports.

The loss that the paper prints takes the logarithm of a negative number; expected_leaf_cross_entropy says what it
must mean.
Left out: one β per node (some copies of the paper draw it with random sign) and leaves that depend on the image.
"""

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_utils import _validate, models, recipes

_HALF = 3.0  # a running average forgets half of what it knew in this many steps, times 2^depth of the node


class SoftDecisionTree(nn.Module):
    """A full binary tree of `depth` levels of gates over images of in_features = channels·H·W numbers.

    It takes images N×channels×H×W, or N×in_features, and returns logits N×C: the logarithms of the mixture
    Σ_l P_l(x) Q_l of all leaves, so every measure and loss of the package accepts it. path_logits answers with the
    leaf of greatest path probability alone, which is the answer that can be read. Raises ValueError for a depth
    below 1 or above 16, or images of another size; warns where there are fewer leaves than classes.
    """

    def __init__(self, in_features: int, num_classes: int, depth: int):
        super().__init__()
        _validate.number("in_features", in_features, 1, whole=True)
        _validate.number("num_classes", num_classes, 1, whole=True)
        _validate.number("depth", depth, high=16, whole=True)
        if depth < 1:
            raise ValueError(f"a tree needs at least one level of gates: depth must be 1 or more, found {depth}")
        if 2**depth < num_classes:
            warnings.warn(
                f"a tree of depth {depth} has {2**depth} leaves and cannot name all {num_classes} classes: its most "
                f"likely path never says some of them (depth {(num_classes - 1).bit_length()} could)",
                stacklevel=2,
            )
        self.depth, self.in_features, self.num_classes = depth, in_features, num_classes
        self.gates = nn.Linear(in_features, 2**depth - 1)
        self.leaves = nn.Parameter(0.1 * torch.randn(2**depth, num_classes))
        self.register_buffer("inverse_temperature", torch.tensor(1.0))
        # Running sums over batches of what reaches each gate, and of what of it goes right: the penalty's averages.
        self.register_buffer("reached", torch.zeros(2**depth - 1))
        self.register_buffer("went_right", torch.zeros(2**depth - 1))

    def forward(self, images: Tensor) -> Tensor:
        return mixture(self.log_paths(images)[:, -len(self.leaves) :], self.leaves)

    def path_logits(self, images: Tensor) -> Tensor:
        """Log-probabilities N×C of the leaf that each image most probably reaches."""
        return self.leaves.log_softmax(1)[self.leaf_log_probabilities(images).argmax(1)]

    def leaf_log_probabilities(self, images: Tensor) -> Tensor:
        """log P_l(x) of every leaf, N×2^depth; the probabilities of an image add up to 1."""
        return self.log_paths(images)[:, -len(self.leaves) :]

    def gate_scores(self, images: Tensor) -> Tensor:
        """β (w·x + b) of every gate, N×(2^depth − 1): the logit of going right."""
        _validate.tensors(images=(images, "float N×features×…"))
        x = images.flatten(1)
        if x.shape[1] != self.in_features:
            raise ValueError(
                f"this tree reads images of {self.in_features} numbers, found {x.shape[1]} "
                f"(shape {tuple(images.shape)}): build one with in_features={x.shape[1]}"
            )
        return self.inverse_temperature * self.gates(x)

    def log_paths(self, images: Tensor) -> Tensor:
        """log-probability of reaching every node, N×(2^(depth + 1) − 1), the gates first, then the leaves."""
        scores = self.gate_scores(images)
        right, left = F.logsigmoid(scores), F.logsigmoid(-scores)
        levels = [scores.new_zeros(len(scores), 1)]
        for level in range(self.depth):
            here = slice(2**level - 1, 2 ** (level + 1) - 1)
            both = torch.stack([levels[-1] + left[:, here], levels[-1] + right[:, here]], 2)
            levels.append(both.flatten(1))  # N×2^(level + 1)
        return torch.cat(levels, 1)

    @property
    def trained(self) -> bool:
        """Whether the tree has seen a training step: one that has not has nothing to explain."""
        return bool(self.reached[0] > 0)


def mixture(leaf_log_probabilities: Tensor, leaves: Tensor) -> Tensor:
    """log Σ_l P_l Q_l, N×C, of log P, N×L, and leaf logits L×C."""
    _validate.tensors(leaf_log_probabilities=(leaf_log_probabilities, "float N×L"),
                      leaves=(leaves, "float L×C"))
    return torch.logsumexp(leaf_log_probabilities[:, :, None] + leaves.log_softmax(1), dim=1)


def expected_leaf_cross_entropy(leaf_log_probabilities: Tensor, leaves: Tensor, targets: Tensor) -> Tensor:
    """Σ_l P_l · cross-entropy(targets, Q_l), batch mean, at least the entropy of the targets.

    leaf_log_probabilities: log P, N×L; leaves: logits L×C; targets: probabilities N×C. Every leaf must be right by
    itself (a "bigot" that knows one answer), which is why a single path can then be read. It is never below the loss
    of the mixture and equals it where one leaf has all the mass. The paper prints
    −log Σ_l P_l Σ_k T_k log Q_lk, whose argument is negative; those who built it agree on this reading.
    """
    _validate.tensors(leaf_log_probabilities=(leaf_log_probabilities, "float N×L"),
                      leaves=(leaves, "float L×C"), targets=(targets, "float N×C"))
    per_leaf = -targets.to(leaves.dtype) @ leaves.log_softmax(1).T  # N×L
    return (leaf_log_probabilities.exp() * per_leaf).sum(1).mean()


def mixture_loss(leaf_log_probabilities: Tensor, leaves: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the mixture of all leaves against targets N×C, batch mean; arguments as for
    expected_leaf_cross_entropy."""
    mixed = mixture(leaf_log_probabilities, leaves)
    _validate.tensors(mixture=(mixed, "float N×C"), targets=(targets, "float N×C"))
    return -(targets * mixed).sum(1).mean()


def balance_penalty(right: Tensor) -> Tensor:
    """−Σ_i 2^−depth(i) (½ log α_i + ½ log(1 − α_i)), where α_i = right is the share of what reaches gate i that goes
    right; it is least, depth · log 2, where every gate sends half to either side, and keeps gates from dying."""
    _validate.tensors(right=(right, "float gates"))
    depth = torch.arange(1, len(right) + 1).log2().floor()  # node i is on level ⌊log2(i + 1)⌋
    right = right.clamp(1e-6, 1 - 1e-6)
    return -(0.5 * (right.log() + (1 - right).log()) * 0.5**depth).sum()


def update_routing_average(tree: SoftDecisionTree, log_paths: Tensor) -> Tensor:
    """α_i = Σ_x P_i(x) p_i(x) / Σ_x P_i(x) of every gate, as a running average over batches whose window grows as
    2^depth, since a deep gate sees few images of a batch; its gradient is that of this batch. Updates the averages.
    """
    count = len(tree.reached)
    _validate.tensors(log_paths=(log_paths, f"float N×{2 * count + 1}"))
    reach = log_paths.exp().sum(0)
    at, onward = reach[:count], reach[2::2]  # right children are 2, 4, 6, …
    level = torch.arange(1, count + 1).log2().floor()
    keep = 0.5 ** (1 / (_HALF * 2**level))
    with torch.no_grad():
        tree.reached.mul_(keep).add_(at)
        tree.went_right.mul_(keep).add_(onward)
    now = onward / at.clamp(min=1e-8)
    return (tree.went_right / tree.reached).clamp(0, 1) + now - now.detach()


def total_variation(filters: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Sum of the absolute differences between neighbouring weights of filters G×n on images of channels×H×W."""
    return _steps(filters, shape).sum()


def _steps(filters: Tensor, shape) -> Tensor:
    """The same for each filter, G."""
    _validate.tensors(filters=(filters, f"float G×{math.prod(shape)}"))
    w = filters.reshape(-1, *shape)
    return w.diff(dim=2).abs().sum((1, 2, 3)) + w.diff(dim=3).abs().sum((1, 2, 3))


def _build(num_classes: int, in_channels: int, *, in_features: int, depth: int) -> SoftDecisionTree:
    return SoftDecisionTree(in_features, num_classes, depth)


models.MODELS["soft_tree"] = _build  # for recipes; in_features: channels·H·W


# Losses for training.fit, and methods of recipes


@recipes.method("tree_on_labels")
def on_labels(tree: SoftDecisionTree, batch, **options) -> tuple[Tensor, dict[str, Tensor]]:
    """A tree alone, on labels. Options as in tree_loss; raises ValueError for an image without a label."""
    _validate.tensors(labels=(batch.labels, "int64 N"))
    if int(batch.labels.min()) < 0:
        raise ValueError("label -1 marks an image without a label: train on soft targets, on_soft_targets")
    _validate.number("the largest label", int(batch.labels.max()), high=tree.num_classes - 1)
    return tree_loss(tree, batch, F.one_hot(batch.labels, tree.num_classes).float(), **options)


@recipes.method("tree_on_soft_targets")
def on_soft_targets(tree: SoftDecisionTree, batch, *, temperature: float = 1.0, **options):
    """A distilled tree: targets are the teacher's probabilities at a temperature, and no label is used."""
    _validate.tensors(teacher_logits=(batch.teacher_logits, "float N×C"))
    _validate.temperature(temperature)
    return tree_loss(tree, batch, (batch.teacher_logits / temperature).softmax(1), **options)


def tree_loss(tree: SoftDecisionTree, batch, targets: Tensor, *, loss=expected_leaf_cross_entropy,
              balance: float = 0.03, final_inverse_temperature: float = 1.0, sparsity: float = 0.0,
              smoothness: float = 0.0):
    """The loss of a tree on a batch with targets N×C, and its parts.

    loss: expected_leaf_cross_entropy or mixture_loss; balance: weight of balance_penalty (Frosst and Hinton: 0.1;
    smaller here, since no five of ten classes are half of the images everywhere); final_inverse_temperature: above 1
    to anneal, what β, 1 at first, rises to in the second half of training, in a straight line: gates become surer than weights alone make
    them, at a cost in accuracy where a gate has not found its question by then; sparsity, smoothness: weights of
    Σ|w| and of the total variation of the filters, each divided by 2^depth of its gate, since a gate further down
    moves fewer images.
    """
    _validate.tensors(images=(batch.images, "float N×channels×H×W"),
                      targets=(targets, f"float N×{tree.num_classes}"))
    weights = {"balance": balance, "sparsity": sparsity, "smoothness": smoothness}
    for name, value in {"final_inverse_temperature": final_inverse_temperature, **weights}.items():
        _validate.number(name, value, 0, 1e6)
    _validate.number("the share of training that lies behind", batch.progress, 0, 1)
    tree.inverse_temperature.fill_(1 + (final_inverse_temperature - 1) * max(0.0, 2 * batch.progress - 1))
    log_paths = tree.log_paths(batch.images)
    filters, shape = tree.gates.weight, batch.images.shape[1:]
    level = torch.arange(1, len(filters) + 1).log2().floor()
    parts = {
        "fit": loss(log_paths[:, -len(tree.leaves) :], tree.leaves, targets),
        "balance": balance * balance_penalty(update_routing_average(tree, log_paths)),
        "sparsity": sparsity * (filters.abs().sum(1) * 0.5**level).sum(),
        "smoothness": smoothness * (_steps(filters, shape) * 0.5**level).sum(),
    }
    return sum(parts.values()), parts
