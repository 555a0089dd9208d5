"""Figures and tables for notebooks: large type, colours for colour-blind readers, alternative text."""

import io
import math
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from distill_utils import settings
from distill_utils._translate import translated, wide_font

# Okabe and Ito (2008). Teacher, student alone and distilled student keep their colour and dash in the whole series.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)
TEACHER = {"color": BLACK, "linestyle": "-", "marker": "o"}
ALONE = {"color": ORANGE, "linestyle": "--", "marker": "s"}
DISTILLED = {"color": BLUE, "linestyle": "-.", "marker": "^"}
# matplotlib's own font has no Chinese, Japanese or Korean letters; where it lacks one, the first of these is used.
WIDE_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
              "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS")
STYLE = {
    "font.family": ["sans-serif", *filter(None, [wide_font(WIDE_FONTS)])],
    "figure.dpi": 100, "savefig.dpi": 100, "figure.constrained_layout.use": True, "font.size": 14,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 14, "lines.linewidth": 2.5,
    "lines.markersize": 8, "svg.hashsalt": "distill",
    "legend.edgecolor": "0.8",  # without a frame the samples of a legend look like data
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK]),
}


def figure(rows: int = 1, columns: int = 1, *, width: float = 9.0, height: float = 4.5, **options):
    """A new figure and its axes in the series' style; sizes in inches (lesson 00).

    It sets matplotlib's style for the whole notebook, in place of a reader's matplotlibrc.
    """
    plt.style.use(["default", STYLE])
    return plt.subplots(rows, columns, figsize=(width, height), **options)


def show(fig: Figure, alt: str, table: list[dict] | None = None) -> None:
    """Display a figure with alternative text, and a table of its numbers (lesson 00).

    alt: one or two sentences that describe the figure to readers who cannot see it; table: rows, see show_table.
    Text is shown as it is, so that no name of a class becomes a formula. Warns once about letters that no font on
    this machine has.
    """
    from IPython.display import display

    data, metadata = picture(fig, translated(alt))
    display(data, raw=True, metadata=metadata)
    if table:
        show_table(table)


