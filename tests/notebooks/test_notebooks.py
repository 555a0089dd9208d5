"""Every notebook keeps every rule of notebook_rules.py, but for the faults in the baseline; every rule can fail."""

import copy
import json
import re
from pathlib import Path

import notebook_rules
import pytest
from notebook_rules import CHECKED, GROUPS, RULES

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
ACCEPTED = notebook_rules.settings(NOTEBOOKS).accepted()
GOOD = NOTEBOOKS / "00_good.ipynb"  # where the notebook below is taken to lie; no such file


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", GROUPS["portable"] + GROUPS["house"])
def test_notebook_keeps_the_rule(path, name):
    found = list(RULES[name](notebook_rules.read(path), path))
    accepted = ACCEPTED.get(f"notebooks/{path.name}", {}).get(name, 0)
    assert len(found) <= accepted, f"\n{len(found)} faults, {accepted} accepted:\n" + "\n".join(found)


def test_the_series_is_there():
    assert PATHS, f"no notebook in {NOTEBOOKS}"
    labels = [path.stem.partition("_")[0] for path in PATHS]
    numbers = sorted(label for label in labels if label.isdigit())
    assert numbers == [f"{i:02}" for i in range(len(numbers))], "numbers without a gap: a lesson is lost"
    assert {label.rstrip("b") for label in labels} == set(numbers), "a second page, such as 06b, has a first one"


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
        code('import random\n\nfrom distill_utils import checks\n\nchecks.begin("00_good")\nrandom.seed(0)'),
        text(
            "## First question\n\nSee [the rules](../tools/notebook_rules.py), [above](#Good) and "
            "[how](../README.md#conda-and-windows)."
        ),
        code(
            "plots = words = 1\n\n\ndef draw():\n    return words\n\n\ndef check(*_):\n    pass\n\n\n"
            'check("it rises", words, 0)\nplots.show(draw(), alt=words)',
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


def beside(words):
    """A fault: a text cell below an output says these words."""
    return lambda notebook: notebook["cells"][7].update(source=words)


def stamped(notebook):
    notebook["metadata"]["notebook_rules"] = {"stamp": notebook_rules.stamp(notebook)}


FAULTS = [
    ("run_in_order", lambda n: last_code(n).update(execution_count=99)),
    ("run_in_order", lambda n: last_code(n).update(execution_count=None)),
    ("outputs_present", lambda n: last_code(n).update(outputs=[])),
    ("outputs_present", lambda n: last_code(n).update(source="for i in range(3):\n    print(i)", outputs=[])),
    ("outputs_present", lambda n: last_code(n).update(source="words", outputs=[])),
    ("outputs_present", lambda n: last_code(n).update(outputs=[
        {"output_type": "display_data", "data": {"text/plain": ["<Figure size 640x480 with 0 Axes>"]}}])),
    ("names_are_defined", runs("print(undefined)")),
    ("names_are_defined", runs("def later():\n    return undefined")),
    ("names_are_defined", lambda n: n["cells"].insert(2, code("print(words)", stream("1")))),
    ("names_are_defined", lambda n: (runs("print(words)")(n), n["cells"].pop(3))),
    ("outputs_belong_to_their_sources", lambda n: (stamped(n), last_code(n).update(source="print(2 - 1)"))),
    ("outputs_belong_to_their_sources", lambda n: (stamped(n), last_code(n).update(outputs=[stream("2")]))),
    ("outputs_belong_to_their_sources", lambda n: (stamped(n), n["cells"].pop(6))),
    ("claims_can_fail", runs('try:\n    check("c", 1)\nexcept AssertionError:\n    print("PASS c")')),
    ("claims_can_fail", runs('if False:\n    check("c", 1)\nprint(1)')),
    ("claims_can_fail", lambda n: last_code(n).update(
        source='check("c", 1)', metadata={"tags": ["raises-exception"]})),
    ("claims_can_fail", runs("import contextlib\n\nwith contextlib.suppress(AssertionError):\n    assert words")),
    ("no_exception_is_swallowed", runs("try:\n    print(1)\nexcept Exception:\n    pass")),
    ("no_exception_is_swallowed", runs("try:\n    print(1)\nexcept:\n    print('PASS')")),
    ("no_exception_is_swallowed", runs("import contextlib\n\nwith contextlib.suppress(Exception):\n    print(1)")),
    ("draws_are_seeded", runs("import numpy as np\n\nprint(np.random.default_rng().normal())")),
    ("draws_are_seeded", runs("import torch\n\nprint(torch.rand(3))")),
    ("draws_are_seeded", lambda n: (n["cells"][1].update(source='checks.begin("00_good")'),
                                    last_code(n).update(source="import random\n\nprint(random.random())"))),
    ("numbers_in_prose_are_shown", beside("It reaches an accuracy of 0.95.")),
    ("numbers_in_prose_are_shown", beside("The two differ by 0.37.")),
    ("numbers_in_prose_are_shown", beside("The error is around $0.0009$.")),
    ("every_number_in_prose_is_shown", beside("A game takes 3.82 rolls.")),
    ("every_number_in_prose_is_shown", beside("You win in 3/4 of the cases.")),
    ("every_number_in_prose_is_shown", beside("You win in 65 % of the cases.")),
    ("numbers_in_prose_are_shown", beside("It needs 97 times fewer parameters.")),
    ("numbers_in_prose_are_shown", beside("| method | score |\n| --- | --- |\n| ours | 0.95 |")),
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
    ("alternative_text", says("![image](../docs/picture.png)")),
    ("alternative_text", says("![picture picture picture](../docs/picture.png)")),
    ("alternative_text", says("![fig_3.png](../docs/fig_3.png)")),
    ("small_file", prints("x" * 500_000)),
    ("one_title_first", lambda n: n["cells"].insert(0, text("Welcome."))),
    ("one_title_first", says("# Another title")),
    ("heading_levels_in_order", lambda n: n["cells"][4].update(source="#### Deep")),
    ("ends_with_summary_exercises_next", lambda n: n["cells"].pop()),
    ("ends_with_summary_exercises_next", lambda n: n["cells"].append(text("## Appendix"))),
    ("three_exercises", lambda n: n["cells"][-2].update(source="## Exercises\n\n1. One.\n2. Two.")),
    ("three_exercises", lambda n: n["cells"].pop(-2)),
    ("length", says("word " * 2600)),
    ("sections_conclude", lambda n: n["cells"].insert(-3, text("## Second question\n\n| a |\n| --- |\n| b |"))),
    ("sections_show", lambda n: n["cells"][3].update(outputs=[stream("PASS it rises")])),
    ("code_shows_the_idea", runs("figure, axes = plots.grid()\n" + "axes[0].plot(words)\n" * 20)),
    ("plain_words", says("The student errs less.")),
    ("plain_words", runs('check("it foretells errors", 1)\nprint(1)')),
    ("short_cells", runs("a = 1\n" * 26)),
    ("short_cells", runs(f"a = '{'x' * 80}'")),
    ("plain_python", runs("!ls")),
    ("plain_python", runs("%matplotlib inline")),
    ("nothing_installed", runs('import os\nos.system("ls")')),
    ("nothing_installed", runs("# pip install torch")),
    ("no_path_of_a_machine", runs('open("/home/ada/data")')),
    ("no_path_of_a_machine", says("Look into C:\\Users\\ada.")),
    ("no_path_of_a_machine", prints("saved to /tmp/model")),
    ("no_path_of_a_machine", runs('open("C:/Users/ada/data")')),
    ("no_path_of_a_machine", runs('open("/content/drive/data")')),
    ("no_path_of_a_machine", runs('open("/Volumes/disk/data")')),
    ("no_path_of_a_machine", says("[Data](file:///home/ada/data)")),
    ("links_resolve", says("[Gone](gone.ipynb)")),
    ("links_resolve", says('<a href="../gone.md#part">Gone</a>')),
    ("links_resolve", says("[No such heading](../README.md#no-such-heading)")),
    ("links_resolve", says("[No such heading](#no-such-heading)")),
    ("links_resolve", says("[No such heading](01_train_teacher.ipynb#no-such-heading)")),
    ("links_resolve", says("[Gone][there]\n\n[there]: gone.md")),
    ("links_resolve", says("[Nowhere defined][there]")),
    ("links_resolve", says("![A line that rises](attachment:line.png)")),
    ("reaches_no_network", runs("import urllib\n\ntry:\n    urllib.request.urlopen(words)\nexcept OSError:\n    1")),
    ("reaches_no_network", runs('import torch\n\nif words:\n    torch.hub.load(words, words)')),
    ("reaches_no_network", runs('import pandas as pd\n\npd.read_csv("https://example.org/a.csv")')),
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


WELL = {
    "alternative_text": says("<img src='../docs/a.png' alt='A line that rises'> ![A line][r]\n\n[r]: ../README.md"),
    "links_resolve": says("[A](#First-question) [b](#first-question) [c](../README.md 'title') `[d](gone.md)`"
                          " [x][y]\n\n[y]: ../README.md\n[Course](<../course/README.md>) $f[x](t)$"),
    "outputs_present": runs("import sys\n\nwith open('a') as f:\n    print(1, file=f)\nprint(2, file=sys.stderr)\n"
                            "words;"),
    "names_are_defined": runs("def f(x):\n    return g(x)\n\n\ndef g(x):\n    return [x for y in range(x) if y]\n\n\n"
                              "class A:\n    b = f\n\n\nprint(f(1), A, [i for i in range(3)], ____)"),
    "claims_can_fail": runs("if words:\n    check('c', 1)\nelse:\n    print('no claim for this dataset')"),
    "no_exception_is_swallowed": runs("try:\n    1\nexcept KeyError:\n    pass\nexcept Exception as e:\n    e"),
    "draws_are_seeded": runs("import torch\n\ng = torch.Generator().manual_seed(0)\ntorch.rand(3, generator=g)"),
    "numbers_in_prose_are_shown": lambda n: (beside("An accuracy of 0.953, or 95.3 %.")(n),
                                             n["cells"][8].update(outputs=[stream("0.95312")])),
    "every_number_in_prose_is_shown": lambda n: (
        beside("In 2024 a game takes 3.29 rolls (section 2); you win in 2/3 of the cases, or 67 %.")(n),
        n["cells"][8].update(outputs=[stream("3.28719 0.66667")])),
    "reaches_no_network": runs("import pandas as pd\n\npd.read_csv('local.csv')"),
    "no_path_of_a_machine": says("https://example.org/home/ada, data/tmp, and/or, a:b"),
}  # fmt: skip


@pytest.mark.parametrize("name", WELL)
def test_what_only_looks_like_a_fault_passes(name):
    notebook = good_notebook()
    WELL[name](notebook)
    assert list(RULES[name](notebook, GOOD)) == []


def test_settings_choose_the_rules_and_the_baseline_only_shrinks(tmp_path, monkeypatch, capsys):
    """One notebook with two faults of a rule: accepted, then mended one by one, then broken again."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.notebook_rules]\nselect = ["portable", "small_file"]\nignore = ["run_in_order"]\n'
        'per-notebook-ignores = {"drafts/*" = ["portable"]}\n'
    )
    (tmp_path / "ch1").mkdir()
    (tmp_path / "drafts").mkdir()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    files = [tmp_path / name for name in ("ch1/one.ipynb", "drafts/two.ipynb", ".ipynb_checkpoints/x.ipynb")]

    def with_faults(count):
        lines = [code(f"print(unknown_{i})", stream("1")) | {"execution_count": 1} for i in range(count)]
        for file in files:
            file.write_text(json.dumps({"cells": lines, "metadata": {}}), encoding="utf-8")
        return [notebook_rules.new_faults(file, chosen)[0] for file in chosen.notebooks()]

    chosen = notebook_rules.settings(tmp_path / "ch1")
    assert chosen.rules(files[0]) == [name for name in GROUPS["portable"] if name != "run_in_order"] + ["small_file"]
    assert chosen.rules(files[1]) == ["small_file"]
    found = with_faults(2)
    assert chosen.notebooks() == files[:2]
    assert [len(each) for each in found] == [2, 0]
    first = {"ch1/one.ipynb": {"names_are_defined": 2}, "drafts/two.ipynb": {}}
    assert notebook_rules.write_baseline(chosen) == first
    assert with_faults(2) == [[], []]
    assert [len(each) for each in with_faults(3)] == [3, 0], "all are shown: which one is new cannot be said"
    notebook_rules.write_baseline(chosen)
    assert [len(each) for each in with_faults(3)] == [3, 0], "a baseline does not grow"
    with_faults(1)
    notebook_rules.write_baseline(chosen)
    assert [len(each) for each in with_faults(2)] == [2, 0]
    monkeypatch.chdir(tmp_path)
    with_faults(0)
    notebook_rules.main([])
    assert "1 accepted faults are gone: run --baseline" in capsys.readouterr().out
    with_faults(2)
    files[0].rename(tmp_path / "ch1" / "renamed.ipynb")
    assert notebook_rules.write_baseline(chosen)["ch1/renamed.ipynb"] == {"names_are_defined": 2}, "new: as it is"
    (tmp_path / "pyproject.toml").unlink()
    assert notebook_rules.settings(tmp_path / "ch1").root == tmp_path, "found by its baseline"


def test_the_command_shows_what_is_accepted_and_what_to_do_about_it(tmp_path, monkeypatch, capsys):
    cells = [code("print(unknown)", stream("1")) | {"execution_count": 1}]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}}), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert notebook_rules.main([]) == 1
    assert notebook_rules.main(["--baseline"]) == 0
    assert notebook_rules.main([]) == 0
    capsys.readouterr()
    assert notebook_rules.main(["--all"]) == 1
    assert "uses unknown, which no cell above binds" in capsys.readouterr().out
    assert notebook_rules.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert "put its definition before it" in listed
    for name in RULES:
        assert notebook_rules.cures(RULES[name]), f"{name} does not say what to do"


def test_only_a_notebook_that_was_run_is_stamped(tmp_path, monkeypatch, capsys):
    notebook = good_notebook()
    (tmp_path / "run.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    last_code(notebook).update(outputs=[])
    (tmp_path / "emptied.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    notebook_rules.main(["--stamp"])
    said = capsys.readouterr().out
    assert "stamped 1 of 2 notebooks" in said
    assert re.search(r"emptied.ipynb is not stamped: cell \d+ calls print but has no output: run it", said)


def test_an_address_in_memory_does_not_change_a_stamp():
    notebook = good_notebook()
    prints("<Figure at 0x7f2a11>")(notebook)
    before = notebook_rules.stamp(notebook)
    prints("<Figure at 0x5e9b22>")(notebook)
    assert notebook_rules.stamp(notebook) == before


def test_further_measures_are_read_in_prose(tmp_path):
    notebook = good_notebook()
    beside("The probability is about 0.61, a 17 % chance.")(notebook)
    rule = RULES["numbers_in_prose_are_shown"]
    assert list(rule(notebook, tmp_path / "a.ipynb")) == []
    (tmp_path / "pyproject.toml").write_text('[tool.notebook_rules]\nmeasures = ["probability", "chance"]\n')
    assert "says 0.61" in next(rule(notebook, tmp_path / "a.ipynb"))
    beside("It is a 17 % chance.")(notebook)
    assert "says 17 %" in next(rule(notebook, tmp_path / "a.ipynb"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [("chosen = []", "has no key chosen"), ('select = ["run_in_ordre"]', "no rule or group is called run_in_ordre")],
)
def test_settings_that_mean_nothing_are_refused(setting, message, tmp_path):
    (tmp_path / "pyproject.toml").write_text(f"[tool.notebook_rules]\n{setting}\n")
    with pytest.raises(ValueError, match=message):
        notebook_rules.settings(tmp_path)


def test_a_stamp_changes_nothing_else_in_the_file(tmp_path):
    file = tmp_path / "a.ipynb"
    whole = json.dumps(good_notebook(), indent=1, ensure_ascii=False) + "\n"
    file.write_text(whole, encoding="utf-8")
    notebook_rules.write_stamp(file)
    book = notebook_rules.read(file)
    assert list(RULES["outputs_belong_to_their_sources"](book, file)) == []
    del book["metadata"]["notebook_rules"]
    assert json.dumps(book, indent=1, ensure_ascii=False) + "\n" == whole


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
