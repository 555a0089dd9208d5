"""The Chinese edition: nothing missing, nothing lost in translation, one word for each term, and a change of the
English text that nobody translated is named."""

import json
import re
import shutil
from pathlib import Path

import nbclient
import nbformat
import pytest
import translate

from distill_utils import _translate, checks, plots, settings

ROOT = Path(__file__).resolve().parents[2]
LESSON = "notebooks/02_distill.ipynb"
HAN = "\u3400-\u9fff"


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A checkout with one lesson and its catalogue, which a test may change."""
    for name in (LESSON, *(f"translations/zh/{name}.po" for name in ("notebooks/02_distill", "strings", "messages"))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    monkeypatch.setattr(translate, "ROOT", tmp_path)
    monkeypatch.setattr(translate, "BUILD", tmp_path / "build" / "zh")
    return tmp_path


def edit(path: Path, cell: str, old: str, new: str) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    (found,) = (each for each in notebook["cells"] if each["id"] == cell)
    source = "".join(found["source"])
    assert old in source
    found["source"] = source.replace(old, new)
    path.write_text(json.dumps(notebook), encoding="utf-8")


# Drift


def test_every_english_text_has_a_translation_or_is_marked_as_stale():
    missing = [line for line in translate.stale() if not line.endswith("marked as stale")]
    assert not missing, "make zh-mark lets this pass, until somebody translates:\n" + "\n".join(missing)


def test_a_changed_cell_is_named_until_it_is_marked_and_then_shown_in_english(copy):
    assert translate.stale() == []
    edit(copy / LESSON, "02-015", "The order of the classes never changes", "The order of classes never changes")
    assert translate.stale() == [f"{LESSON}, 02-015: changed since it was translated"]
    translate.mark()
    assert translate.stale() == [f"{LESSON}, 02-015: marked as stale"]
    cells = {cell["id"]: cell["source"] for cell in json.loads(translate.notebook(LESSON, set()))["cells"]}
    assert cells["02-015"].startswith(translate.STALE)
    assert "The order of classes never changes" in cells["02-015"]
    assert not cells["02-017"].startswith(translate.STALE)
    edit(copy / LESSON, "02-015", "The order of classes never changes", "The order of the classes never changes")
    translate.mark()
    assert translate.state(LESSON)["02-015", piece(LESSON, "02-015")][1], "only a translator may take the mark away"


def piece(page: str, cell: str) -> str:
    return next(english for context, english in translate.pieces(page) if context == cell)


def test_a_new_lesson_without_a_catalogue_is_named(copy):
    (copy / "translations/zh/notebooks/02_distill.po").unlink()
    with pytest.raises(translate.BadTranslation, match=r"02_distill\.po cannot be read .* make zh-mark"):
        translate.stale()


# What a translation must keep


@pytest.mark.parametrize("page", translate.pages())
def test_no_translation_lost_a_link_code_or_a_heading(page):
    assert translate.broken(page) == []


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("(../course/glossary.md#soft-target-loss)", "", "links differ"),
        ("# 教师", "教师", "headings differ"),
        ("](00_start_here.ipynb)", "](00.ipynb)", "links differ"),
    ],
)
def test_a_broken_translation_names_the_cell_and_builds_nothing(copy, old, new, what):
    path = copy / "translations/zh/notebooks/02_distill.po"
    before, mark, after = path.read_text(encoding="utf-8").partition('msgctxt "02-000"')
    english, mark2, chinese = after.partition("msgstr")
    assert old in chinese
    path.write_text(before + mark + english + mark2 + chinese.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(translate.BadTranslation, match=f"02-000: {what}"):
        translate.build()
    assert not translate.BUILD.exists()


def test_a_translation_without_its_number_is_named(copy):
    path = copy / "translations/zh/strings.po"
    path.write_text(path.read_text(encoding="utf-8") + '\nmsgid "{0} views of 7"\nmsgstr "视图"\n', encoding="utf-8")
    with pytest.raises(translate.BadTranslation, match="views.*other placeholders"):
        translate.build()


def test_code_and_outputs_are_those_of_the_english_lesson():
    for page in (page for page in translate.pages() if page.startswith("notebooks/")):
        english = json.loads((ROOT / page).read_text(encoding="utf-8"))["cells"]
        chinese = json.loads(translate.notebook(page, set()))["cells"]
        assert [cell["id"] for cell in chinese] == [cell["id"] for cell in english]
        code = [[cell["source"] for cell in cells if cell["cell_type"] == "code"] for cells in (english, chinese)]
        assert code[0] == code[1]


def test_a_heading_that_is_linked_has_its_english_anchor():
    assert translate.anchored("# A\n\n## One two", "# 甲\n\n## 乙", {"one-two"}) == (
        '# 甲\n\n<a id="one-two"></a>\n\n## 乙'
    )
    with pytest.raises(translate.BadTranslation, match="2 headings in English and 1 in Chinese"):
        translate.anchored("# A\n\n## One two", "# 甲", set())


def test_generated_tables_are_in_chinese():
    text = translate.page_text("course/README.md", set())
    assert "| 00 [从这里开始](../notebooks/00_start_here.ipynb) |" in text
    left = [line for part in translate.GENERATED.finditer(text) for line in part[0].splitlines()[1:-1]]
    assert len(left) > 20
    assert not [line for line in left if re.search(r"[a-z]+ [a-z]+ [a-z]+", line)]


def test_a_run_in_chinese_outlives_a_build(copy):
    """Its outputs stay while the code is the same, and are English again when the code has changed."""
    ran = json.loads((copy / LESSON).read_text(encoding="utf-8"))
    first = next(cell for cell in ran["cells"] if cell["cell_type"] == "code")
    first["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "中文"}]
    translate.BUILD.joinpath("notebooks").mkdir(parents=True)
    translate.BUILD.joinpath(LESSON).write_text(json.dumps(ran), encoding="utf-8")
    assert "中文" in translate.notebook(LESSON, set()).split(first["id"])[1][:600]
    ran["cells"][ran["cells"].index(first)]["source"] = "changed"
    translate.BUILD.joinpath(LESSON).write_text(json.dumps(ran), encoding="utf-8")
    assert '"中文"' not in translate.notebook(LESSON, set())


def test_a_mark_shows_a_translator_the_english_that_was_translated(copy):
    edit(copy / LESSON, "02-015", "The order of the classes never changes", "The order of classes never changes")
    translate.mark()
    text = translate.catalogue_path(LESSON).read_text(encoding="utf-8").replace("\n#| ", " ")  # it is wrapped
    assert "The order of the classes never changes" in text
    assert "The order of classes never changes" in text


def test_both_readmes_and_both_pages_of_results_have_the_same_headings():
    for page in ("README", "docs/results"):
        english, chinese = ((ROOT / f"{page}{end}.md").read_text(encoding="utf-8") for end in ("", ".zh-CN"))
        translate.anchored(english, chinese, set())


# Terms and signs


def chinese_texts() -> dict[str, str]:
    """Every translated piece, without code, link targets, tags and formulas."""
    found = {}
    for page in translate.pages():
        for (context, english), (chinese, marked) in translate.state(page).items():
            if chinese and not marked:
                text = translate.CODE.sub("`", translate.FENCED.sub("", chinese))
                text = re.sub(r"[\w.-]+\.(?:json|ipynb|md|py)\b", "", text)
                text = re.sub(r"^ {4}.*$|\]\([^)]*\)|<[^>]+>", "", text, flags=re.MULTILINE)
                found[f"{page}, {translate.short(context, english)}"] = text
    return found


def not_used() -> dict[str, str]:
    """Words of the glossary's last table: what is not said, and what is said instead."""
    table = (ROOT / "course" / "glossary.md").read_text(encoding="utf-8").partition("| :-- | :-- |\n")[2]
    return dict(re.findall(rf"^\| ([{HAN}]+) \| ([{HAN}]+)", table, re.MULTILINE))


