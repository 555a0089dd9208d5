"""Explorers: figures whose arguments can be changed with sliders and menus, where a kernel and ipywidgets run."""

from collections.abc import Callable


def explore(draw: Callable, *, instead: str, **controls) -> None:
    """Show draw(**values) under one control per argument (lesson 00).

    draw: returns a matplotlib figure; controls: per argument (low, high) or (low, high, step) for a slider, a list
    for a menu, or an ipywidgets widget; instead: the text shown on a page without a kernel, which names the static
    figure to look at. Without ipywidgets it prints that text.
    """
    try:
        import ipywidgets
        from IPython.display import display
    except ImportError:
        print(instead)
        return
    import matplotlib.pyplot as plt

    from distill_utils import plots

    def redraw(**values):
        fig = draw(**values)
        plots.show_dollars(fig)
        display(fig)
        plt.close(fig)

    explorer = ipywidgets.interactive(redraw, **controls)
    for control in explorer.kwargs_widgets:  # the default width cuts off a name like "temperature"
        control.style.description_width = f"{max(map(len, controls)) + 1}ch"
        if control.has_trait("continuous_update"):
            control.continuous_update = False  # one redraw when the slider rests, or a slow figure floods the kernel
    display({**explorer._repr_mimebundle_(), "text/plain": instead}, raw=True)
