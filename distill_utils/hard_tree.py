"""Trees that answer yes or no, whatever grew them, and what it takes to read one.

A soft decision tree (harden) and a CART of scikit-learn (from_cart) become one HardTree, so that both are read, drawn
and priced on one scale: levels, leaves in use, pixels in a question, operations along a path. What reads badly here
reads badly everywhere; that these numbers are small does not mean that people see the tree's mistakes.
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
    """Gates that ask w·x + b > 0, and leaves that name a class.

    weights: G×in_features; biases: G; below: LongTensor G×2, to the left (no) and to the right (yes): a number
    from 0 is a gate, −1 − l is leaf l; leaves: logits L×C. The root is gate 0, or leaf 0 in a tree without gates.
    nodes: the number that each gate has in the tree it was made from. Takes images N×channels×H×W or N×in_features,
    returns logits N×C. Raises ValueError where these are no tree, numbered from the root down, or where an image
    holds a number that is not finite, of which no gate can say anything.
    """

    def __init__(self, weights: Tensor, biases: Tensor, below: Tensor, leaves: Tensor, nodes: Tensor):
        super().__init__()
        shapes = [tuple(value.shape) for value in (weights, biases, below, leaves, nodes)]
        gates = shapes[0][0] if shapes[0] else -1
        if shapes[1:] != [(gates,), (gates, 2), (gates + 1, *shapes[3][1:]), (gates,)] or len(shapes[0]) != 2 or (
            len(shapes[3]) != 2 or 0 in (shapes[0][1], shapes[3][1])
        ):
            raise ValueError(f"G×in_features weights, G biases, G×2 below, G + 1 leaves, G nodes: found {shapes}")
        _validate.tensors(leaves=(leaves, "float L×C"))
        if gates:
            _validate.tensors(weights=(weights, "finite float G×D"), biases=(biases, "finite float G"),
                              below=(below, "int64 G×2"), nodes=(nodes, "int64 G"))
            below_ = below.cpu()
            parts, above = below_.flatten().sort().values, torch.arange(gates)[:, None]
            once = torch.equal(parts, torch.cat([torch.arange(-gates - 1, 0), torch.arange(1, gates)]))
            if not once or bool(((below_ >= 0) & (below_ <= above)).any()):
                raise ValueError("below names each leaf and each gate but the root once, a gate before its parts")
        for name, value in {"weights": weights, "biases": biases, "below": below, "leaves": leaves,
                            "nodes": nodes}.items():
            self.register_buffer(name, value)

    def forward(self, images: Tensor) -> Tensor:
        return self.leaves[self.leaf(images)]

    def leaf(self, images: Tensor) -> Tensor:
        """The leaf that each image reaches, LongTensor N."""
        _check(self, images)
        at = self._start(len(images))
        going = at >= 0
        while bool(going.any()):
            gate = at[going]
            yes = (self.scores(images[going], gate) > 0).long()
            at[going] = self.below[gate, yes]
            going = at >= 0
        return -1 - at

    def _start(self, count: int) -> Tensor:
        return torch.full((count,), 0 if len(self.weights) else -1)

    def scores(self, images: Tensor, gate: Tensor) -> Tensor:
        """w·x + b of one gate for each image, N."""
        _check(self, images)
        if isinstance(gate, Tensor):
            _validate.tensors(images=(images, "float N×…"), gate=(gate, "int64 N"))
        for end in (int(gate.min()), int(gate.max())) if isinstance(gate, Tensor) else (gate,):
            _validate.number("gate", end, 0, len(self.weights) - 1, whole=True)
        return (images.flatten(1) * self.weights[gate]).sum(1) + self.biases[gate]

    def paths(self) -> list[list[tuple[int, int]]]:
        """For every leaf the gates that lead to it, from the root, each with the side taken, 0 (no) or 1 (yes)."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.leaves]

        def walk(node, path):
            if node < 0:
                found[-1 - node] = path
                return
            for side in (0, 1):
                walk(int(self.below[node, side]), [*path, (node, side)])

        walk(0 if len(self.weights) else -1, [])
        return found