def test_every_term_has_one_translation():
    words = not_used()
    assert len(words) > 8
    found = [
        f"{where}: say {right}, not {wrong}"
        for where, text in chinese_texts().items()
        for wrong, right in words.items()
        if wrong in text
    ]
    assert not found, "\n".join(found)


def test_no_english_term_stands_where_there_is_a_chinese_one():
    text = (ROOT / "course" / "glossary.md").read_text(encoding="utf-8")
    pairs = re.findall(r"^## ([a-zA-Z -]+)\n\n(?:.+\n)+\n\*\*([^*]+)\*\*", text, re.MULTILINE)
    terms = [english for english, chinese in pairs if not re.search("[A-Za-z]", chinese.split("（")[0])]
    assert len(terms) > 40
    # In parentheses, in quotation marks or in italics an English word is quoted.
    quoted = re.compile(r"（[^（）]*）|“[^”]*”|\*[^*]+\*|\([^()]*\)|\[[^\]]*\]")
    found = []
    for where, chinese in chinese_texts().items():
        plain = quoted.sub("", quoted.sub("", chinese))
        found += [f"{where}: {term}" for term in terms if re.search(rf"(?<![\w-]){term}s?(?![\w-])", plain)]
    assert not found, "\n".join(found)


def test_signs_are_chinese_and_letters_stand_apart():
    found = []
    for where, text in chinese_texts().items():
        for wrong in re.finditer(
            rf"[{HAN}][,;:?!](?![\w/])|[{HAN}]\.(?=\s|$)|[{HAN}][A-Za-z0-9]|[A-Za-z0-9%][{HAN}]", text
        ):
            found.append(f"{where}: …{text[max(0, wrong.start() - 8) : wrong.end() + 4]!r}")
    assert not found, "\n".join(found)


