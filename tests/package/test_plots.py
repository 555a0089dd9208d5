"""Figures and explorers as a notebook gets them: alternative text, a table of numbers, a line without a kernel."""

import html
import io
import re
import subprocess
import sys
import warnings

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.core.displayhook import CapturingDisplayHook
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.font_manager import fontManager
from nbconvert.filters import markdown2html_mistune
from PIL import Image
from test_hard_tree import PARTS

from distill_utils import plots, recipes, training, tree_plot, widgets
from distill_utils.hard_tree import HardTree

ROWS = [
    {"model": "teacher | θ₁", "parameters": 139020, "accuracy": 0.81934, "steps": np.int64(2000)},
    {"model": "student", "parameters": 16412, "accuracy": float("nan"), "steps": np.int64(7)},
]


@pytest.fixture
def displayed():
    """A function that runs another and returns what a notebook would be sent: [(data, metadata), …] and the text."""
    shell = InteractiveShell.instance()

    def run(function, *arguments, **options):
        with capture_output() as captured:
            function(*arguments, **options)
        return [(output.data, output.metadata) for output in captured.outputs], captured.stdout

    yield run
    assert shell is InteractiveShell._instance
    assert not isinstance(sys.displayhook, CapturingDisplayHook)


def curve():
    fig, axis = plots.figure(width=4, height=3)
    axis.plot([0, 1, 2], [3, 1, 2], **plots.DISTILLED)
    return fig


def test_a_figure_comes_with_its_alternative_text_and_its_numbers(displayed):
    (image, table), _ = displayed(plots.show, curve(), "The loss falls, then rises.", ROWS)
    assert Image.open(io.BytesIO(image[0]["image/png"])).size == (400, 300)
    assert image[1]["image/png"]["alt"] == "The loss falls, then rises."
    assert image[0]["text/plain"] == "Figure: The loss falls, then rises."
    assert "text/markdown" in table[0]
    assert plt.get_fignums() == []


def test_a_rare_strong_colour_keeps_its_colour():
    """As the strongest pixels of a map have, beside an image of many colours."""
    fig, axes = plots.figure(1, 2, width=6, height=3)
    values = 0.1 * np.random.default_rng(0).standard_normal((28, 28))
    values[5, 5], values[20, 20] = 1, -1
    axes[0].imshow(values, cmap="coolwarm", vmin=-1, vmax=1)
    axes[1].imshow(np.random.default_rng(1).random((28, 28, 3)))
    data, _ = plots.picture(fig, "A map.")
    colours = np.asarray(Image.open(io.BytesIO(data["image/png"])).convert("RGB")).reshape(-1, 3).astype(int)
    for end in (0.0, 1.0):
        wanted = 255 * np.array(plt.get_cmap("coolwarm")(end)[:3])
        assert abs(colours - wanted).max(1).min() < 30


def test_a_table_aligns_numbers_right_and_escapes_what_would_break_it(displayed):
    ((table, _),), _ = displayed(plots.show_table, ROWS)
    assert table["text/markdown"].splitlines() == [
        "| model | parameters | accuracy | steps |",
        "| :--- | ---: | ---: | ---: |",
        r"| teacher \| θ₁ | 139,020 | 0.8193 | 2,000 |",
        "| student | 16,412 | nan | 7 |",
    ]
    assert len({len(line) for line in table["text/plain"].splitlines()}) == 1
    ((table, _),), _ = displayed(plots.show_table, [{"class": "two\nlines"}])
    assert table["text/markdown"].splitlines()[2] == "| two lines |"


NAMES = ["$a$_b$", "$$", "a$$b", "猫", "_low_", "x^2^", "`code`", "<b>bold</b>", "*", "a_b", "a|b", "back\\slash",
         "~~gone~~", "[a](b)"]  # fmt: skip


def words(markdown: str) -> str:
    """The words of a Markdown text on an HTML page, without its tags."""
    return html.unescape(re.sub(r"<[^>]*>", "", markdown2html_mistune(markdown)))


@pytest.mark.parametrize("name", NAMES)
def test_a_table_shows_a_name_as_it_is(displayed, name):
    ((table, _),), _ = displayed(plots.show_table, [{"class": name, name: 0.5}])
    assert words(table["text/markdown"]).split() == ["class", name, name, "0.5"]
    assert "$" not in re.sub(r"`[^`]*`", "", table["text/markdown"]), "a formula"
    assert table["text/plain"].split() == ["class", name, name, "0.5"]


