"""Figures for a projector: large type, colours that colour-blind readers can tell apart, and the numbers beside them.

Every figure function is pure: it takes arrays and returns a matplotlib Figure. show puts a figure into a notebook
with its alternative text, and a table of its numbers below.
"""

import io

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito (2008). Teacher, student alone and distilled student keep their colour and dash in the whole series.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)
TEACHER = {"color": BLACK, "linestyle": "-", "marker": "o"}
ALONE = {"color": ORANGE, "linestyle": "--", "marker": "s"}
DISTILLED = {"color": BLUE, "linestyle": "-.", "marker": "^"}
STYLE = {
    "figure.dpi": 100, "savefig.dpi": 100, "figure.constrained_layout.use": True, "font.size": 14,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 14, "lines.linewidth": 2.5,
    "lines.markersize": 8, "legend.frameon": False, "svg.hashsalt": "distill",
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK]),
}


def figure(rows: int = 1, columns: int = 1, *, width: float = 9.0, height: float = 4.5, **options):
    """A new figure and its axes in the series' style; sizes in inches."""
    with plt.rc_context(STYLE):
        return plt.subplots(rows, columns, figsize=(width, height), **options)


def show(fig: Figure, alt: str, table: list[dict] | None = None) -> None:
    """Display a figure with alternative text, and a table of its numbers.

    alt: one or two sentences that say what the figure shows to somebody who cannot see it; table: rows as dicts with
    the same keys, see show_table.
    """
    from IPython.display import display

    buffer = io.BytesIO()
    with plt.rc_context(STYLE):
        fig.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(fig)
    display({"image/png": _smaller(buffer), "text/plain": f"Figure: {alt}"}, raw=True,
            metadata={"image/png": {"alt": alt}})
    if table:
        show_table(table)


def _smaller(png: io.BytesIO) -> bytes:
    """The picture with 128 colours of its own choice: a third of the bytes, and no difference that an eye sees."""
    packed = io.BytesIO()
    Image.open(png).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(packed, format="png", optimize=True)
    return packed.getvalue()


def show_table(rows: list[dict]) -> None:
    """Display rows, dicts with the same keys, as a table; numbers to the right with up to four digits.

    What stands in a cell is shown as it is: no name of a class or a file becomes HTML, a link or a picture.
    """
    from IPython.display import display

    cells = [[_text(value) for value in row.values()] for row in rows]
    numeric = [all(isinstance(row[name], int | float | np.number) for row in rows) for name in rows[0]]
    names = [_text(name) for name in rows[0]]
    rule = ["---:" if right else ":---" for right in numeric]
    markdown = "\n".join(
        "| " + " | ".join(without_markup(cell) for cell in line) + " |" for line in [names, rule, *cells]
    )
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    plain = "\n".join(
        "  ".join(
            cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(line, widths, numeric, strict=True)
        )
        for line in [names, *cells]
    )
    display({"text/markdown": markdown, "text/plain": plain}, raw=True)


def without_markup(text: str) -> str:
    """Markdown without HTML, pictures and links but for a bare address, where __name__ is not bold: for words that
    come from data."""
    return text.replace("<", "&lt;").replace("](", "]&#40;").replace("__", "\\_\\_")


