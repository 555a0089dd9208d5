"""Folders are layers: package root <- explain <- studies <- commands. Imports point downwards, never in a circle."""

import ast
import graphlib

from distill_utils import settings

LAYERS = ("package root", "explain", "studies", "commands", "__main__")
MODULES = {
    ".".join(path.relative_to(settings.ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (settings.ROOT / "distill_utils").rglob("*.py")
}


def imports(module: str) -> set[str]:
    """Every name that a module imports, at its top or inside a function; "a.b" for `from a import b`."""
    nodes = list(ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom)
                    for alias in node.names}  # fmt: skip


def graph() -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports; "a.b" is module a's where b is no module itself."""
    found = {m: {name if name in MODULES else name.rpartition(".")[0] for name in imports(m)} for m in MODULES}
    return {module: (names & MODULES.keys()) - {"distill_utils"} for module, names in found.items()}


def layer(module: str) -> int:
    return next((i for i, name in enumerate(LAYERS) if name in module.split(".")), 0)


def test_no_module_imports_a_higher_layer():
    assert not [f"{a} imports {b}" for a, names in graph().items() for b in names if layer(b) > layer(a)]


def test_no_imports_form_a_circle():
    graphlib.TopologicalSorter(graph()).prepare()  # raises CycleError, which shows the circle


def test_the_package_imports_no_tool_and_no_test():
    outside = {path.stem for name in ("tools", "tests") for path in (settings.ROOT / name).rglob("*.py")}
    outside |= {"tools", "tests"}
    assert not [f"{m} imports {name}" for m in MODULES for name in imports(m) if name.split(".")[0] in outside]