# What figures, tables and checks say


@pytest.fixture
def in_chinese(monkeypatch, tmp_path):
    """DISTILL_LANGUAGE=zh, with a catalogue of three texts."""
    (tmp_path / "zh").mkdir()
    (tmp_path / "zh" / "strings.po").write_text(
        'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=utf-8\\n"\n\n'
        'msgid "{0} of {1} images"\nmsgstr "{1} 张图像中的 {0} 张"\n\nmsgid "alone"\nmsgstr "单独训练"\n\n'
        'msgid "distilled"\nmsgstr "蒸馏"\n\n#, fuzzy\nmsgid "others"\nmsgstr "别的"\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("DISTILL_LANGUAGE", "zh")
    monkeypatch.setenv("DISTILL_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(settings, "translations_folder", lambda: tmp_path)
    for cached in (_translate._catalogue, _translate._list):
        cached.cache_clear()
    yield tmp_path / "build" / "untranslated.txt"
    _translate._catalogue.cache_clear()


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("3 of 1,000 images", "1,000 张图像中的 3 张"),
        ("-0.5 of 1e-08 images", "1e-08 张图像中的 -0.5 张"),
        ("alone\ndistilled", "单独训练\n蒸馏"),
        ("alone, distilled", "单独训练，蒸馏"),
        ("alone: 3 of 4 images", "单独训练：4 张图像中的 3 张"),
        ("T = 4", "T = 4"),
        ("Q", "Q"),
    ],
)
def test_a_text_is_translated_with_its_own_numbers(in_chinese, english, chinese):
    assert _translate.translated(english) == chinese
    assert not in_chinese.exists()


def test_what_has_no_translation_stays_english_and_is_listed_once(in_chinese):
    for _ in range(2):
        assert _translate.translated("alone, 5 others") == "alone, 5 others"
        assert _translate.translated("others") == "others", "what is marked as stale is not shown"
    assert in_chinese.read_text(encoding="utf-8") == "alone, {0} others\nothers\n"


