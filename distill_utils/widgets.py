"""What moves in an open notebook: explorers with sliders and menus, and the curve of a training that is running."""

import os
import sys
import time
from collections.abc import Callable

from distill_utils._translate import translated

SECONDS = 10.0  # a training that takes longer shows its curve


def explore(draw: Callable, *, instead: str, **controls) -> None:
    """Show draw(**values) under one control per argument (lesson 02).

    draw: returns a matplotlib figure; controls: per argument (low, high) or (low, high, step) for a slider, a list
    for a menu, or an ipywidgets widget; instead: the text shown on a page without a kernel, which names the static
    figure to look at. Without ipywidgets it prints that text.
    """
    instead = translated(instead)
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
        plots.finish(fig)
        display(fig)
        plt.close(fig)

    explorer = ipywidgets.interactive(redraw, **controls)
    for control in explorer.kwargs_widgets:  # the default width cuts off a name like "temperature"
        control.style.description_width = f"{max(map(len, controls)) + 1}ch"
        if control.has_trait("continuous_update"):
            control.continuous_update = False  # one redraw when the slider rests, or a slow figure floods the kernel
    display({**explorer._repr_mimebundle_(), "text/plain": instead}, raw=True)


def live_curve(steps: int, what: str, *, quiet: bool = False) -> Callable[[dict], None]:
    """A function that draws a training history (see training.fit) in place, if training takes more than SECONDS.

    steps: of the whole training; what: the title. It draws only in a notebook that somebody has open, whose server
    sets JPY_SESSION_NAME. Tests, exports and consoles keep the progress bar, and committed outputs stay the same.
    """
    shell = sys.modules.get("IPython")  # none in a process that a notebook starts, which inherits its environment
    if quiet or not os.environ.get("JPY_SESSION_NAME") or shell is None or shell.get_ipython() is None:
        return lambda history: None
    from IPython.display import display
    from matplotlib import rc_context

    from distill_utils import plots

    start = time.monotonic()
    shown: list[int] = []  # the steps at which it was drawn

    def draw(history: dict) -> None:
        done = history["step"][-1]
        if not shown and (time.monotonic() - start) * steps / done < SECONDS:
            return
        curves = [name for name in ("loss", "validation_accuracy") if name in history]
        with rc_context():  # figure sets the series' style, which a reader's own notebook does not want
            fig, axes = plots.figure(1, len(curves), width=5 * len(curves), height=3, squeeze=False)
            for axis, name in zip(axes[0], curves, strict=True):
                axis.plot(history["step"], history[name], **plots.DISTILLED)
                axis.set(xlim=(0, steps), xlabel="step", title=name.replace("_", " "))
            fig.suptitle(what)
            data, metadata = plots.picture(fig, f"{what}: {' and '.join(curves)} after {done} of {steps} steps.")
        display(data, raw=True, metadata=metadata, display_id=f"{what} {start}", update=bool(shown))
        shown.append(done)

    return draw
