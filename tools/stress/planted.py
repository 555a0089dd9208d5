"""Faults of 38 kinds planted in notebooks, one at a time: which does the CI of docs/notebook-ci.md notice?

    python tools/stress/planted.py LLMs-from-scratch=FOLDER handson-ml3=FOLDER    both, and this series (make planted)

FOLDERs are checkouts of the two public series, of which NOTEBOOKS are read; nothing of them is kept. A kind is
caught if every instance of it is, in every notebook where it can be planted. What only a run can tell is tried once,
in a notebook that pytest runs as the page says. Writes results/planted.json and the table of the page.
"""

import copy
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import reliability

sys.path.insert(0, str(reliability.ROOT / "tools"))
import notebook_rules

from distill_utils import _store, settings

ROOT = reliability.ROOT
PAGE = ROOT / "docs" / "notebook-ci.md"
RESULTS = settings.results_folder() / "planted.json"
NOTEBOOKS = {
    "LLMs-from-scratch": [f"ch0{i}/01_main-chapter-code/ch0{i}.ipynb" for i in range(2, 8)],
    "handson-ml3": [f"{name}.ipynb" for name in (
        "02_end_to_end_machine_learning_project", "03_classification", "04_training_linear_models",
        "06_decision_trees", "10_neural_nets_with_keras", "14_deep_computer_vision_with_cnns")],
    "this series": [f"notebooks/{path.name}" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))],
}  # fmt: skip
# Findings in untouched notebooks that somebody read and found to be no fault: a table of running times with its
# machines, a difference of two shown numbers. All others are true: pictures without text, code that fetches, …
FALSE = {("ch07", "numbers_in_prose_are_shown"), ("03_classification", "numbers_in_prose_are_shown")}

Plant = Callable[[list[dict]], object]


def text(words: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": words}


def code(source: str, printed: str = "", *tags: str) -> dict:
    outputs = [{"output_type": "stream", "name": "stdout", "text": printed}] if printed else []
    return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source, "outputs": outputs}


def codes(cells: list[dict]) -> list[int]:
    """The places of the code cells with a text output."""
    return [i for i, cell in enumerate(cells) if cell["cell_type"] == "code" and any(
        output.get("text") or "text/plain" in output.get("data", {}) for output in cell["outputs"])]  # fmt: skip


def middle(cells: list[dict]) -> int:
    """Below a code cell with a text output, half-way."""
    places = codes(cells)
    return places[len(places) // 2] + 1


def put(*new: dict, first: bool = False) -> Plant:
    """New cells half-way, or first; numbered as if they had been run."""
    return lambda cells: cells.__setitem__(slice(*([0 if first else middle(cells)] * 2)), copy.deepcopy(list(new)))


def digit(value) -> object:
    """The same text or list of lines with its last digit changed."""
    joined = "".join(value)
    changed = re.sub(r"\d(?=\D*$)", lambda found: str((int(found[0]) + 3) % 10), joined, count=1)
    return changed if changed != joined else joined + "7"


def wrong_output(cells: list[dict]) -> None:
    output = cells[middle(cells) - 1]["outputs"][0]
    if "text" in output:
        output["text"] = digit(output["text"])
    else:
        output["data"]["text/plain"] = digit(output["data"]["text/plain"])


def edited_source(cells: list[dict]) -> None:
    cell = cells[middle(cells) - 1]
    cell["source"] = "".join(cell["source"]) + "\nanother_value = 7"


def defining(cells: list[dict]) -> int:
    """The place of a code cell that alone binds a name which a later cell uses."""
    for i in (i for i, cell in enumerate(cells) if cell["cell_type"] == "code"):
        less = {"cells": cells[:i] + cells[i + 1 :], "metadata": {}}
        if any(notebook_rules.RULES["names_are_defined"](less, Path("x"))):
            return i
    raise LookupError("every name is bound twice")


def deleted(cells: list[dict]) -> None:
    del cells[defining(cells)]


def swapped(cells: list[dict]) -> None:
    cells.append(cells.pop(defining(cells)))


def number(cells: list[dict]) -> list[dict]:
    for count, cell in enumerate((cell for cell in cells if cell["cell_type"] == "code"), start=1):
        cell["execution_count"] = count
    return cells


def widget(cells: list[dict]) -> None:
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "a", "version_major": 2, "version_minor": 0}}
    put(code("slider") | {"outputs": [{"output_type": "display_data", "data": data, "metadata": {}}]})(cells)