def harden(tree: SoftDecisionTree, images: Tensor, *, least: float = 0.0002, cut: float = 0.02) -> HardTree:
    """The soft tree with yes or no at every gate, without what nobody needs.

    images: what decides which leaves are in use, such as the training images; least: a leaf that fewer than this
    share of them reach is pruned, and the gate above it falls away; cut: weights below this share of the largest in
    their filter become 0. What both cost shows in the hard tree's own accuracy and agreement.
    Raises ValueError for a tree that was never trained.
    """
    _validate.number("least", least, 0, 1)
    _validate.number("cut", cut, 0, 1)
    if not tree.trained:
        raise ValueError("this tree has not been trained: its gates are random, so there is nothing to read")
    with torch.no_grad():
        weights = tree.gates.weight.clone()
        weights[weights.abs() < cut * weights.abs().max(1, keepdim=True).values] = 0
        biases, leaves = tree.gates.bias.clone(), tree.leaves.log_softmax(1)
    gates = len(weights)
    node = torch.arange(gates)
    below = torch.stack([2 * node + 1, 2 * node + 2], 1)
    below = torch.where(below < gates, below, gates - 1 - below)
    full = HardTree(weights, biases, below, leaves, node)
    share = torch.bincount(full.leaf(images), minlength=len(leaves)) / len(images)
    return _pruned(full, share >= min(least, float(share.max())))


def _pruned(full: HardTree, wanted: Tensor) -> HardTree:
    """Without the leaves that are not wanted: a gate with one side left is replaced by what lies on that side."""

    def kept(node: int):
        if node < 0:
            return -1 - node if bool(wanted[-1 - node]) else None
        no, yes = (kept(int(child)) for child in full.below[node])
        return (node, no, yes) if no is not None and yes is not None else yes if no is None else no

    gates, below, leaves = _numbered(kept(0))
    return HardTree(full.weights[gates], full.biases[gates], below, full.leaves[leaves], full.nodes[gates])


def _numbered(whole) -> tuple[list[int], Tensor, list[int]]:
    """Of a tree written as (gate, no, yes) with leaves as bare numbers: its gates and its leaves, from the root and
    from the left, and what lies below each gate, as HardTree takes it."""
    gates: list = []
    below: list[list[int]] = []
    leaves: list = []

    def number(part) -> int:
        if not isinstance(part, tuple):
            leaves.append(part)
            return -len(leaves)
        place = len(gates)
        gates.append(part[0])
        below.append([])
        below[place] = [number(part[1]), number(part[2])]
        return place

    number(whole)
    return gates, torch.tensor(below, dtype=torch.long).view(-1, 2), leaves


def cart(images: Tensor, targets: Tensor, depth: int, *, seed: int = 0) -> DecisionTreeRegressor:
    """scikit-learn's CART grown to `depth` on targets N×C.

    With the labels as 0 and 1 this is CART as everybody knows it: the squared error of one-hot targets, averaged over
    the classes, is their Gini impurity divided by C. With a teacher's probabilities it is the multi-output regression
    tree of Liu, Wang and Matwin (2018), with its centred logits the same at infinite temperature (see
    losses.soft_target_loss). Growing is greedy, so the first levels of a deeper tree are the shallower tree.
    """
    _validate.tensors(images=(images, "finite float N×features×…"), targets=(targets, "finite float N×C"))
    _validate.number("depth", depth, 1, whole=True)
    _validate.number("seed", seed, 0, 2**32 - 1, whole=True)
    grower = DecisionTreeRegressor(max_depth=depth, random_state=seed)
    return grower.fit(images.flatten(1).numpy(), targets.numpy())


def from_cart(fitted: DecisionTreeRegressor, *, depth: int | None = None, logits: bool = False) -> HardTree:
    """What cart grew as a HardTree, cut off below `depth`; its gates ask "is this pixel brighter than …?".

    logits: whether its targets were logits rather than probabilities.
    """
    if depth is not None:
        _validate.number("depth", depth, 0, whole=True)
    grown = fitted.tree_
    limit = grown.max_depth if depth is None else depth

    def part(node: int, level: int):
        if grown.children_left[node] < 0 or level == limit:
            return node
        sides = (grown.children_left[node], grown.children_right[node])
        return (node, *(part(int(side), level + 1) for side in sides))

    gates, below, leaves = _numbered(part(0, 0))
    weights = torch.zeros(len(gates), fitted.n_features_in_)
    weights[torch.arange(len(gates)), torch.from_numpy(grown.feature[gates])] = 1
    biases = -torch.from_numpy(grown.threshold[gates]).float()
    values = torch.from_numpy(grown.value[leaves, :, 0]).float()
    return HardTree(weights, biases, below, values if logits else values.clamp(min=1e-6).log(), torch.tensor(gates))