def _text(value) -> str:
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        value = float(value) + 0.0  # -0.0, which a rounded effect may be, is 0
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def image_grid(images, titles=None, *, columns: int = 8, size: float = 1.35, masks=None) -> Figure:
    """Images N×channels×H×W in rows of `columns`, on one grey scale from 0 to 1; masks outlines a bool N×H×W."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    fig, axes = figure(rows, columns, width=size * columns, height=(size + (0.3 if titles else 0)) * rows,
                       squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        draw_image(axis, image)
        if masks is not None:
            axis.contour(masks[i], levels=[0.5], colors=RED, linewidths=1.5)
        if titles is not None:
            axis.set_title(titles[i])
    return fig


def draw_image(axis, image) -> None:
    """One image, channels×H×W in [0, 1], on an axis without ticks."""
    pixels = np.moveaxis(np.asarray(image), 0, -1)
    axis.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
    axis.axis("off")


def draw_tree(tree, classes, shape: tuple[int, int], *, images=None, image=None) -> Figure:
    """A readable.HardTree from its root down: what each gate looks at, and the class that each leaf says.

    shape: H×W of an image with one channel. In a gate, blue weights speak for yes, the right-hand side, and red ones
    for no, on a scale of the gate's own; below a leaf stand its distribution over classes and, with images N×1×H×W,
    the share of them that ends there, which is also the width of the lines. image: one of 1×H×W whose path is marked.
    """
    paths = tree.paths()
    share = np.ones(len(paths)) / len(paths)
    if images is not None:
        share = np.bincount(tree.leaf(images).numpy(), minlength=len(paths)) / len(images)
    taken = set() if image is None else set(paths[int(tree.leaf(image[None])[0])])
    leaves = {gate: [i for i, path in enumerate(paths) if gate in dict(path)] for gate in range(len(tree.weights))}
    depth = max(map(len, paths))
    fig, axis = figure(width=max(6.0, 0.95 * len(paths)), height=1.45 * (depth + 1.2))
    axis.set(xlim=(-0.6, len(paths) - 0.4), ylim=(-depth - 1.0, 0.5))
    axis.axis("off")
    place = {gate: (np.mean(leaves[gate]), -dict(_levels(paths))[gate]) for gate in leaves}
    for i, path in enumerate(paths):
        _leaf(axis, i, -len(path), tree.leaves[i], classes, share[i] if images is not None else None)
        ends = [place[gate] for gate, _ in path] + [(i, -len(path))]
        for step, start, end in zip(path, ends, ends[1:], strict=False):
            below = [j for j in leaves[step[0]] if dict(paths[j])[step[0]] == step[1]]
            color, width = (ORANGE, 6) if step in taken else ("#BBBBBB", 1 + 10 * share[below].sum())
            axis.plot(
                [start[0], end[0]], [start[1], end[1]], color=color, linewidth=width, zorder=1 + (step in taken)
            )
    for side, word in ((0, "no"), (1, "yes")) if place else ():
        x, y = place[0]
        axis.text(x + (2 * side - 1) * 0.6, y + 0.08, word, ha="left" if side else "right", va="bottom")
    for gate, (x, y) in place.items():
        inset = axis.inset_axes([x - 0.42, y - 0.36, 0.84, 0.72], transform=axis.transData, zorder=5)
        draw_filter(inset, tree.weights[gate], shape)
    return fig


def draw_filter(axis, weights, shape: tuple[int, int]) -> None:
    """One filter of H·W weights, blue above 0 and red below, on a symmetric scale of its own."""
    weights = np.asarray(weights).reshape(shape)
    largest = np.abs(weights).max() or 1.0
    axis.imshow(weights, cmap="RdBu", vmin=-largest, vmax=largest)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=True, color="#666666")


def _levels(paths) -> list[tuple[int, int]]:
    return [(gate, level) for path in paths for level, (gate, _) in enumerate(path)]


def _leaf(axis, x: float, y: float, logits, classes, share: float | None) -> None:
    chance = np.asarray(logits.softmax(0))
    axis.text(x, y - 0.05, str(classes[int(chance.argmax())]), ha="center", va="center", fontsize=18, weight="bold",
              bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "#666666"}, zorder=6)
    inset = axis.inset_axes([x - 0.38, y - 0.75, 0.76, 0.36], transform=axis.transData, zorder=5)
    inset.bar(range(len(chance)), chance, color=BLUE)
    inset.set(ylim=(0, 1), xticks=[], yticks=[])
    if share is not None:
        axis.text(x, y - 0.78, f"{share:.0%}", ha="center", va="top", fontsize=12)
