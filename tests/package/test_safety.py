"""No file runs code, none is written outside its folder, and no word from data becomes HTML."""

import ast
import base64
import io
import os
import pickle
import re
import socket
import tarfile
from collections import Counter
from pathlib import Path

import notebook_rules
import pytest
import torch
import torchvision
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import Markdown, display
from IPython.utils.capture import capture_output
from nbformat.v4 import new_code_cell, new_notebook, new_output

from distill_utils import _store, data, plots, settings
from distill_utils.commands import run

ROOT = settings.ROOT
NOTEBOOKS = sorted(run.NOTEBOOKS.glob("*.ipynb"))

# Sources


def found_in(source: str) -> set[str]:
    """The ways in which Python source turns data into running code."""
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
    """Path and code of every Python file and every notebook of the project."""
    for path in sorted(ROOT.rglob("*")):
        place = path.relative_to(ROOT)
        if place.parts[0] in {"build", "runs", "data", ".venv"} or ".ipynb_checkpoints" in place.parts:
            continue
        if path.suffix == ".py":
            yield place.as_posix(), path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            for number, _, source in notebook_rules.cells(notebook_rules.read(path), "code"):
                yield f"{place.as_posix()}, cell {number}", source


ALLOWED = {
    # It makes files that run code when they are unpickled, and shows that they do.
    ("tests/package/test_safety.py", "pickle"),
    ("tests/package/test_safety.py", "torch.load"),
    # It runs the cells of our own exercises, as a notebook does.
    ("tests/notebooks/test_course.py", "compile"),
    ("tests/notebooks/test_course.py", "exec"),
    # The tests of an exercise, out of reach of the submission beside them.
    ("course/guard.py", "compile"),
    ("course/guard.py", "exec"),
    # A module of ours with one edit.
    ("tests/package/test_versions.py", "compile"),
}


def test_nothing_in_the_project_unpickles_or_runs_data_as_code():
    assert {(place, way) for place, source in sources() for way in found_in(source)} == ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)", "model = torch.load(path, weights_only=False)", "torch.load(path, weights_only=flag)",
        "import pickle", "import cloudpickle as p", "from pickle import loads", "joblib.load(path)",
        "np.load(path, allow_pickle=True)", "eval(words)", "exec(words)", "yaml.load(words, Loader=yaml.Loader)",
        "yaml.unsafe_load(words)", "torch.hub.load('a/b', 'model')", "pd.read_pickle(path)",
    ],
)  # fmt: skip
def test_every_way_to_unpickle_is_found(source):
    assert len(found_in(source)) == 1


def test_what_is_safe_is_accepted():
    assert not found_in(
        "torch.load(path, weights_only=True); model.eval(); re.compile(x); yaml.safe_load(x); np.load(x)"
    )


# Files that would run code


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def mark(tmp_path):
    """A folder that must not appear: unpickling a bomb makes it."""
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


def test_the_bombs_are_live(tmp_path):
    torch.save(Bomb(tmp_path / "a"), tmp_path / "a.pt")
    torch.load(tmp_path / "a.pt", weights_only=False)
    pickle.loads(pickle.dumps(Bomb(tmp_path / "b")))
    assert (tmp_path / "a").is_dir()
    assert (tmp_path / "b").is_dir()


def test_an_artifact_that_would_run_code_is_refused(plant):
    _store.load_or_make("model", {}, lambda partial: ({"weight": torch.ones(2)}, {}))
    (artifact,) = settings.runs_folder().glob("*.safetensors")
    plant(artifact)
    with pytest.raises(_store.DamagedFile, match=f"^{artifact} is damaged .*: delete it and run again$"):
        _store.load_or_make("model", {}, None)


@pytest.fixture
def offline(monkeypatch):
    """Downloads that are tried find nothing, without a network."""
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["file:///nowhere/"])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "file:///nowhere/cifar-10-python.tar.gz")


@pytest.mark.parametrize("content", ["bomb", "<!DOCTYPE html><title>503 Service Unavailable</title>", ""])
def test_a_file_that_is_not_the_datasets_own_is_refused_and_runs_nothing(content, mark, tmp_path, offline):
    """A file that would run code, an error page that was saved as data, an empty file."""
    files = [tmp_path / name for name in data._MNIST_SHA256]
    files[0].parent.mkdir(parents=True)
    for path in files:
        torch.save(Bomb(mark), path) if content == "bomb" else path.write_text(content)
    with pytest.raises(data.DataError, match=f"^{files[0]} is damaged .*: delete it and run again$"):
        data.load("mnist", root=tmp_path)


def test_a_pickled_batch_of_cifar_that_would_run_code_is_not_opened(plant, tmp_path, offline):
    """CIFAR is published as pickles, which torchvision opens, but only files of the published checksums."""
    lists = torchvision.datasets.CIFAR10.train_list + torchvision.datasets.CIFAR10.test_list
    for name in [*(name for name, _ in lists), "batches.meta"]:
        plant(tmp_path / "cifar-10-batches-py" / name)
    with pytest.raises(data.DataError, match="could not be downloaded .*DISTILL_DATA"):
        data.load("cifar10", root=tmp_path)


