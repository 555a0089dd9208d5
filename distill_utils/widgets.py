"""Explorers: a figure function whose arguments move with sliders, where a live kernel and ipywidgets allow it."""

from collections.abc import Callable


def explore(draw: Callable, *, instead: str, **controls) -> None:
    """Show draw(**values) under one control per argument.

    draw: returns a matplotlib figure; controls: per argument (low, high) or (low, high, step) for a slider, a list
    for a menu, or an ipywidgets widget; instead: the line that a page without a live kernel shows, naming the static
    figure that carries the message. Never raises for want of ipywidgets.
    """
    try:
        import ipywidgets
        from IPython.display import display
    except ImportError:
        print(instead)
        return
    import matplotlib.pyplot as plt

    def redraw(**values):
        fig = draw(**values)
        display(fig)
        plt.close(fig)

    explorer = ipywidgets.interactive(redraw, **controls)
    for control in explorer.kwargs_widgets:  # the usual width cuts a name like "temperature" short
        control.style.description_width = f"{max(map(len, controls)) + 1}ch"
    bundle = explorer._repr_mimebundle_()
    display({**bundle, "text/plain": instead}, raw=True)