def test_the_titles_of_a_grid_show_names_as_they_are():
    fig = plots.image_grid(torch.rand(len(NAMES), 1, 4, 4), NAMES, columns=len(NAMES))
    titles = [axis.title for axis in fig.axes]
    assert [title.get_text() for title in titles] == NAMES
    assert not any(title.get_parse_math() or title.get_usetex() for title in titles)
    plt.close(fig)


@pytest.mark.parametrize("name", ["$$", "$a$", "$", "a_b^c", "<b>", "`x`", "a|b", "two\nlines"])
def test_a_figure_shows_a_name_as_it_is_wherever_it_is_written(displayed, name):
    def labelled(text):
        fig, axis = plots.figure(width=4, height=3)
        axis.plot([1, 100], [1, 2], label=text)
        axis.set(xscale="log", title=text, xlabel=text, yticks=[1, 2], yticklabels=[text, "b"])
        axis.annotate(text, (10, 1.5))
        axis.legend(title=text)
        return fig

    figure = labelled(name)
    displayed(plots.show, figure, "Names.")
    texts = [text for text in figure.findobj(plots.Text) if text.get_text() == name]
    assert len(texts) >= 6
    assert not any(text.get_parse_math() and "$" in name for text in texts)
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert any("10^{" in tick for tick in ticks), "a logarithmic axis still writes powers"
    assert all(tick.get_parse_math() for tick in figure.axes[0].get_xticklabels())


def test_letters_that_no_font_has_are_told_once(displayed, monkeypatch):
    monkeypatch.setattr(plots, "_warned", False)

    def named(text):
        fig = curve()
        fig.axes[0].set_title(text)
        return fig

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        displayed(plots.show, named("\ue123\ue124 bird"), "A title.")
        displayed(plots.show, named("\ue125"), "A title.")
    (warning,) = caught
    assert str(warning.message).startswith("no font on this machine has all letters of this figure")


def test_chinese_is_drawn_with_a_font_that_is_installed():
    """A family that is not there would warn at every figure."""
    first, *others = plots.STYLE["font.family"]
    assert first == "sans-serif"
    assert set(others) <= set(fontManager.get_font_names())
    assert len(others) <= 1


@pytest.mark.parametrize("settings", [{"text.usetex": True}, plt.style.library["dark_background"]])
def test_a_readers_matplotlibrc_changes_no_figure(displayed, settings):
    def annotated():
        fig = curve()
        fig.axes[0].text(1, 2, "a_b")
        fig.axes[0].legend(["loss"], title="$x")
        return fig

    expected = displayed(plots.show, annotated(), "A curve.")[0][0][0]["image/png"]
    with plt.rc_context(settings):
        assert displayed(plots.show, annotated(), "A curve.")[0][0][0]["image/png"] == expected


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_every_image_on_one_grey_scale_and_changes_no_input(channels):
    images = torch.rand(5, channels, 6, 4) / 2
    masks = torch.zeros(5, 6, 4, dtype=torch.bool)
    masks[:, 2:4, 1:3] = True
    before = images.clone()
    fig = plots.image_grid(images, [f"image {k}" for k in range(5)], columns=3, masks=masks)
    shown = [axis for axis in fig.axes if axis.images]
    assert len(fig.axes) == 6
    assert [axis.get_title() for axis in shown] == [f"image {k}" for k in range(5)]
    for axis, image in zip(shown, images, strict=True):
        assert axis.images[0].get_clim() == (0, 1)
        pixels = np.asarray(axis.images[0].get_array()).reshape(6, 4, channels)
        np.testing.assert_allclose(pixels, image.permute(1, 2, 0), rtol=1e-6)
    assert torch.equal(images, before)
    plt.close(fig)


def test_a_drawn_tree_shows_its_gates_its_leaves_and_the_path_of_an_image():
    tree = HardTree(**PARTS)
    images = torch.tensor([1.0, 1.0, 1.0, 0.0])[:, None, None, None].expand(4, 1, 2, 2)
    fig = tree_plot.draw_tree(tree, ["$a$", "b", "c"], (2, 2), images=images, image=images[0])
    axis = fig.axes[0]
    assert [text.get_text() for text in axis.texts] == ["$a$", "25%", "b", "0%", "c", "75%", "no", "yes"]
    marked = {tuple(line.get_xydata()[-1]) for line in axis.lines if line.get_color() == plots.ORANGE}
    assert marked == {(1.5, -1), (2, -2)}  # gate 1, then the leaf of class c
    fig.canvas.draw()
    plt.close(fig)


