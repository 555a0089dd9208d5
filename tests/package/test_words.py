"""Generated words for the commands: whatever is typed, the answer is a sentence and a status, never a traceback."""

import contextlib
import io

import generated
from generated import WORDS
from hypothesis import given
from hypothesis import strategies as st

from distill_utils import __main__, models, recipes, settings, studies
from distill_utils.commands import doctor, run
import tables


class Started(Exception):
    """All arguments were taken and the work would begin."""


def start(*arguments, **options):
    raise Started


NUMBERS = st.one_of(
    st.integers(-3, 300).map(str), st.floats().map(str),
    st.sampled_from(["", "1e3", "0x10", "١٢", "1_000", "9" * 5000, "nan", "inf", "1" + "0" * 400, "0.5", "1"]), WORDS,
)  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(["glyphs", "digits", "teacher", "02", "cpu", "cuda", *studies.names()]),
    st.sampled_from(list(models.MODELS)), WORDS,
)  # fmt: skip
PATHS = st.one_of(
    st.sampled_from(["run", "run/model.safetensors", "a file", "."]), WORDS.map(lambda word: word.lstrip("/"))
)
OPTIONS = {
    "train": {"--out": PATHS, "--dataset": NAMES, "--model": NAMES, "--width": NUMBERS, "--steps": NUMBERS,
              "--batch-size": NUMBERS, "--lr": NUMBERS, "--views": NUMBERS, "--teacher": PATHS,
              "--temperature": NUMBERS, "--alpha": NUMBERS, "--transfer": None, "--seed": NUMBERS,
              "--checkpoint-every": NUMBERS, "--device": NAMES, "--bf16": None, "--compile": None},
    "study": {"--dataset": NAMES, "--seeds": st.integers(-3, 30).map(str) | WORDS, "--workers": NUMBERS,
              "--replace": None},
    "run": {"--in-place": None}, "readme": {"--check": None}, "checks": {}, "doctor": {},
}  # fmt: skip


@st.composite
def lines(draw) -> list[str]:
    """A command with what belongs to it, and in some cases a word more or less."""
    command = draw(st.sampled_from(list(OPTIONS)))
    words = [command]
    if command in ("train", "study", "run"):
        words.append(draw(st.sampled_from(["teacher", "student"]) if command == "train" else NAMES))
    if command == "train":
        words += ["--out", draw(PATHS), "--dataset", draw(st.sampled_from(["glyphs", "digits"]) | NAMES)]
    options = OPTIONS[command]
    for option in draw(st.lists(st.sampled_from(list(options)), max_size=3, unique=True)) if options else []:
        words += [option] if options[option] is None else [f"{option}={draw(options[option])}"]
    fault = draw(st.sampled_from(["none"] * 4 + ["less", "more", "help"]))
    if fault == "less":
        del words[draw(st.integers(0, len(words) - 1))]
    if fault in ("more", "help"):
        words.insert(draw(st.integers(0, len(words))), "--help" if fault == "help" else draw(WORDS))
    return words


@given(words=lines())
def test_whatever_is_typed_is_answered_in_a_sentence(words, monkeypatch, tmp_path):
    # What would begin to work, or to write outside of this test's folder, says that it was reached.
    monkeypatch.chdir(tmp_path)
    for name in ("results_folder", "build_folder"):
        monkeypatch.setattr(settings, name, lambda: tmp_path)
    (tmp_path / "a file").write_text("{")
    monkeypatch.setattr(recipes, "ingredients", start)
    monkeypatch.setattr(parallel, "run_all", start)
    monkeypatch.setattr(series, "_execute", start)
    monkeypatch.setattr(readme, "update", lambda check: True)
    monkeypatch.setattr(doctor, "examine", lambda: True)
    generated.RAN["__main__.main"] += 1
    out, err, status = io.StringIO(), io.StringIO(), "started"
    with contextlib.suppress(Started), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = __main__.main(words)
        except SystemExit as left:  # argparse's way
            status = left.code
    said = err.getvalue()
    if status in (0, "started"):
        assert said == ""
    elif status == 2:
        assert said.startswith("usage: ")
        assert "error: " in said
        generated.RAN["__main__.main", "usage"] += 1
    else:
        assert status == 1
        assert said.startswith("error: ")
        assert said.count("\n") == 1 + sum(word.count("\n") for word in words)
        generated.RAN["__main__.main", "error"] += 1