def measures(tree: HardTree, images: Tensor) -> dict[str, float]:
    """What it takes to read a tree, over the paths that these images take.

    depth, gates and leaves: counts of what is left; path: mean number of gates asked; pixels: mean number of
    non-zero weights in a gate; operations: mean number of multiplications, comparisons and look-ups by hand for one
    answer (Slack et al. 2019 find that this predicts whether people can foretell a model); leaves_for_95: leaves
    that together hold 95 % of the images.
    """
    reached = tree.leaf(images)
    paths = tree.paths()
    pixels = (tree.weights != 0).sum(1)
    length = torch.tensor([len(path) for path in paths]).float()
    # A weight of 1 needs no multiplication, so a CART's gate costs its comparison alone; a leaf costs one look-up.
    products = ((tree.weights != 0) & (tree.weights != 1)).sum(1) + 1
    work = torch.tensor([1.0 + sum(int(products[gate]) for gate, _ in path) for path in paths])
    share = torch.bincount(reached, minlength=len(paths)).sort(descending=True).values / len(images)
    return {
        "depth": int(length.max()), "gates": len(tree.weights), "leaves": len(tree.leaves),
        "path": float(length[reached].mean()), "pixels": float(pixels.float().mean()) if len(pixels) else 0.0,
        "operations": float(work[reached].mean()),
        "leaves_for_95": int((share.cumsum(0) < 0.95 - 1e-6).sum()) + 1,
    }


def hardness(tree: SoftDecisionTree, hard: HardTree, images: Tensor) -> dict[str, float]:
    """How far a soft tree is its hard export, on these images.

    agreement: share where the hard path and the most likely path name one class; agreement_with_mixture: the same
    for the mixture of all leaves; sure: share whose most likely leaf has more than 0.9 of the mass; top_mass: the
    mean mass of that leaf. All in [0, 1].
    """
    with torch.no_grad():
        said, path, mixed = (answer(images).argmax(1) for answer in (hard, tree.path_logits, tree))
        top = tree.leaf_log_probabilities(images).exp().max(1).values
    return {
        "agreement": float((said == path).float().mean()),
        "agreement_with_mixture": float((said == mixed).float().mean()),
        "sure": float((top > 0.9).float().mean()), "top_mass": float(top.mean()),
    }


# Reading


def rules(tree: HardTree, classes, *, shape: tuple[int, int] | None = None) -> str:
    """The tree as text, one line for each gate and leaf, indented by level.

    classes: their names; shape: H×W, to name a pixel by row and column (from 0). A gate that looks at one pixel is
    written out; one that weighs many is named by its number and the pixels it looks at, and has to be drawn.
    """
    lines = []
    if len(classes) < tree.leaves.shape[1]:
        raise ValueError(f"this tree names {tree.leaves.shape[1]} classes, found the names of {len(classes)}")

    def write(node: int, indent: str) -> None:
        if node < 0:
            chance = tree.leaves[-1 - node].softmax(0)
            best = int(chance.argmax())
            lines.append(f"{indent}say {classes[best]} ({chance[best]:.2f})")
            return
        for side, word in ((1, "if"), (0, "else")):
            lines.append(f"{indent}if {question(tree, node, shape)}:" if side else f"{indent}{word}:")
            write(int(tree.below[node, side]), indent + "    ")

    write(0 if len(tree.weights) else -1, "")
    return "\n".join(lines)


def question(tree: HardTree, gate: int, shape: tuple[int, int] | None = None) -> str:
    """What a gate asks, in words."""
    _validate.number("gate", gate, 0, len(tree.weights) - 1, whole=True)
    weights = tree.weights[gate]
    looked_at = weights.nonzero()[:, 0]
    if len(looked_at) == 1:
        pixel, weight = int(looked_at[0]), float(weights[looked_at[0]])
        place = f"pixel {pixel}" if shape is None else f"row {pixel // shape[1]}, column {pixel % shape[1]}"
        return f"{place} {'>' if weight > 0 else '<'} {-float(tree.biases[gate]) / weight:.3f}"
    return f"gate {int(tree.nodes[gate])} says yes ({len(looked_at)} pixels)"