def picture(cells: list[dict]) -> None:
    output = {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo="}, "metadata": {}}
    put(code("1") | {"outputs": [output]})(cells)


TAG = "nbval-check-output"
DEFINE = "def check(claim, value, low):\n    assert value >= low, claim\n    print('PASS', claim)\n\n\n"
RAISING = code(f"{DEFINE}check('it is better', 1, low=2)", "", "raises-exception")
TABLE = text("| method | score |\n| :-- | --: |\n| ours | 0.9137 |\n| theirs | 0.8291 |")
RNG = "import numpy as np\nrng = np.random.default_rng()\nprint(rng.normal())"
CALLBACK = "def draw(x):\n    raise ValueError(x)"
RUN = "run"  # only running can tell

# kind -> its instances: what is done to the cells, or a cell that has to fail when it is run. After those of NOT_RUN
# the author has not run the notebook, so its stamp is that of before.
KINDS: dict[str, list] = {
    "wrong number: an accuracy typed in prose": [put(text("The model reaches an accuracy of 0.9537."))],
    "wrong number: in a tagged output": [(RUN, code("print(6 * 7)", "43\n", TAG))],
    "wrong number: a value outside its band": [
        (RUN, code(f"{DEFINE}check('it is better', 1, low=2)", "PASS it is better\n", TAG))],
    "wrong number: a difference or a ratio in prose": [
        put(text("The two differ by 0.3719.")), put(text("It needs 8317 times fewer parameters."))],
    "wrong number: a table of results in Markdown": [put(TABLE)],
    "wrong number: in an untagged output": [wrong_output],
    "stale output: of a tagged cell": [(RUN, code("x = 2\nprint(x)", "1\n", TAG))],
    "stale output: of an untagged cell": [edited_source],
    "out of order: counts that are not 1, 2, 3": [
        lambda cells: cells[middle(cells) - 1].update(execution_count=987)],
    "out of order: a defining cell deleted, cells swapped, and numbered again": [deleted, swapped],
    "swallowed: try … except: print('PASS') around a check": [
        put(code(f"{DEFINE}try:\n    check('c', 1, 2)\nexcept AssertionError:\n    print('PASS c')", "PASS c\n"))],
    "swallowed: a failing check in a cell tagged as raising": [put(RAISING)],
    "swallowed: a check under if False": [
        put(code(f"{DEFINE}if False:\n    check('c', 1, 2)\nprint('done')", "done\n"))],
    "swallowed: except Exception: pass": [put(code("try:\n    1 / 0\nexcept Exception:\n    pass"))],
    "path: /home/ada": [put(code("open('/home/ada/data.csv')"))],
    "path: C:/Users": [put(code("open('C:/Users/ada/data.csv')"))],
    "path: /content/drive": [put(code("open('/content/drive/MyDrive/data.csv')"))],
    "path: /Volumes": [put(code("open('/Volumes/disk/data.csv')"))],
    "path: file:///": [put(text("See [the data](file:///home/ada/data.csv)."))],
    "link: to a file that is not there": [put(text("See [the notes](no-such-file.md)."))],
    "link: to a heading that is not on the page": [put(text("See [above](#no-such-heading)."))],
    "link: by a reference": [
        put(text("See [the notes][n].\n\n[n]: no-such-file.md")), put(text("See [it][nowhere]."))],
    "link: to a heading of another notebook": [put(text("See [there](SELF#no-such-heading)."))],
    "link: a missing attachment": [put(text("![A line that rises](attachment:line.png)"))],
    "link: a dead address on the web": [put(text("See [there](https://example.invalid/gone)."))],
    "alternative text: missing in Markdown": [put(text("![](picture.png)"))],
    "alternative text: missing in an output": [picture],
    "alternative text: filler": [put(text("![image image image](#)")), put(text("![image](#)"))],
    "unseeded draw: in a tagged output": [
        (RUN, code("import random\nprint(random.SystemRandom().random())", "0.5\n", TAG))],
    "unseeded draw: in an untagged output": [
        put(code(RNG, "0.1\n")), put(code("import torch\nprint(torch.rand(1))", "tensor([0.1])\n"), first=True)],
    "widget: a saved output": [widget],
    "widget: a callback that raises": [
        (RUN, code(f"from ipywidgets import interact\n\n\n{CALLBACK}\n\n\ninteract(draw, x=3);"))],
    "network: urlopen under try": [
        put(code("from urllib.request import urlopen\ntry:\n    urlopen('a')\nexcept OSError:\n    x = 1"))],
    "network: torch.hub or read_csv on a branch": [
        put(code("import torch\nif 0:\n    torch.hub.load('a/b', 'c')")),
        put(code("import pandas as pd\nif 0:\n    pd.read_csv('https://example.org/a.csv')"))],
    "emptied: counts null": [
        lambda cells: [cell.update(execution_count=None) for cell in cells if cell["cell_type"] == "code"]],
    "emptied: a tagged cell": [
        lambda cells: (cells[middle(cells) - 1]["metadata"].update(tags=[TAG]),
                       cells[middle(cells) - 1].update(outputs=[]))],
    "emptied: print() without output": [put(code("print('hello')"))],
    "emptied: for …: print() without output": [put(code("for i in range(3):\n    print(i)"))],
}  # fmt: skip
NOT_RUN = {wrong_output, edited_source, *KINDS["emptied: a tagged cell"]}


def findings(notebook: dict, path: Path) -> Counter:
    """Portable rule -> number of its faults in a notebook."""
    return Counter(
        name for name in notebook_rules.GROUPS["portable"] for _ in notebook_rules.RULES[name](notebook, path)
    )


def stamped(notebook: dict) -> dict:
    notebook["metadata"]["notebook_rules"] = {"stamp": notebook_rules.stamp(notebook)}
    return notebook


def is_caught(notebook: dict, path: Path, before: Counter, plant: Plant) -> bool | None:
    """Whether a fault adds to what the portable rules found in a notebook; None where it cannot be planted."""
    planted = copy.deepcopy(notebook)
    try:
        plant(planted["cells"])
    except LookupError:
        return None
    for cell in planted["cells"]:
        if "SELF#" in cell["source"]:
            cell["source"] = cell["source"].replace("SELF#", f"{path.name}#")
    if len(planted["cells"]) != len(notebook["cells"]) or plant is swapped:
        number(planted["cells"])
    if plant not in NOT_RUN:
        stamped(planted)
    return bool(findings(planted, path) - before)


def caught_by_running() -> dict[str, bool]:
    """kind -> whether the test of its cell fails, for those that only running can tell."""
    cells = {kind: instances[0][1] for kind, instances in KINDS.items() if isinstance(instances[0], tuple)}
    with tempfile.TemporaryDirectory() as folder:
        for file in ("conftest.py", "tools/notebook_rules.py"):
            shutil.copy(ROOT / file, folder)
        for i, cell in enumerate(cells.values()):
            book = {"cells": number([cell | {"id": "a"}]), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
            Path(folder, f"{i}.ipynb").write_text(json.dumps(book), encoding="utf-8")
        options = ("--nbval-lax", "--nbval-current-env", "-rA", "--color=no", "-p", "no:cacheprovider")
        done = subprocess.run([sys.executable, "-m", "pytest", *options, "."], cwd=folder, text=True,
                              capture_output=True, env=os.environ | {"NO_COLOR": "1"})  # fmt: skip
    words = dict(re.findall(r"^(?:(?=(?:PASSED|FAILED) (\d+))(PASSED|FAILED))", done.stdout, re.MULTILINE))
    return {kind: words[str(i)] == "FAILED" for i, kind in enumerate(cells)}


def changed(notebook: dict, path: Path, most: int = 12) -> tuple[int, int]:
    """Of numbers in the notebook's own prose whose last digit is changed, one at a time: how many, and how many the
    thorough rule notices beside what a baseline accepts."""
    rule, tried, noticed = notebook_rules.RULES["every_number_in_prose_is_shown"], 0, 0
    accepted = sum(1 for _ in rule(notebook, path))
    places = [(cell, found) for _, cell, source in notebook_rules.cells(notebook, "markdown")
              for found in notebook_rules.ANY_NUMBER.finditer(source)
              if not notebook_rules.NO_RESULT.fullmatch(found[1].rstrip(","))]  # fmt: skip
    random.Random(0).shuffle(places)
    for cell, found in places:
        kept, source = cell["source"], "".join(cell["source"])

        def faults(number, cell=cell, found=found, source=source):
            cell["source"] = source[: found.start(1)] + number + source[found.end(1) :]
            return sum(1 for _ in rule(notebook, path))

        if tried < most and faults("0.123456789") > accepted:  # else it is code or a formula, or was not shown before
            tried, noticed = tried + 1, noticed + (faults(digit(found[1])) > accepted)
        cell["source"] = kept
    return tried, noticed


def examine(series: str, folder: Path) -> tuple[dict[str, str], list[dict]]:
    """For one series: kind -> "caught of tried" or how else; and a row per notebook with its findings."""
    tried, caught, rows = Counter(), Counter(), []
    for file in NOTEBOOKS[series]:
        path = folder / file
        notebook = stamped(notebook_rules.read(path))
        found = findings(notebook, path)
        false = sum(count for name, count in found.items() if (path.stem, name) in FALSE)
        tried_here, noticed = changed(notebook_rules.read(path), path)
        rows.append({"series": series, "notebook": path.stem, "true finds": found.total() - false,
                     "false alarms": false, "changed": tried_here, "noticed": noticed})  # fmt: skip
        for kind, instances in KINDS.items():
            if not isinstance(instances[0], tuple):
                answers = [is_caught(notebook, path, found, plant) for plant in instances]
                answers = [answer for answer in answers if answer is not None]
                tried[kind] += bool(answers)
                caught[kind] += bool(answers) and all(answers)
    return {kind: f"{caught[kind]} of {tried[kind]}" for kind in KINDS if tried[kind]}, rows


def main(arguments: list[str]) -> int:
    folders = {"this series": str(ROOT)} | dict(each.split("=", 1) for each in arguments)
    if unknown := set(folders) - set(NOTEBOOKS):
        sys.exit(f"no notebooks of {', '.join(unknown)} are chosen: the series are {', '.join(NOTEBOOKS)}")
    run, columns, alarms = caught_by_running(), {}, []
    for series in (each for each in NOTEBOOKS if each in folders):
        columns[series], rows = examine(series, Path(folders[series]))
        alarms += rows
    kinds = []
    for kind in KINDS:
        answers = {series: "run" if run.get(kind) else column.get(kind, "0") for series, column in columns.items()}
        whole = all(answer == RUN or len(set(answer.split(" of "))) == 1 for answer in answers.values())
        kinds.append({"planted": kind, **answers, "caught": whole})
    print(f"{sum(row['caught'] for row in kinds)} of {len(kinds)} kinds are caught")
    print(*(row for row in kinds if not row["caught"]), sep="\n")
    if set(folders) == set(NOTEBOOKS):
        found = {"kinds": kinds, "alarms": alarms}
        _store.write_json(RESULTS, found)
        with _store.atomic(PAGE) as temporary:
            temporary.write_text(written(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    return 0


def written(page: str, found: dict) -> str:
    """The page with the tables of these results between its marks."""
    alarms = []
    for series in NOTEBOOKS:
        rows = [row for row in found["alarms"] if row["series"] == series]
        true, false = (sum(row[name] for row in rows) for name in ("true finds", "false alarms"))
        most = max(row["false alarms"] for row in rows)
        tried, noticed = (sum(row[name] for row in rows) for name in ("changed", "noticed"))
        counts = {"true finds": true, "false alarms": false, "most in one notebook": most}
        prose = {"numbers changed in prose": tried, "noticed": noticed}
        alarms.append({"untouched": series, "notebooks": len(rows)} | counts | prose)
    kinds = found["kinds"]
    count = f"{sum(row['caught'] for row in kinds)} of {len(kinds)} kinds are caught."
    parts = "\n\n".join([count, reliability.table(kinds), reliability.table(alarms)])
    start, end = "<!-- planted -->\n", "<!-- /planted -->"
    before, _, rest = page.partition(start)
    return before + start + parts + "\n" + end + rest.partition(end)[2]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
