"""Runs in the kernel that grades a submission: tests see Python, torch and the package as the set-up cells left them.

grading.Guarded starts it. A submission may replace `abs` in its notebook or `torch.equal` in its library; a test that
runs through `run` sees neither.
"""

import builtins
import linecache
import sys
from types import FunctionType, ModuleType

LIBRARIES = ("math", "numpy", "scipy.stats", "torch", "torch.functional", "torch.nn.functional", "distill_utils")


class Guard:
    """What the set-up cells have defined, to be put back in front of every test.

    names: the notebook's names, as in shell.user_ns.
    """

    def __init__(self, names: dict):
        self.names = names
        self.modules: list[tuple[dict, dict]] = []
        self.set_up: dict = {}

    def keep(self) -> None:
        """Note modules, functions and classes as they are now, before the first line of a submission."""
        ours = [
            module for name, module in sys.modules.items() if name in LIBRARIES or name.startswith("distill_utils.")
        ]
        self.modules = [(vars(module), dict(vars(module))) for module in (builtins, *ours)]
        kinds = (ModuleType, FunctionType, type)
        self.set_up = {name: value for name, value in self.names.items() if isinstance(value, kinds)}

    def run(self, source: str, title: str) -> None:
        """Run a test apart from the submission's own names for built-in functions and for what the set-up defines."""
        for module, kept in self.modules:
            module.update(kept)
        space = {
            name: value for name, value in self.names.items() if name.startswith("__") or name not in vars(builtins)
        }
        space |= self.set_up | {"__builtins__": builtins}
        before = dict(space)
        linecache.cache[title] = (len(source), None, source.splitlines(keepends=True), title)  # for the traceback
        try:
            exec(compile(source, title, "exec"), space)
        finally:  # later cells use what a test has defined
            new = {name: value for name, value in space.items() if before.get(name, self) is not value}
            self.names.update(new)