def test_a_processed_file_is_refused_in_one_sentence(plant, tmp_path, offline):
    """Old versions of torchvision wrote it beside the published files, and new ones prefer it to them unchecked."""
    for name in ("training.pt", "test.pt"):
        planted = plant(tmp_path / "MNIST" / "processed" / name)
    with pytest.raises(data.DataError, match=rf"^{planted.parent}/\w+\.pt is not one of the published files"):
        data.load("mnist", root=tmp_path)


# Archives


@pytest.mark.parametrize("downloaded", [True, False])
def test_no_member_of_an_archive_leaves_the_data_folder(downloaded, tmp_path, offline, monkeypatch):
    """An archive that is not the published one is not unpacked at all."""
    folder = tmp_path / "deep" / "data"
    folder.mkdir(parents=True)
    path = (tmp_path if downloaded else folder) / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("../escaped", str(tmp_path / "escaped"), "cifar-10-batches-py/../../escaped"):
            member = tarfile.TarInfo(name)
            member.size = 5
            archive.addfile(member, io.BytesIO(b"hello"))
    if downloaded:
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", path.as_uri())
    with pytest.raises(data.DataError, match="CIFAR10 are not under .* and could not be downloaded"):
        data.load("cifar10", root=folder)
    assert not list(tmp_path.rglob("escaped"))


def test_the_default_images_need_no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    sizes = {"train": 50, "transfer": 4, "validation": 40, "test": 40}
    assert len(data._glyphs("glyphs", Path(), 0, sizes=sizes).train) == 50
    assert len(data.load("digits").classes) == 10


# Words from data

EVIL = [
    "<script>evil()</script>", '<img src=x onerror="evil()">', "[cat](javascript:evil())",
    "![cat](https://evil.example/cat.png)", "[cat]: javascript:evil()\n[cat]", '" onerror="evil()',
    "a | <b>evil()</b>", "<!-- evil() --",
]  # fmt: skip


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


def table(name: str) -> str:
    return page_of(plots.show_table, [{"class": name, name: 0.5}, {"class": "dog", name: 0.25}])


def description(name: str) -> str:
    return page_of(plots.show, plots.figure(width=1, height=1)[0], f"The class {name} is rare.")


def model_card(name: str) -> str:
    return page_of(lambda: display(Markdown(f"### Known failures\n\nConfuses {name} with others.")))


@pytest.mark.parametrize("words", EVIL)
@pytest.mark.parametrize("show", [table, description, model_card])
def test_a_name_of_a_class_or_a_file_is_shown_and_does_nothing(show, words):
    assert not added(show, words)
    assert "evil" in show(words) or show is model_card
    assert "<h3" in show(words) or show is not model_card, "Markdown of ours is still Markdown"


def test_plain_words_of_a_table_are_not_changed():
    for words in ("T & alpha", "95 % [+1.2, +3.4]", "θ₁ → θ₃", "a_b*c", "x > 0"):
        assert plots.without_markup(words) == words
    assert "<strong>" not in page_of(plots.show_table, [{"advice": "in __init__ of the model"}])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_pictures_and_words(path):
    """No HTML, no script, no vector picture, which may hold one; and no tag among the words."""
    notebook = notebook_rules.read(path)
    for number, _, output in notebook_rules.outputs(notebook):
        assert set(output.get("data", {})) <= {"image/png", "text/plain", "text/markdown"}, f"cell {number}"
        markdown = "".join(output.get("data", {}).get("text/markdown", ""))
        assert not re.search(r"<[a-zA-Z!/]|\]\(", markdown), f"cell {number}"


# Jupyter

STARTS_JUPYTER = re.compile(r"\bjupyter[ -](?:lab|notebook|server)\b.*")
OPENS_IT = re.compile(
    r"token|password|no-?auth|allow_|disable_check|ip=|0\.0\.0\.0|allow-root|--config", re.IGNORECASE
)


def test_jupyter_is_started_with_its_token():
    """In the Makefile, on every page, in workflows and containers. Without options, it requires a token and listens
    on this machine alone."""
    paths = [ROOT / "Makefile", *ROOT.glob("*.md"), *ROOT.glob("course/**/*.md"), *ROOT.glob(".github/**/*.y*ml")]
    paths += [*ROOT.glob(".devcontainer/*"), *ROOT.glob("binder/*")]
    texts = [path.read_text(encoding="utf-8").replace("\\\n", " ") for path in paths]
    lines = [line for text in texts for line in STARTS_JUPYTER.findall(text)]
    assert "jupyter lab notebooks" in lines, "make lab"
    assert not [line for line in lines if OPENS_IT.search(line)]
    places = (path.relative_to(ROOT) for path in ROOT.glob("**/jupyter_*config.*"))
    assert not [place for place in places if place.parts[0] not in (".venv", "build")], "no settings of our own"


@pytest.mark.parametrize(
    "flag", ["--IdentityProvider.token=''", "--ServerApp.password=", "--no-auth", "--ip=0.0.0.0"]
)
def test_a_flag_that_opens_jupyter_is_found(flag):
    assert OPENS_IT.search(f"jupyter lab notebooks {flag}")
