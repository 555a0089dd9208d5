"""A decision tree trained by gradient: Frosst and Hinton's soft decision tree (2017, arXiv 1711.09784; lesson 09).

Nodes are numbered level by level from the root, 0; the children of node i are 2i + 1, on the left, and 2i + 2. Every
inner node is a gate that applies one linear function to the whole image and goes right with probability
p = σ(β (w·x + b)). Every leaf holds one distribution over classes, the same for every image. β is one inverse
temperature for all gates: as it grows, a gate turns from a mixture of both sides into a yes-or-no decision, which
hard_tree.harden exports.

Left out: one β per node (some versions of the paper draw it with random sign) and leaves that depend on the image.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_utils import _validate, models, recipes


class SoftDecisionTree(nn.Module):
    """A full binary tree of `depth` levels of gates for images of in_features = channels·H·W values (lesson 09).

    Takes images N×channels×H×W or N×in_features and returns logits N×C: the logarithms of the mixture Σ_l P_l(x) Q_l
    of all leaves, so it can be trained and measured like any classifier. path_logits returns those of the most likely
    leaf alone, the prediction that can be read. Warns where there are fewer leaves than classes. Raises ValueError
    for a depth outside [1, 16] or images of another size.
    """

    def __init__(self, in_features: int, num_classes: int, depth: int):
        super().__init__()
        _validate.number("depth", depth, 1, 16, whole=True)
        if 2**depth < num_classes:
            warnings.warn(f"a tree of depth {depth} has only {2**depth} leaves for {num_classes} classes: use depth "
                          f"{(num_classes - 1).bit_length()} or more to predict all of them", stacklevel=2)
        self.depth, self.in_features, self.num_classes = depth, in_features, num_classes
        self.gates = nn.Linear(in_features, 2**depth - 1)
        self.leaves = nn.Parameter(0.1 * torch.randn(2**depth, num_classes))
        self.register_buffer("inverse_temperature", torch.tensor(1.0))
        # Running sums over batches of the probability of reaching each gate, and of going right there.
        self.register_buffer("reached", torch.zeros(2**depth - 1))
        self.register_buffer("went_right", torch.zeros(2**depth - 1))

    def forward(self, images: Tensor) -> Tensor:
        return mixture(self.leaf_log_probabilities(images), self.leaves)

    def path_logits(self, images: Tensor) -> Tensor:
        """Log-probabilities N×C of the leaf that each image reaches with the highest probability."""
        return self.leaves.log_softmax(1)[self.leaf_log_probabilities(images).argmax(1)]

    def leaf_log_probabilities(self, images: Tensor) -> Tensor:
        """log P_l(x) of every leaf, N×2^depth; the probabilities of an image sum to 1."""
        return self.log_paths(images)[:, -len(self.leaves) :]

    def gate_scores(self, images: Tensor) -> Tensor:
        """β (w·x + b) of every gate, N×(2^depth − 1): the logit of going right."""
        x = images.flatten(1)
        if x.shape[1] != self.in_features:
            raise ValueError(f"images must have {self.in_features} values each, got {x.shape[1]}: build the tree "
                             f"with in_features={x.shape[1]}")
        return self.inverse_temperature * self.gates(x)

    def log_paths(self, images: Tensor) -> Tensor:
        """log-probability of reaching every node, N×(2^(depth + 1) − 1), the gates first, then the leaves."""
        scores = self.gate_scores(images)
        right, left = F.logsigmoid(scores), F.logsigmoid(-scores)
        levels = [scores.new_zeros(len(scores), 1)]  # every image reaches the root
        for level in range(self.depth):
            here = slice(2**level - 1, 2 ** (level + 1) - 1)
            both = torch.stack([levels[-1] + left[:, here], levels[-1] + right[:, here]], 2)
            levels.append(both.flatten(1))  # N×2^(level + 1)
        return torch.cat(levels, 1)


def mixture(leaf_log_probabilities: Tensor, leaves: Tensor) -> Tensor:
    """log Σ_l P_l Q_l, N×C, of log P, N×L, and leaf logits L×C."""
    return torch.logsumexp(leaf_log_probabilities[:, :, None] + leaves.log_softmax(1), dim=1)


# Losses and penalties


def expected_leaf_cross_entropy(leaf_log_probabilities: Tensor, leaves: Tensor, targets: Tensor) -> Tensor:
    """Σ_l P_l · cross-entropy(targets, Q_l), batch mean, at least the entropy of the targets (lesson 09).

    leaf_log_probabilities: log P, N×L; leaves: logits L×C; targets: probabilities N×C. Every leaf must be right on
    its own, so a single path can be read. The loss is never below mixture_loss and equals it where one leaf has all
    the probability. Frosst and Hinton print −log Σ_l P_l Σ_k T_k log Q_lk, whose argument is negative;
    implementations agree on this reading.
    """
    per_leaf = -targets.to(leaves.dtype) @ leaves.log_softmax(1).T  # N×L
    return (leaf_log_probabilities.exp() * per_leaf).sum(1).mean()


def mixture_loss(leaf_log_probabilities: Tensor, leaves: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the mixture of all leaves, batch mean; arguments as in expected_leaf_cross_entropy."""
    return -(targets * mixture(leaf_log_probabilities, leaves)).sum(1).mean()