def picture(fig: Figure, alt: str) -> tuple[dict, dict]:
    """A figure as the data and metadata that IPython.display.display takes with raw=True; closes the figure."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    finish(fig)
    with plt.style.context(["default", STYLE]), warnings.catch_warnings(record=True) as caught:
        fig.savefig(drawn, format="png", metadata={"Software": None})
    _warn_of_letters(caught)
    plt.close(fig)
    # A palette of 128 colours takes a third of the bytes without a visible difference. Median cut suits photographs;
    # but it darkens rare colours, as of the strongest pixels of a map, which the other method keeps.
    image = Image.open(drawn).convert("RGB")
    method = Image.Quantize.MAXCOVERAGE if image.getcolors(4096) else Image.Quantize.MEDIANCUT
    image.quantize(128, method=method, dither=Image.Dither.NONE).save(packed, format="png", optimize=True)
    return {"image/png": packed.getvalue(), "text/plain": f"Figure: {alt}"}, {"image/png": {"alt": alt}}


def finish(fig: Figure) -> None:
    """Put every text of a figure into the reader's language, and make it show its dollars, except for what a
    logarithmic axis writes, such as 10²."""
    has_font = settings.language() != "en" and wide_font(WIDE_FONTS)
    if has_font:
        for axis in (axis for axes in fig.axes for axis in (axes.xaxis, axes.yaxis)):
            names = [label.get_text() for label in axis.get_ticklabels()]
            if any(re.search(r"[A-Za-z]{2}", name) and "mathdefault" not in name for name in names):
                axis.set_ticks(axis.get_ticklocs(), [translated(name) for name in names])
    for text in fig.findobj(Text):
        if r"\mathdefault" in text.get_text():
            continue
        if has_font:
            text.set_text(translated(text.get_text()))
        if "$" in text.get_text():
            text.set_parse_math(False)


def _warn_of_letters(caught: list) -> None:
    """Give each warning again, but of those about letters without a glyph, of which there is one per letter, one."""
    global _warned
    for warning in caught:
        if "missing from font" not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif not _warned:
            _warned = True
            warnings.warn("no font on this machine has all letters of this figure, so that some are boxes: install "
                          f"Noto Sans CJK and restart the kernel ({warning.message})", stacklevel=3)


_warned = False


def show_table(rows: list[dict]) -> None:
    """Display rows, dicts with the same keys, as a table; numbers are right-aligned, with up to four digits.

    Cells are shown as they are: no name of a class or a file becomes markup or a formula.
    """
    from IPython.display import display

    lines = [[translated(_text(cell)) for cell in line] for line in [rows[0], *(row.values() for row in rows)]]
    numeric = [all(isinstance(row[name], int | float | np.number) for row in rows) for name in rows[0]]
    rule = ["---:" if right else ":---" for right in numeric]
    escaped = [[_escape(cell) for cell in line] for line in lines]
    markdown = "\n".join(f"| {' | '.join(line)} |" for line in [escaped[0], rule, *escaped[1:]])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    plain = "\n".join(
        "  ".join(cell.rjust(width) if right else cell.ljust(width)
                  for cell, width, right in zip(line, widths, numeric, strict=True)) for line in lines)
    display({"text/markdown": markdown, "text/plain": plain}, raw=True)


def _text(value) -> str:
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        value = float(value) + 0.0  # -0.0, which a rounded effect may be, becomes 0
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value).replace("\n", " ")


def _escape(text: str) -> str:
    """Markdown that shows a text as it is. A dollar becomes code, because JupyterLab reads even \\$ … \\$ as a
    formula; an underscore between letters needs no escape."""
    text = re.sub(r"[\\`*~|]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)
    return re.sub(r"\$+", r"`\g<0>`", without_markup(text))


def without_markup(text: str) -> str:
    """Markdown without HTML, pictures and links (bare addresses aside), where __name__ is not bold."""
    return text.replace("<", "&lt;").replace("](", "]&#40;").replace("__", "\\_\\_")


def image_grid(images, titles=None, *, columns: int = 8, size: float = 1.35, masks=None) -> Figure:
    """Images N×channels×H×W in rows of `columns`, on one grey scale from 0 to 1 (lesson 00).

    titles: one text per image, shown as it is; masks: bool N×H×W, outlined in red.
    """
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    height = size + (0.3 if titles else 0)
    fig, axes = figure(rows, columns, width=size * columns, height=height * rows, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        draw_image(axis, image)
        if masks is not None:
            axis.contour(masks[i], levels=[0.5], colors=RED, linewidths=1.5)
        if titles is not None:
            axis.set_title(titles[i], parse_math=False)
    return fig


def draw_image(axis, image) -> None:
    """One image, channels×H×W in [0, 1], on an axis without ticks."""
    pixels = np.moveaxis(np.asarray(image), 0, -1)
    axis.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
    axis.axis("off")


def diagram(boxes: dict[str, tuple], arrows: list[tuple], *, width: float = 9.0, height: float = 3.0):
    """The drawing of a mechanism: boxes of text joined by arrows; returns the figure and its axis (lesson 00).

    boxes: name → (x, y, text, colour), x and y in inches from the lower left corner; arrows: (from, to, label).
    """
    fig, axis = figure(width=width, height=height)
    axis.set(xlim=(0, width), ylim=(0, height), position=(0, 0, 1, 1))
    axis.axis("off")
    drawn = {}
    for name, (x, y, text, colour) in boxes.items():
        frame = {"boxstyle": "round,pad=0.45", "edgecolor": colour, "facecolor": "white", "linewidth": 2.5}
        label = axis.text(x, y, text, ha="center", va="center", fontsize=12.5, bbox=frame, parse_math=False)
        drawn[name] = label.get_bbox_patch()
    for start, end, label in arrows:
        (x, y), (u, v) = boxes[start][:2], boxes[end][:2]
        ends = {"patchA": drawn[start], "patchB": drawn[end], "shrinkA": 3, "shrinkB": 3}
        style = {"arrowstyle": "-|>", "color": "0.35", "linewidth": 2, "mutation_scale": 18}
        axis.annotate("", (u, v), (x, y), arrowprops=style | ends)
        axis.text((x + u) / 2, (y + v) / 2 + 0.08, label, ha="center", va="bottom", fontsize=11.5)
    return fig, axis
