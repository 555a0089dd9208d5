"""Nothing is unpickled, no file runs code, none is written outside its folder, and no word from data becomes HTML."""

import ast
import base64
import html
import io
import os
import pickle
import re
import socket
import tarfile
from collections import Counter
from pathlib import Path

import nbformat
import notebook_rules
import pytest
import torch
import torchvision
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbformat.v4 import new_code_cell, new_notebook, new_output

from distill_utils import __main__, _store, data, plots, settings, training
from distill_utils.commands import run

ROOT = settings.ROOT
NOTEBOOKS = sorted(run.NOTEBOOKS.glob("*.ipynb"))

# Sources


def found_in(source: str) -> set[str]:
    """Ways in which Python code turns bytes or words into running code."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or ""] + [alias.name for alias in node.names]
            found |= {name.split(".")[0] for name in names} & {"pickle", "cloudpickle", "dill", "marshal", "shelve"}
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in ("eval", "exec", "compile") or name.endswith((".read_pickle", ".hub.load")):
                found.add(name)
            if re.search(r"(^|\.)joblib\.load$|^yaml\.(load|full_load|unsafe_load)(_all)?$", name):
                found.add(name)
            if name.endswith("torch.load") and given.get("weights_only") != "True":
                found.add("torch.load")
            if given.get("allow_pickle", "False") != "False":
                found.add("allow_pickle")
    return found


def sources():
    """Path and code of every Python file and every notebook that belongs to the project."""
    kept = {"build", "runs", "data", ".venv"}
    for path in sorted(ROOT.rglob("*")):
        place = path.relative_to(ROOT)
        if path.suffix not in (".py", ".ipynb") or place.parts[0] in kept or ".ipynb_checkpoints" in place.parts:
            continue
        if path.suffix == ".py":
            yield place.as_posix(), path.read_text(encoding="utf-8")
        else:
            for number, _, source in notebook_rules.cells(notebook_rules.read(path), "code"):
                yield f"{place.as_posix()}, cell {number}", source


BOMB = "makes a file that runs code when it is unpickled, and shows that it is a live one"
EXERCISES = "the cells of our own exercises are run as a notebook runs them"
ALLOWED = {
    ("tests/test_safety.py", "pickle"): BOMB,
    ("tests/test_store.py", "pickle"): BOMB,
    ("tests/test_store.py", "torch.load"): BOMB,
    ("tests/test_course.py", "compile"): EXERCISES,
    ("tests/test_course.py", "exec"): EXERCISES,
}


def test_nothing_in_the_project_unpickles_or_runs_data_as_code():
    found = {(place, way) for place, source in sources() for way in found_in(source)}
    assert found == set(ALLOWED), "mend it, or say in ALLOWED why it has to be"


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "model = torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "import pickle",
        "import cloudpickle as p",
        "from pickle import loads",
        "joblib.load(path)",
        "np.load(path, allow_pickle=True)",
        "eval(words)",
        "exec(words)",
        "yaml.load(words, Loader=yaml.Loader)",
        "yaml.unsafe_load(words)",
        "torch.hub.load('a/b', 'model')",
        "pd.read_pickle(path)",
    ],
)
def test_every_way_to_unpickle_is_seen(source):
    assert len(found_in(source)) == 1


@pytest.mark.parametrize(
    "source",
    ["torch.load(path, weights_only=True)", "model.eval()", "re.compile(x)", "yaml.safe_load(x)", "np.load(x)"],
)
def test_what_is_safe_is_let_pass(source):
    assert not found_in(source)


# Files that would run code


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def mark(tmp_path):
    """A folder that must not come into being: unpickling a bomb makes it."""
    path = tmp_path / "exploded"
    yield path
    assert not path.exists(), "code of a file was run"


@pytest.fixture(params=["torch", "pickle"])
def plant(request, mark):
    """A function that puts a bomb where a file is expected."""

    def put(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(Bomb(mark), path) if request.param == "torch" else path.write_bytes(pickle.dumps(Bomb(mark)))
        return path

    return put


def test_an_artifact_that_would_run_code_is_refused(plant, tmp_path):
    _store.load_or_make("student", {}, lambda partial: ({"weight": torch.ones(2)}, {}), tmp_path / "runs")
    (artifact,) = (tmp_path / "runs").glob("*.safetensors")
    plant(artifact)
    with pytest.raises(_store.DamagedFile, match=f"^{artifact} is damaged .*: delete it and run again$"):
        _store.load_or_make("student", {}, None, tmp_path / "runs")


def test_a_checkpoint_that_would_run_code_is_refused(plant, tmp_path, tiny_model, tiny_set):
    checkpoint = plant(tmp_path / "checkpoint.safetensors")
    with pytest.raises(_store.DamagedFile, match=f"^{checkpoint} is damaged .*: delete it and run again$"):
        training.fit(
            tiny_model(), tiny_set, lambda model, batch: (model(batch.images).sum(), {}),
            training.Schedule(steps=1, batch_size=8), checkpoint=checkpoint, quiet=True,
        )  # fmt: skip


def test_a_teacher_that_would_run_code_is_refused_in_one_sentence(plant, tmp_path, capsys):
    model = plant(tmp_path / "model.safetensors")
    arguments = ["train", "student", "--dataset", "digits", "--teacher", str(model), "--out", str(tmp_path / "out")]
    assert __main__.main(arguments) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {model} is damaged")
    assert (out, err.count("\n")) == ("", 1)


MNIST_FILES = [path for path in data._SHA256 if path.startswith("MNIST/")]


def offline(monkeypatch):
    """Downloads that are tried find nothing, without a network."""
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["file:///nowhere/"])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "file:///nowhere/cifar-10-python.tar.gz")


@pytest.mark.parametrize("content", ["bomb", "<!DOCTYPE html><title>503 Service Unavailable</title>", ""])
def test_a_datasets_file_that_is_none_is_refused_and_runs_nothing(content, mark, tmp_path, monkeypatch):
    """A file that would run code, an error page that was kept as data, an empty file."""
    offline(monkeypatch)
    for name in MNIST_FILES:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(Bomb(mark), path) if content == "bomb" else path.write_text(content)
    damaged = tmp_path / "data" / MNIST_FILES[0]
    with pytest.raises(
        data.DataError, match=rf"^{damaged} is damaged \(its checksum differs\): delete it and run again$"
    ):
        data.load("mnist", root=tmp_path / "data")


def test_a_pickled_batch_of_cifar_that_would_run_code_is_not_opened(plant, tmp_path, monkeypatch):
    """CIFAR is published as pickles, which torchvision opens: but only files of the published checksums."""
    offline(monkeypatch)
    for name, _ in [*torchvision.datasets.CIFAR10.train_list, *torchvision.datasets.CIFAR10.test_list]:
        plant(tmp_path / "data" / "cifar-10-batches-py" / name)
    plant(tmp_path / "data" / "cifar-10-batches-py" / "batches.meta")
    with pytest.raises(data.DataError, match="could not be downloaded .*DISTILL_DATA"):
        data.load("cifar10", root=tmp_path / "data")


@pytest.mark.parametrize("content", ["bomb", "images"])
def test_a_processed_file_is_refused_in_one_sentence(content, mark, tmp_path, monkeypatch):
    """What torchvision left beside the published files years ago, and still prefers to them: no checksum knows it."""
    offline(monkeypatch)
    folder = tmp_path / "MNIST" / "processed"
    folder.mkdir(parents=True)
    images = torch.zeros(9, 28, 28, dtype=torch.uint8), torch.arange(9)
    for name in ("training.pt", "test.pt"):
        torch.save(Bomb(mark) if content == "bomb" else images, folder / name)
    with pytest.raises(
        data.DataError, match=rf"^{folder}/\w+\.pt is not one of the published files: delete it and run again$"
    ):
        data.load("mnist", root=tmp_path)


def test_an_image_that_would_run_code_is_named(plant, tmp_path):
    for label in ("cats", "dogs"):
        planted = plant(tmp_path / "own" / label / "00.png")
    with pytest.raises(data.DataError, match=r"cats/00\.png cannot be read as an image"):
        data.load(f"folder:{planted.parent.parent}")


# Archives


def hostile_archive(path: Path, outside: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in ("../escaped", str(outside / "escaped"), "cifar-10-batches-py/../../escaped"):
            member = tarfile.TarInfo(name)
            member.size = 5
            archive.addfile(member, io.BytesIO(b"hello"))
    return path


@pytest.mark.parametrize("where", ["downloaded", "left in the data folder"])
def test_no_member_of_an_archive_leaves_the_data_folder(where, tmp_path, monkeypatch):
    """An archive that is not the published one is not unpacked at all."""
    folder = tmp_path / "deep" / "data"
    folder.mkdir(parents=True)
    offline(monkeypatch)
    if where == "downloaded":
        archive = hostile_archive(tmp_path / "cifar-10-python.tar.gz", tmp_path)
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", archive.as_uri())
    else:
        hostile_archive(folder / "cifar-10-python.tar.gz", tmp_path)
    with pytest.raises(data.DataError, match="CIFAR10 are not under .* and could not be downloaded"):
        data.load("cifar10", root=folder)
    assert not list(tmp_path.rglob("escaped"))


def test_the_default_images_need_no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(data, "_SIZES", {"train": 50, "transfer": 4, "validation": 40, "test": 40})
    assert len(data.load("glyphs").train) == 50
    assert len(data.load("digits").classes) == 10


# Words from data

EVIL = [
    "<script>evil()</script>",
    '<img src=x onerror="evil()">',
    "[cat](javascript:evil())",
    "![cat](https://evil.example/cat.png)",
    "[cat]: javascript:evil()\n[cat]",
    '" onerror="evil()',
    "a | <b>evil()</b>",
    "<!-- evil() --",
]


def page_of(function, *arguments) -> str:
    """The page that make run would leave of a cell that calls this."""
    InteractiveShell.instance()
    with capture_output() as captured:
        function(*arguments)
    outputs = []
    for output in captured.outputs:
        shown = {kind: base64.b64encode(x).decode() if kind == "image/png" else x for kind, x in output.data.items()}
        outputs.append(new_output("display_data", data=shown, metadata=output.metadata or {}))
    return run.page(new_notebook(cells=[new_code_cell("x", id="x", execution_count=1, outputs=outputs)]), "page")


def added(show, words: str) -> list[str]:
    """The tags that words from data add to a page; an address that is shown as it is may be followed."""
    tags = [Counter(re.findall(r"<[a-zA-Z!/][^>]*>", re.sub(r' alt="[^"]*"', "", show(w)))) for w in (words, "cat")]
    return [tag for tag in tags[0] - tags[1] if tag not in ('<a href="https://evil.example/cat.png">', "</a>")]


@pytest.mark.parametrize("words", EVIL)
def test_a_name_of_a_class_or_a_file_is_shown_and_does_nothing(words):
    def show(name):
        return page_of(plots.show_table, [{"class": name, name: 0.5}, {"class": "dog", name: 0.25}])

    assert not added(show, words)
    assert "evil" in show(words), "the word is shown as it is"


@pytest.mark.parametrize("words", EVIL)
def test_a_description_with_a_name_in_it_does_nothing(words):
    def show(name):
        return page_of(plots.show, plots.figure(width=1, height=1)[0], f"The class {name} is rare.")

    assert not added(show, words)
    assert f'alt="{html.escape(f"The class {words} is rare.")}"' in show(words)


@pytest.mark.parametrize("words", EVIL)
def test_a_page_shows_what_a_cell_says_in_markdown_without_its_html(words):
    """A model card, which a notebook writes, holds names of classes too."""
    from IPython.display import Markdown, display

    def show(name):
        return page_of(lambda: display(Markdown(f"### Known failures\n\nConfuses {name} with others.")))

    assert not added(show, words)
    assert "<h3" in show(words)


def test_plain_words_of_a_table_stay_as_they_are():
    for words in ("T & alpha", "95 % [+1.2, +3.4]", "θ₁ → θ₃", "a_b*c", "x > 0"):
        assert plots.without_markup(words) == words
    assert "<strong>" not in page_of(plots.show_table, [{"mend": "in __init__ of the model"}])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_pictures_and_words(path):
    """No HTML, no script, no vector picture, which may hold one; and no tag among the words."""
    notebook = notebook_rules.read(path)
    for number, _, output in notebook_rules.outputs(notebook):
        assert set(output.get("data", {})) <= {"image/png", "text/plain", "text/markdown"}, f"cell {number}"
        markdown = "".join(output.get("data", {}).get("text/markdown", ""))
        assert not re.search(r"<[a-zA-Z!/]|\]\(", markdown), f"cell {number}"


def test_a_notebook_is_read_as_it_was_written():
    """series.page leaves the notebook that it was given alone."""
    output = new_output("display_data", data={"text/markdown": EVIL[0]})
    notebook = new_notebook(cells=[new_code_cell("x", execution_count=1, outputs=[output])])
    before = nbformat.writes(notebook)
    run.page(notebook, "page")
    assert nbformat.writes(notebook) == before


# Jupyter

STARTS_JUPYTER = re.compile(r"\bjupyter[ -](?:lab|notebook|server)\b.*")
OPENS_IT = re.compile(
    r"token|password|no-?auth|allow_|disable_check|ip=|0\.0\.0\.0|allow-root|--config", re.IGNORECASE
)


def jupyter_lines() -> list[str]:
    """Every line that starts Jupyter: in the Makefile, in the pages, in workflows and in settings of containers."""
    paths = [ROOT / "Makefile", *ROOT.glob("*.md"), *ROOT.glob("course/**/*.md"), *ROOT.glob(".github/**/*.y*ml")]
    paths += [*ROOT.glob(".devcontainer/*"), *ROOT.glob("binder/*")]
    texts = [path.read_text(encoding="utf-8").replace("\\\n", " ") for path in paths]
    return [line for text in texts for line in STARTS_JUPYTER.findall(text)]


def test_jupyter_is_started_with_its_token():
    """Jupyter asks for a token and listens on this machine alone, unless it is told otherwise."""
    lines = jupyter_lines()
    assert "jupyter lab notebooks" in lines, "make lab"
    assert not [line for line in lines if OPENS_IT.search(line)]
    places = (path.relative_to(ROOT) for path in ROOT.glob("**/jupyter_*config.*"))
    ours = [place for place in places if place.parts[0] not in (".venv", "build")]
    assert not ours, "no settings beside the command"


@pytest.mark.parametrize(
    "flag",
    [
        "--IdentityProvider.token=''",
        "--ServerApp.password=",
        "--no-auth",
        "--ip=0.0.0.0",
        "--ServerApp.allow_origin='*'",
    ],
)
def test_a_flag_that_opens_jupyter_is_seen(flag):
    assert OPENS_IT.search(f"jupyter lab notebooks {flag}")