class Step(NamedTuple):
    """One gate on the way of an image: its place in the HardTree, its score w·x + b, and whether it said yes."""

    gate: int
    score: float
    yes: bool


class Decision(NamedTuple):
    """Why a tree said what it said of one image.

    steps: the gates on the path; leaf, answer: where it ends and the class that is said; nearest: the smallest change
    of the image, channels×H×W, that makes the tree say another class, and other: that class; None where the whole
    tree says one class. The tree itself has been asked: it says `other` of image + nearest.
    """

    steps: list[Step]
    leaf: int
    answer: int
    nearest: Tensor | None
    other: int | None


def explain(tree: HardTree, image: Tensor) -> Decision:
    """The path of one image, channels×H×W, through a tree, and the nearest change that flips the answer.

    The change is nearest in Euclidean length among all there are, since every leaf is a polyhedron; it does not know
    that grey levels end at 0 and 1.
    """
    images = image[None] if isinstance(image, Tensor) else image
    leaf = int(tree.leaf(images))
    answers = tree.leaves.argmax(1)
    steps = []
    for gate, side in tree.paths()[leaf]:
        steps.append(Step(gate, float(tree.scores(images, gate)), bool(side)))
    nearest, other = None, None
    for i, path in enumerate(tree.paths()):
        if answers[i] == answers[leaf]:
            continue
        change = _projection(tree, image, path)
        if change is None or (nearest is not None and change.norm() >= nearest.norm()):
            continue
        if int(tree.leaf((image + change)[None])) == i:
            nearest, other = change, int(answers[i])
    return Decision(steps, leaf, int(answers[leaf]), nearest, other)


def _projection(tree: HardTree, image: Tensor, path: list[tuple[int, int]], *, margin: float = 1e-3) -> Tensor | None:
    """The shortest change of an image that sends it down this path: min ‖δ‖ with Aδ ≥ c, which is least distance
    programming (Lawson and Hanson 1974, chapter 23), solved by one non-negative least squares. margin: of the largest
    weight, how far behind each gate it goes, so that rounding does not take it back."""
    x = image.flatten().double()
    gates, sides = (torch.tensor(part) for part in zip(*path, strict=True))
    sign = (2 * sides - 1).double()
    a = sign[:, None] * tree.weights[gates].double()
    scale = a.norm(dim=1).clamp(min=1e-12)  # a gate without a weight says the same of every image
    a = a / scale[:, None]
    c = margin - a @ x - sign * tree.biases[gates].double() / scale
    u, _ = nnls(torch.cat([a.T, c[None]]).numpy(), np.append(np.zeros(len(x)), 1.0))
    residual = torch.cat([a.T, c[None]]) @ torch.from_numpy(u)
    residual[-1] -= 1
    if float(residual.norm()) < 1e-9:  # no image takes this path
        return None
    return (-residual[:-1] / residual[-1]).float().view_as(image)


# A tree as a scale for other models


def surrogate_fidelity(
    features: Tensor, answers: Tensor, held_out: tuple[Tensor, Tensor], depths
) -> dict[int, float]:
    """How often a CART on these features says what a model says, by depth: a scale of readability for any model.

    features: N×F; answers: the model's classes, LongTensor N; held_out: the same two for images that the CART has
    not seen, on which fidelity, in [0, 1], is measured.
    """
    seen, said = held_out
    _validate.tensors(features=(features, "finite float N×F"), answers=(answers, "int64 N"),
                      held_out=(seen, "finite float M×F"), its_answers=(said, "int64 M"))
    found = {}
    for depth in depths:
        _validate.number("depth", depth, 1, whole=True)
        tree = DecisionTreeClassifier(max_depth=depth, random_state=0).fit(features.numpy(), answers.numpy())
        found[depth] = float((torch.from_numpy(tree.predict(seen.numpy())) == said).float().mean())
    return found


def _check(tree: HardTree, images: Tensor) -> None:
    _validate.tensors(images=(images, "finite float N×features×…"))
    count = images[0].numel()
    if len(tree.weights) and count != tree.weights.shape[1]:
        raise ValueError(f"this tree reads images of {tree.weights.shape[1]} numbers, found {count}")
