"""Trees with yes-or-no gates, exported from a soft tree or a CART, and what it takes to read one (lesson 09).

A soft decision tree (harden) and a CART of scikit-learn (from_cart) become one HardTree, so that both are drawn and
measured in the same way. Small numbers do not mean that people notice the tree's mistakes.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from torch import Tensor, nn

from distill_utils import _validate
from distill_utils.soft_tree import SoftDecisionTree


class HardTree(nn.Module):
    """A decision tree whose gates test w·x + b > 0 and whose leaves hold class logits.

    weights: G×in_features; biases: G; child_nodes: LongTensor G×2, the left (no) and the right (yes) child of each
    gate, parents first: g ≥ 0 is gate g, −1 − l is leaf l; leaves: logits (G + 1)×C; nodes: LongTensor G, the number
    that each gate has in the tree it was made from. The root is gate 0, or leaf 0 in a tree without gates. Takes
    images N×channels×H×W or N×in_features and returns logits N×C. Raises ValueError for images of another size.
    """

    def __init__(self, weights: Tensor, biases: Tensor, child_nodes: Tensor, leaves: Tensor, nodes: Tensor):
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("biases", biases)
        self.register_buffer("child_nodes", child_nodes)
        self.register_buffer("leaves", leaves)
        self.register_buffer("nodes", nodes)
        self.root = 0 if len(weights) else -1

    def forward(self, images: Tensor) -> Tensor:
        return self.leaves[self.leaf(images)]

    def leaf(self, images: Tensor) -> Tensor:
        """The leaf that each image reaches, LongTensor N."""
        _validate.tensors(images=(images, "finite float N×features×…"))
        if len(self.weights) and images[0].numel() != self.weights.shape[1]:
            raise ValueError(f"images must have {self.weights.shape[1]} values each, got {images[0].numel()}")
        node = torch.full((len(images),), self.root)
        while bool((inside := node >= 0).any()):
            gate = node[inside]
            yes = self.scores(images[inside], gate) > 0
            node[inside] = self.child_nodes[gate, yes.long()]
        return -1 - node

    def scores(self, images: Tensor, gate: Tensor | int) -> Tensor:
        """w·x + b for each image, N; gate: one for all images, or LongTensor N with one for each."""
        return (images.flatten(1) * self.weights[gate]).sum(1) + self.biases[gate]

    def paths(self) -> list[list[tuple[int, int]]]:
        """For every leaf the gates that lead to it, from the root, each with the side taken, 0 (no) or 1 (yes)."""
        leading_to: dict[int, list[tuple[int, int]]] = {self.root: []}
        for gate, pair in enumerate(self.child_nodes.tolist()):  # parents come first
            for side, child in enumerate(pair):
                leading_to[child] = [*leading_to[gate], (gate, side)]
        return [leading_to[-1 - leaf] for leaf in range(len(self.leaves))]


# Export


def harden(tree: SoftDecisionTree, images: Tensor) -> HardTree:
    """The soft tree with a yes-or-no decision at every gate, pruned (lesson 09).

    Weights below 2 % of the largest in their filter become 0. A leaf that fewer than 0.02 % of the images reach, such
    as the training images, is removed together with the gate above it. hardening_fidelity measures what this costs.
    Raises ValueError for a tree that was never trained.
    """
    if float(tree.reached[0]) == 0:
        raise ValueError("this tree has not been trained: its gates are random")
    with torch.no_grad():
        weights = tree.gates.weight.clone()
        weights[weights.abs() < 0.02 * weights.abs().max(1, keepdim=True).values] = 0
        biases, leaves = tree.gates.bias.clone(), tree.leaves.log_softmax(1)

    def part(node: int, used: Tensor):
        if node >= len(weights):
            leaf = node - len(weights)
            return leaf if bool(used[leaf]) else None
        no, yes = part(2 * node + 1, used), part(2 * node + 2, used)
        if no is None or yes is None:  # a gate with one side left decides nothing
            return yes if no is None else no
        return node, no, yes

    full = _assemble(part(0, torch.ones(len(leaves))), weights, biases, leaves)
    share = torch.bincount(full.leaf(images), minlength=len(leaves)) / len(images)
    return _assemble(part(0, share >= 0.0002), weights, biases, leaves)


def _assemble(whole, weights: Tensor, biases: Tensor, leaves: Tensor) -> HardTree:
    """A HardTree from nested (gate, no, yes), with a bare number for a leaf; the numbers are rows of the tensors."""
    gates: list[int] = []
    children: list[list[int]] = []
    ends: list[int] = []

    def number(part) -> int:
        if not isinstance(part, tuple):
            ends.append(part)
            return -len(ends)
        place = len(gates)
        gates.append(part[0])
        children.append([])
        children[place] = [number(part[1]), number(part[2])]
        return place

    number(whole)
    nodes, links = torch.tensor(gates, dtype=torch.long), torch.tensor(children, dtype=torch.long).view(-1, 2)
    return HardTree(weights[nodes], biases[nodes], links, leaves[ends], nodes)


def cart(images: Tensor, targets: Tensor, depth: int, *, seed: int = 0) -> DecisionTreeRegressor:
    """scikit-learn's CART, grown to `depth` on targets N×C (lesson 09).

    With one-hot labels this is the usual classification tree: the squared error, averaged over the classes, is their
    Gini impurity divided by C. With a teacher's probabilities it is the multi-output regression tree of Liu, Wang and
    Matwin (2018); the teacher's centred logits are the same at infinite temperature. Growing is greedy, so the first
    levels of a deeper tree are the shallower tree.
    """
    _validate.tensors(images=(images, "finite float N×features×…"), targets=(targets, "finite float N×C"))
    _validate.number("depth", depth, 1, whole=True)
    tree = DecisionTreeRegressor(max_depth=depth, random_state=seed)
    return tree.fit(images.flatten(1).numpy(), targets.numpy())


def from_cart(fitted: DecisionTreeRegressor, *, depth: int, logits: bool = False) -> HardTree:
    """A CART as a HardTree, cut off below `depth`; its gates test whether one pixel is brighter than a threshold.

    logits: whether its targets were logits rather than probabilities. For float32 images, every gate decides exactly
    as scikit-learn does.
    """
    grown = fitted.tree_
    left, right = grown.children_left.tolist(), grown.children_right.tolist()

    def part(node: int, level: int):
        if left[node] < 0 or level == depth:
            return node
        return node, part(left[node], level + 1), part(right[node], level + 1)

    weights = torch.zeros(grown.node_count, fitted.n_features_in_)
    weights[torch.arange(grown.node_count), torch.from_numpy(grown.feature).clamp(min=0)] = 1
    # Thresholds are float64. Rounded down to float32, they decide the same for every float32 pixel; the nearest
    # float32 could lie on the other side of a pixel.
    threshold = grown.threshold.astype(np.float32)
    threshold = np.where(threshold > grown.threshold, np.nextafter(threshold, np.float32(-np.inf)), threshold)
    values = torch.from_numpy(grown.value[:, :, 0]).float()
    leaves = values if logits else values.clamp(min=1e-6).log()
    return _assemble(part(0, 0), weights, -torch.from_numpy(threshold), leaves)


# How hard a tree is to read, and how faithful its export is


def complexity(tree: HardTree, images: Tensor) -> dict[str, float]:
    """What it takes to read a tree, over the paths that these images take (lesson 09).

    depth, gates, leaves: counts; path: mean number of gates on a path; pixels: mean number of non-zero weights in a
    gate; operations: mean number of multiplications, comparisons and look-ups for one prediction by hand (Slack et
    al. 2019 find that it predicts whether people can anticipate a model's output); leaves_for_95: how many leaves it
    takes to cover 95 % of the images.
    """
    reached, paths = tree.leaf(images), tree.paths()
    pixels = (tree.weights != 0).sum(1).float()
    length = torch.tensor([float(len(path)) for path in paths])
    # A gate costs one comparison and a product for each weight but 0 and 1; a leaf costs one look-up.
    gate_work = ((tree.weights != 0) & (tree.weights != 1)).sum(1) + 1
    work = torch.tensor([1.0 + sum(int(gate_work[gate]) for gate, _ in path) for path in paths])
    share = torch.bincount(reached, minlength=len(paths)).sort(descending=True).values / len(images)
    return {
        "depth": int(length.max()), "gates": len(tree.weights), "leaves": len(tree.leaves),
        "path": float(length[reached].mean()), "pixels": float(pixels.mean()) if len(pixels) else 0.0,
        "operations": float(work[reached].mean()),
        "leaves_for_95": int((share.cumsum(0) < 0.95 - 1e-6).sum()) + 1,
    }


def hardening_fidelity(tree: SoftDecisionTree, hard: HardTree, images: Tensor) -> dict[str, float]:
    """How closely a hard export follows its soft tree on these images, all in [0, 1] (lesson 09).

    agreement: share where the hard tree and the most likely path predict the same class; agreement_with_mixture: the
    same for the mixture of all leaves; sure: share whose most likely leaf has more than 0.9 of the probability;
    top_mass: the mean probability of that leaf.
    """
    with torch.no_grad():
        predicted, path, mixture = (model(images).argmax(1) for model in (hard, tree.path_logits, tree))
        top = tree.leaf_log_probabilities(images).exp().max(1).values
    return {
        "agreement": float((predicted == path).float().mean()),
        "agreement_with_mixture": float((predicted == mixture).float().mean()),
        "sure": float((top > 0.9).float().mean()), "top_mass": float(top.mean()),
    }


def surrogate_fidelity(features: Tensor, answers: Tensor, held_out: tuple[Tensor, Tensor],
                       depths) -> dict[int, float]:
    """Agreement in [0, 1] of a CART on these features with a model's predictions, by depth (lesson 09).

    The depth that a high agreement takes is a scale of simplicity for any model. features: N×F; answers: the model's
    classes, LongTensor N; held_out: the same two for other images, on which the agreement is measured.
    """
    found = {}
    for depth in depths:
        tree = DecisionTreeClassifier(max_depth=depth, random_state=0).fit(features.numpy(), answers.numpy())
        predicted = torch.from_numpy(tree.predict(held_out[0].numpy()))
        found[depth] = float((predicted == held_out[1]).float().mean())
    return found


# Reading


def rules(tree: HardTree, classes, *, shape: tuple[int, int]) -> str:
    """The tree as text, one line for each gate and leaf, indented by level (lesson 09).

    classes: their names; shape: H×W, to name a pixel by row and column (from 0). A gate that tests one pixel is
    written out; one that weighs several is named by its number, and has to be drawn.
    """
    def question(gate: int) -> str:
        pixels = tree.weights[gate].nonzero()[:, 0].tolist()
        if len(pixels) != 1:
            return f"gate {int(tree.nodes[gate])} > 0 ({len(pixels)} pixels)"
        row, column = divmod(pixels[0], shape[1])
        weight = float(tree.weights[gate, pixels[0]])
        return f"row {row}, column {column} {'>' if weight > 0 else '<'} {-float(tree.biases[gate]) / weight:.3f}"

    def write(node: int, indent: str) -> list[str]:
        if node < 0:
            probability = tree.leaves[-1 - node].softmax(0)
            best = int(probability.argmax())
            return [f"{indent}predict {classes[best]} ({probability[best]:.2f})"]
        no, yes = (write(child, indent + "    ") for child in tree.child_nodes[node].tolist())
        return [f"{indent}if {question(node)}:", *yes, f"{indent}else:", *no]

    return "\n".join(write(tree.root, ""))


class Step(NamedTuple):
    """One gate on the path of an image: its index in the HardTree, its score w·x + b, and whether that is above 0."""

    gate: int
    score: float
    yes: bool


class Decision(NamedTuple):
    """How a tree came to its prediction for one image.

    steps: the gates on the path; answer: the predicted class; nearest: the smallest change of the image,
    channels×H×W, that changes the prediction, and other: the class predicted for image + nearest. Both are None where
    every leaf predicts the same class.
    """

    steps: list[Step]
    answer: int
    nearest: Tensor | None
    other: int | None


def explain(tree: HardTree, image: Tensor) -> Decision:
    """The path of one image, channels×H×W, and the nearest change that flips the prediction (lesson 09).

    Every leaf is a polyhedron, so the change is the shortest of all in Euclidean length. It may leave the range
    [0, 1] of grey levels.
    """
    leaf, paths, answers = int(tree.leaf(image[None])), tree.paths(), tree.leaves.argmax(1).tolist()
    steps = [Step(gate, float(tree.scores(image[None], gate)), bool(side)) for gate, side in paths[leaf]]
    nearest, other = None, None
    for end, path in enumerate(paths):
        if answers[end] == answers[leaf]:
            continue
        change = _projection(tree, image, path)
        if change is None or (nearest is not None and change.norm() >= nearest.norm()):
            continue
        if int(tree.leaf((image + change)[None])) == end:  # rounding did not undo it
            nearest, other = change, answers[end]
    return Decision(steps, answers[leaf], nearest, other)


def _projection(tree: HardTree, image: Tensor, path: list[tuple[int, int]]) -> Tensor | None:
    """The shortest change of an image that sends it down this path, or None where no image takes it.

    min ‖δ‖ with Aδ ≥ c is least distance programming (Lawson and Hanson 1974, chapter 23), solved by one non-negative
    least squares. The change goes a thousandth beyond each gate, so that rounding does not undo it.
    """
    x = image.flatten().double()
    gates, sides = (torch.tensor(part) for part in zip(*path, strict=True))
    sign = (2 * sides - 1).double()
    a = sign[:, None] * tree.weights[gates].double()
    scale = a.norm(dim=1).clamp(min=1e-12)  # a gate whose weights are all 0 sends every image to the same side
    a = a / scale[:, None]
    c = 1e-3 - a @ x - sign * tree.biases[gates].double() / scale
    u, _ = nnls(torch.cat([a.T, c[None]]).numpy(), np.append(np.zeros(len(x)), 1.0))
    residual = torch.cat([a.T, c[None]]) @ torch.from_numpy(u)
    residual[-1] -= 1
    if float(residual.norm()) < 1e-9:
        return None
    return (-residual[:-1] / residual[-1]).float().view_as(image)