def balance_penalty(right: Tensor) -> Tensor:
    """−Σ_i 2^−level(i) (½ log α_i + ½ log(1 − α_i)) for right = α, the share of a gate's images that goes right.

    It is smallest, depth · log 2, where every gate splits its images in halves, and keeps the whole tree in use.
    """
    right = right.clamp(1e-6, 1 - 1e-6)
    return -(0.5 * (right.log() + (1 - right).log()) * 0.5 ** _level(len(right))).sum()


def update_routing_average(tree: SoftDecisionTree, log_paths: Tensor) -> Tensor:
    """Update and return α_i = Σ_x P_i(x) p_i(x) / Σ_x P_i(x) of every gate, a running average over batches.

    Past batches lose half of their weight in 3 · 2^level steps, because a deep gate receives few images of a batch.
    The gradient is that of this batch alone.
    """
    count = len(tree.reached)
    reach = log_paths.exp().sum(0)
    here, onward = reach[:count], reach[2::2]  # right children are 2, 4, 6, …
    keep = 0.5 ** (1 / (3 * 2 ** _level(count)))
    with torch.no_grad():
        tree.reached.mul_(keep).add_(here)
        tree.went_right.mul_(keep).add_(onward)
    now = onward / here.clamp(min=1e-8)
    return (tree.went_right / tree.reached).clamp(0, 1) + now - now.detach()


def _level(count: int) -> Tensor:
    """The level of each of the first nodes, from 0: node i is on level ⌊log2(i + 1)⌋."""
    return torch.arange(1, count + 1).log2().floor()


# Losses for training.fit, and methods of recipes


models.MODELS["soft_tree"] = lambda num_classes, in_channels, **options: SoftDecisionTree(
    num_classes=num_classes, **options)


@recipes.method("tree_on_labels")
def on_labels(tree: SoftDecisionTree, batch, **options) -> tuple[Tensor, dict[str, Tensor]]:
    """Trains a tree on labels; options as in tree_loss. Raises ValueError for images without a label."""
    if int(batch.labels.min()) < 0:
        raise ValueError("on_labels needs a label for every image: use on_soft_targets for unlabelled images")
    return tree_loss(tree, batch, F.one_hot(batch.labels, tree.num_classes).float(), **options)


@recipes.method("tree_on_soft_targets")
def on_soft_targets(tree: SoftDecisionTree, batch, *, temperature: float = 1.0, **options):
    """Distils a teacher into a tree: the targets are its probabilities at a temperature; labels are not used."""
    return tree_loss(tree, batch, (batch.teacher_logits / temperature).softmax(1), **options)


def tree_loss(tree: SoftDecisionTree, batch, targets: Tensor, *, loss=expected_leaf_cross_entropy,
              balance: float = 0.03, final_inverse_temperature: float = 1.0, sparsity: float = 0.0,
              smoothness: float = 0.0, pixels: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a tree on a batch with targets N×C, and its parts (lesson 09).

    loss: expected_leaf_cross_entropy or mixture_loss; balance: weight of balance_penalty (Frosst and Hinton use 0.1;
    it is smaller here because few sets of classes are exactly half of the images); final_inverse_temperature: the
    value to which β rises linearly from 1 in the second half of training; sparsity, smoothness: weights of Σ|w| and
    of the total variation of the filters, both divided by 2^level of the gate; pixels: how many weights a gate keeps
    from the middle of training on (iterative hard thresholding, Blumensath and Davies 2009), those with the largest
    |weight| · standard deviation of their pixel; 0: all.
    """
    if pixels and batch.progress >= 0.5:
        with torch.no_grad():
            effect = tree.gates.weight.abs() * batch.images.flatten(1).std(0)
            tree.gates.weight.mul_(effect >= effect.topk(pixels, dim=1).values[:, -1:])
    tree.inverse_temperature.fill_(1 + (final_inverse_temperature - 1) * max(0.0, 2 * batch.progress - 1))
    log_paths = tree.log_paths(batch.images)
    filters = tree.gates.weight.view(-1, *batch.images.shape[1:])  # G×channels×H×W
    variation = filters.diff(dim=2).abs().sum((1, 2, 3)) + filters.diff(dim=3).abs().sum((1, 2, 3))
    weight = 0.5 ** _level(len(filters))
    parts = {
        "fit": loss(log_paths[:, -len(tree.leaves) :], tree.leaves, targets),
        "balance": balance * balance_penalty(update_routing_average(tree, log_paths)),
        "sparsity": sparsity * (tree.gates.weight.abs().sum(1) * weight).sum(),
        "smoothness": smoothness * (variation * weight).sum(),
    }
    return sum(parts.values()), parts
