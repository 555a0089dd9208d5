"""Drawings of a HardTree and of its filters (lesson 09)."""

import numpy as np
from matplotlib.figure import Figure

from distill_utils.plots import BLUE, ORANGE, figure


def draw_tree(tree, classes, shape: tuple[int, int], *, images=None, image=None, overlay=False) -> Figure:
    """A hard_tree.HardTree from its root down: the filter of each gate and the prediction of each leaf.

    shape: H×W of an image with one channel. Below a leaf are its distribution over classes and, with images N×1×H×W,
    the share of them that ends there, which is also the width of the lines. image: one of 1×H×W whose path is marked;
    overlay: draw each filter over the mean of the images that reach its gate, for filters of few pixels. Raises
    ValueError for overlay without images.
    """
    paths = tree.paths()
    if overlay and images is None:
        raise ValueError("overlay needs the images whose means are drawn: give images")
    share, reached = np.ones(len(paths)) / len(paths), np.empty(0)
    if images is not None:
        reached = tree.leaf(images).numpy()
        share = np.bincount(reached, minlength=len(paths)) / len(images)
    marked = set() if image is None else set(paths[int(tree.leaf(image[None])[0])])
    depth = max(map(len, paths))
    fig, axis = figure(width=max(6.0, 0.75 * len(paths)), height=1.3 * (depth + 1.4))
    axis.set(xlim=(-0.6, len(paths) - 0.4), ylim=(-depth - 1.25, 0.5))
    axis.axis("off")
    place, line_share = {}, {}  # where a gate is drawn: above the middle of its leaves; how many images take a line
    for gate in range(len(tree.weights)):
        below = [i for i, path in enumerate(paths) if gate in dict(path)]
        place[gate] = (np.mean(below), -[step[0] for step in paths[below[0]]].index(gate))
        for side in (0, 1):
            line_share[gate, side] = sum(share[i] for i in below if (gate, side) in paths[i])
    for i, path in enumerate(paths):
        _draw_leaf(axis, i, -len(path), tree.leaves[i], classes, share[i] if images is not None else None)
        ends = [place[gate] for gate, _ in path] + [(i, -len(path))]
        for step, start, end in zip(path, ends, ends[1:], strict=False):
            color, width = (ORANGE, 6) if step in marked else ("#BBBBBB", 1 + 10 * line_share[step])
            axis.plot(*zip(start, end, strict=True), color=color, linewidth=width, zorder=1 + (step in marked))
    if place:
        x, y = place[0]
        axis.text(x - 0.6, y + 0.08, "no", ha="right", va="bottom")
        axis.text(x + 0.6, y + 0.08, "yes", ha="left", va="bottom")
    for gate, (x, y) in place.items():
        inset = axis.inset_axes([x - 0.42, y - 0.36, 0.84, 0.72], transform=axis.transData, zorder=5)
        under = None
        if overlay:
            leaves = [i for i, path in enumerate(paths) if gate in dict(path)]
            under = images[np.isin(reached, leaves)].mean(0)
        draw_filter(inset, tree.weights[gate], shape, under=under)
    return fig


def draw_filter(axis, weights, shape: tuple[int, int], *, under=None) -> None:
    """One filter of H·W weights, blue above 0 (for yes) and red below (for no), on a symmetric scale of its own.

    under: an image of H·W pixels in [0, 1], drawn in grey where the filter is zero.
    """
    weights = np.asarray(weights).reshape(shape)
    largest = np.abs(weights).max() or 1.0
    if under is not None:
        axis.imshow(1 - np.asarray(under).reshape(shape), cmap="gray", vmin=-1.5, vmax=1.1)  # pale ink
        weights = np.ma.masked_equal(weights, 0)
    axis.imshow(weights, cmap="RdBu", vmin=-largest, vmax=largest)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=True, color="#666666")


def _draw_leaf(axis, x: float, y: float, logits, classes, share: float | None) -> None:
    probability = np.asarray(logits.softmax(0))
    axis.text(x, y - 0.05, str(classes[int(probability.argmax())]), ha="center", va="center", fontsize=18,
              bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "#666666"}, zorder=6,
              parse_math=False)
    inset = axis.inset_axes([x - 0.38, y - 0.75, 0.76, 0.36], transform=axis.transData, zorder=5)
    inset.bar(range(len(probability)), probability, color=BLUE)
    inset.set(ylim=(0, 1), xticks=[], yticks=[])
    if len(classes) <= 10 and all(len(str(name)) == 1 for name in classes):  # there is room for some of their names
        named: list[int] = []
        for k in probability.argsort()[::-1].tolist():
            if probability[k] >= 0.1 and all(abs(k - other) > 2 for other in named):
                named.append(k)
        inset.set_xticks(named, [classes[k] for k in named], fontsize=13, parse_math=False)
        inset.tick_params(length=0, pad=1)
    if share is not None:
        axis.text(x, y - 1.0, "<1%" if 0 < share < 0.005 else f"{share:.0%}", ha="center", va="top", fontsize=12)