def test_a_check_prints_its_claim_in_chinese_and_records_it_in_english(in_chinese, capsys):
    checks.begin("test")
    checks.check("distilled", True)
    assert capsys.readouterr().out == "PASS 蒸馏\n"
    assert '"name": "distilled"' in (in_chinese.parent / "checks" / "test.jsonl").read_text(encoding="utf-8")


def test_a_figure_speaks_chinese_down_to_its_ticks(in_chinese):
    pytest.importorskip("zhplot", reason="the extra zh, which brings a font, is not installed")
    fig, axis = plots.figure()
    axis.bar(["alone", "distilled"], [1, 2], label="alone")
    axis.set(title="3 of 4 images", yscale="log")
    axis.legend()
    plots.finish(fig)
    plots.plt.close(fig)
    texts = {text.get_text() for text in fig.findobj(plots.Text)}
    assert {"单独训练", "蒸馏", "4 张图像中的 3 张"} <= texts
    assert not {"alone", "distilled", "3 of 4 images"} & texts


def test_a_failing_test_of_an_exercise_speaks_chinese_with_its_own_values(in_chinese, monkeypatch):
    path = _translate.settings.translations_folder() / "zh" / "messages.po"
    path.write_text(
        'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=utf-8\\n"\n\n'
        'msgid "{0} of 3 are zero (see {1})."\nmsgstr "见 {1}：3 个中有 {0} 个为零。"\n',
        encoding="utf-8",
    )
    assert _translate.message("(1, 2) of 3 are zero (see 01).") == "见 01：3 个中有 (1, 2) 个为零。"
    assert _translate.message("something else") == "something else"


def test_the_kernel_of_a_chinese_reader_shows_it(monkeypatch):
    """As in a notebook: the first test of the first exercise, failed."""
    monkeypatch.setenv("DISTILL_LANGUAGE", "zh")
    english = next(text for text in translate.messages() if "{" not in text)
    cells = [nbformat.v4.new_code_cell(f"import distill_utils\nassert False, {english!r}")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, allow_errors=True).execute()
    assert notebook.cells[0].outputs[0]["evalue"] == translate.state("messages")[None, english][0]


def test_messages_of_hidden_tests_are_not_given_away():
    """The students' edition has the catalogue."""
    hidden = [
        text
        for path in (ROOT / "course" / "source").glob("*/*.ipynb")
        for text in re.findall(
            r"### BEGIN HIDDEN TESTS(.*?)### END HIDDEN", path.read_text(encoding="utf-8"), re.DOTALL
        )
    ]
    catalogue = (ROOT / "translations" / "zh" / "messages.po").read_text(encoding="utf-8")
    said = {words for text in hidden for words in re.findall(r"[A-Z][^{}\\\"]{25,}", text)}
    assert len(said) > 20
    shown = "\n".join(translate.messages())
    assert not [words for words in said if words in catalogue and words not in shown]


def test_in_english_nothing_is_looked_up(monkeypatch):
    monkeypatch.delenv("DISTILL_LANGUAGE", raising=False)
    monkeypatch.setattr(_translate, "_catalogue", None)
    assert _translate.translated("alone") == "alone"


def test_an_unknown_language_lists_the_known_ones(monkeypatch):
    monkeypatch.setenv("DISTILL_LANGUAGE", "tlh")
    with pytest.raises(ValueError, match="DISTILL_LANGUAGE=tlh is not known: choose one of en, zh"):
        settings.language()


def test_the_font_of_the_extra_has_every_letter_of_the_catalogue():
    folder = pytest.importorskip("zhplot", reason="the extra zh, which brings a font, is not installed").__path__[0]
    import matplotlib
    from matplotlib.ft2font import FT2Font

    own = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"  # asked first
    known = {
        letter
        for file in (own, Path(folder) / "fonts" / "NotoSansSC-Regular.ttf")
        for letter in FT2Font(str(file)).get_charmap()
    }
    used = set((ROOT / "translations" / "zh" / "strings.po").read_text(encoding="utf-8")) - {"\n"}
    assert not {letter for letter in used if ord(letter) not in known}
