"""The progress bar of everything that takes more than a moment."""

from tqdm import tqdm


def progress_bar(total: int, what: str, *, unit: str = "step", quiet: bool = False, initial: int = 0) -> tqdm:
    """A bar with the time left, on the error stream; use it in a with statement and call its update method."""
    return tqdm(total=total, desc=what, unit=unit, initial=initial, disable=quiet, leave=False, mininterval=0.5,
                dynamic_ncols=True)