def test_filters_can_be_drawn_over_the_mean_of_the_images_that_reach_their_gate():
    tree = HardTree(**PARTS)
    images = torch.tensor([0.9, 0.7, 0.1])[:, None, None, None].expand(3, 1, 2, 2)  # two of them reach gate 1
    fig = tree_plot.draw_tree(tree, ["a", "b", "c"], (2, 2), images=images, overlay=True)
    gates = [inset for inset in fig.axes[0].child_axes if inset.images]
    means = [float(np.asarray(gate.images[0].get_array()).mean()) for gate in gates]
    assert means == pytest.approx([1 - 1.7 / 3, 1 - 0.8])
    assert [int(np.ma.count(gate.images[1].get_array())) for gate in gates] == [1, 2]  # zero weights hide nothing
    plt.close(fig)
    with pytest.raises(ValueError, match="overlay needs the images whose means are drawn"):
        tree_plot.draw_tree(tree, ["a", "b", "c"], (2, 2), overlay=True)


def test_an_explorer_falls_back_to_its_line_without_a_live_kernel(displayed):
    drawn = []

    def draw(steps, method):
        drawn.append((steps, method))
        return curve()

    outputs, _ = displayed(
        widgets.explore, draw, instead="See figure 2.", steps=(1, 9), method=["alone", "distilled"]
    )
    assert outputs[-1][0]["text/plain"] == "See figure 2."
    assert "application/vnd.jupyter.widget-view+json" in outputs[-1][0]
    assert plt.get_fignums() == []


def test_a_slider_draws_once_it_rests(displayed, monkeypatch):
    made, interactive = [], ipywidgets.interactive
    monkeypatch.setattr(ipywidgets, "interactive", lambda *a, **b: made.append(interactive(*a, **b)) or made[0])
    displayed(widgets.explore, lambda steps: curve(), instead="See figure 2.", steps=(1, 9))
    assert made[0].kwargs_widgets[0].continuous_update is False


def test_without_ipywidgets_an_explorer_is_its_line(displayed, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    outputs, text = displayed(widgets.explore, lambda steps: curve(), instead="See figure 2.", steps=(1, 9))
    assert outputs == []
    assert text == "See figure 2.\n"


def test_a_diagram_shows_its_words_as_they_are_and_an_arrow_ends_at_the_edge_of_its_box():
    boxes = {"a": (1, 1, "$$ teacher", plots.BLACK), "b": (6, 1, "student", plots.BLUE)}
    fig, axis = plots.diagram(boxes, [("a", "b", "soft targets")], width=7, height=2)
    fig.canvas.draw()
    assert {"$$ teacher", "student", "soft targets"} <= {text.get_text() for text in axis.texts}
    arrow = next(text.arrow_patch for text in axis.texts if getattr(text, "arrow_patch", None))
    box = next(text for text in axis.texts if text.get_text() == "student").get_bbox_patch().get_window_extent()
    assert arrow.get_window_extent().x1 <= box.x0
    plt.close(fig)


def train(steps=20, **options):
    data = recipes.dataset("digits")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    training.fit(
        model,
        data.train.subset(slice(64)),
        recipes.hard_labels,
        training.Schedule(steps, batch_size=32),
        validation=data.validation,
        what="a small network",
        **options,
    )


def test_a_long_training_in_an_open_notebook_draws_one_curve_and_replaces_it_in_place(displayed, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "lesson.ipynb")
    monkeypatch.setattr(widgets, "SECONDS", 0.0)
    with capture_output() as captured, plt.rc_context({"font.size": 33}):
        train()
        assert plt.rcParams["font.size"] == 33, "the reader's own style"
    assert [output.update for output in captured.outputs] == [False] + 19 * [True]
    assert len({output.transient["display_id"] for output in captured.outputs}) == 1
    assert captured.outputs[-1].metadata["image/png"]["alt"] == (
        "a small network: loss and validation_accuracy after 20 of 20 steps."
    )
    assert plt.get_fignums() == []
    assert displayed(train, quiet=True)[0] == []


def test_a_short_training_and_one_in_a_test_or_an_export_draw_none(displayed, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "lesson.ipynb")
    assert displayed(train)[0] == []
    monkeypatch.setattr(widgets, "SECONDS", 0.0)
    code = "from distill_utils import widgets as w; w.SECONDS = 0; w.live_curve(2, '')({'step': [1], 'loss': [1]})"
    worker = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert worker.stdout == "", "a process that a notebook started inherits its environment"
    monkeypatch.delenv("JPY_SESSION_NAME")
    assert displayed(train)[0] == []
