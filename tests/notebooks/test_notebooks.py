"""Every notebook keeps every rule of notebook_rules.py; and every rule can fail."""

import copy
from pathlib import Path

import notebook_rules
import pytest
from notebook_rules import CHECKED, RULES

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
GOOD = NOTEBOOKS / "00_good.ipynb"  # where the notebook below is taken to lie; no such file


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", RULES)
def test_notebook_keeps_the_rule(path, name):
    found = list(RULES[name](notebook_rules.read(path), path))
    assert not found, "\n" + "\n".join(found)


def test_the_series_is_there():
    assert PATHS, f"no notebook in {NOTEBOOKS}"
    numbers = sorted(path.name[:2] for path in PATHS)
    assert numbers == [f"{i:02}" for i in range(len(numbers))], "numbers without a gap: a lesson is lost"


# The rules themselves, on a notebook made here


def text(source):
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def code(source, *outputs, tags=()):
    return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source, "outputs": list(outputs)}


def stream(words):
    return {"output_type": "stream", "name": "stdout", "text": words}


def picture(**metadata):
    return {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo="}, "metadata": metadata}


def good_notebook() -> dict:
    parts = [
        text("# Good\n\nOne sentence."),
        code('from distill_utils import checks\n\nchecks.begin("00_good")'),
        text(
            "## First question\n\nSee [the rules](../tools/notebook_rules.py), [above](#Good) and "
            "[how](../README.md#conda-and-windows)."
        ),
        code(
            "plots.show(draw(), alt=words)",
            picture(**{"image/png": {"alt": "A line that rises from left to right."}}),
        ),
        text("### Detail\n\nThe `95.5 %` is code; Hinton et al. (2015) report 1.46 % errors."),
    ]
    for i in range(13):
        parts += [text(f"What is {i}?"), code(f"print({i})", stream(f"{i}\n"), tags=[CHECKED] if i < 3 else [])]
    parts += [
        text("## Summary\n\nAll is well."),
        text("## Exercises\n\n1. One.\n2. Two.\n3. Three.\n\n<details>\n\n1. Answer.\n\n</details>"),
        text("## Next\n\n[Again](../README.md)"),
    ]
    for count, cell in enumerate((cell for cell in parts if cell["cell_type"] == "code"), start=1):
        cell["execution_count"] = count
    return {"cells": parts, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def last_code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"][-1]


def says(words):
    """A fault: the second question says these words."""
    return lambda notebook: notebook["cells"][2].update(source=f"## First question\n\n{words}")


def runs(source):
    """A fault: the last code cell holds this."""
    return lambda notebook: last_code(notebook).update(source=source)


def prints(words):
    """A fault: the last code cell prints this."""
    return lambda notebook: last_code(notebook).update(outputs=[stream(words)])


FAULTS = [
    ("run_in_order", lambda n: last_code(n).update(execution_count=99)),
    ("run_in_order", lambda n: last_code(n).update(execution_count=None)),
    ("outputs_present", lambda n: last_code(n).update(outputs=[])),
    ("no_failed_cell", lambda n: last_code(n).update(outputs=[{"output_type": "error", "ename": "E", "evalue": ""}])),
    ("three_checked_cells", lambda n: n["cells"][6]["metadata"].update(tags=[])),
    ("three_checked_cells", lambda n: n["cells"][6].update(source="a = 1", outputs=[])),
    ("known_tags", lambda n: last_code(n)["metadata"].update(tags=["nbval-skip"])),
    ("known_tags", lambda n: last_code(n)["metadata"].update(tags=["NBVAL_CHECK_OUTPUT"])),
    ("known_tags", runs("# NBVAL_SKIP\nprint(1)")),
    ("checks_named_after_the_notebook", lambda n: n["cells"][1].update(source='checks.begin("00_bad")')),
    ("checks_named_after_the_notebook", lambda n: n["cells"][1].update(source="a = 1")),
    ("no_widget_state", lambda n: n["metadata"].update(widgets={})),
    ("no_widget_state", lambda n: last_code(n)["outputs"].append(
        {"output_type": "display_data", "data": {"application/vnd.jupyter.widget-view+json": {}}})),
    ("alternative_text", lambda n: n["cells"][3]["outputs"][0].update(metadata={})),
    ("alternative_text", lambda n: n["cells"][3]["outputs"][0].update(metadata={"image/png": {"alt": "A figure."}})),
    ("alternative_text", says("![](../docs/picture.png)")),
    ("alternative_text", says('<img src="../docs/picture.png">')),
    ("small_file", prints("x" * 500_000)),
    ("one_title_first", lambda n: n["cells"].insert(0, text("Welcome."))),
    ("one_title_first", says("# Another title")),
    ("heading_levels_in_order", lambda n: n["cells"][4].update(source="#### Deep")),
    ("ends_with_summary_exercises_next", lambda n: n["cells"].pop()),
    ("ends_with_summary_exercises_next", lambda n: n["cells"].append(text("## Appendix"))),
    ("three_exercises", lambda n: n["cells"][-2].update(source="## Exercises\n\n1. One.\n2. Two.")),
    ("three_exercises", lambda n: n["cells"].pop(-2)),
    ("length", lambda n: n.update(cells=n["cells"][:3] + n["cells"][5:])),
    ("length", lambda n: n.update(cells=[c for c in n["cells"] if not c["source"].startswith("What is")])),
    ("short_cells", runs("a = 1\n" * 26)),
    ("short_cells", runs(f"a = '{'x' * 80}'")),
    ("plain_python", runs("!ls")),
    ("plain_python", runs("%matplotlib inline")),
    ("nothing_installed", runs('import os\nos.system("ls")')),
    ("nothing_installed", runs("# pip install torch")),
    ("no_path_of_a_machine", runs('open("/home/ada/data")')),
    ("no_path_of_a_machine", says("Look into C:\\Users\\ada.")),
    ("no_path_of_a_machine", prints("saved to /tmp/model")),
    ("links_resolve", says("[Gone](gone.ipynb)")),
    ("links_resolve", says('<a href="../gone.md#part">Gone</a>')),
    ("links_resolve", says("[No such heading](../README.md#no-such-heading)")),
    ("nothing_from_outside", says("![A badge of the build](https://example.org/badge.svg)")),
    ("nothing_from_outside", says("<script>alert(1)</script>")),
    ("nothing_from_outside", lambda n: last_code(n)["outputs"].append(
        {"output_type": "display_data", "data": {"text/html": ["<img src='//example.org/a.png'>"]}})),
    ("no_typed_result", says("The student gets 72.5 % of them.")),
    ("no_typed_result", says("That is 5 points better than alone.")),
    ("no_typed_result", says("It ends with an accuracy of 0.82.")),
]  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_a_good_notebook_passes(name):
    assert list(RULES[name](good_notebook(), GOOD)) == []


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(FAULTS)])
def test_a_rule_finds_its_fault(name, fault):
    notebook = good_notebook()
    fault(notebook)
    found = list(RULES[name](copy.deepcopy(notebook), GOOD))
    assert len(found) == 1
    assert ": " in found[0], "says what to do"


def test_every_rule_has_a_fault_that_it_finds():
    assert {name for name, _ in FAULTS} == set(RULES)


@pytest.mark.parametrize(
    "words",
    [
        "With dropout 0.1 and $T = 2.5$, 95 % intervals over 5 seeds.",
        "The teacher outputs `0.93` here; half of the images, 50 %, are lighter.",
        "Published: 98.4 % (Hinton et al. 2015).",
        "Set alpha to 0.5, then to 0.9; a third of the classes are digits.",
    ],
)
def test_settings_and_published_numbers_are_no_typed_results(words):
    notebook = good_notebook()
    says(words)(notebook)
    assert list(RULES["no_typed_result"](notebook, GOOD)) == []
