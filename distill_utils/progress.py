"""The one progress bar: time left on anything that takes more than a moment, nothing left behind."""

from tqdm import tqdm


def bar(total: int, what: str, *, unit: str = "step", quiet: bool = False, initial: int = 0) -> tqdm:
    """A bar over `total` units on the error stream; use it in a with statement and call its update method."""
    return tqdm(total=total, desc=what, unit=unit, initial=initial, disable=quiet, leave=False, mininterval=0.5,
                dynamic_ncols=True)  # fmt: skip
