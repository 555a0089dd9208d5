"""The site's sources, the slides and the one-click routes, without Sphinx and without a browser: make site and
make site-test do the rest."""

import base64
import copy
import json
import re
import struct
import tomllib
from pathlib import Path

import body
import check
import colab
import launch
import nbformat
import pages
import pytest
import slides
import tables
import yaml

ROOT = Path(__file__).resolve().parents[2]

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ADDRESS = "https://github.com/someone/a-fork"


@pytest.fixture
def named(monkeypatch):
    monkeypatch.setattr(launch, "repository", lambda: ADDRESS)


# Links between pages


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("notebooks/00_start_here.ipynb", "../README.md#setting-up", "../index.md#setting-up"),
        ("notebooks/00_start_here.ipynb", "02_distill.ipynb", "02_distill.ipynb"),
        ("notebooks/00_start_here.ipynb", "../distill_utils/losses.py", "../api/losses.md"),
        ("notebooks/00_start_here.ipynb", "../distill_utils", "../api/index.md"),
        ("notebooks/00_start_here.ipynb", "../tests/conftest.py", "../files/tests/conftest.py.md"),
        ("notebooks/00_start_here.ipynb", "../results/timings.json", "../files/results/timings.json"),
        ("README.md", "results", "files/results/index.md"),
        ("README.md", "notebooks/02_distill.ipynb#summary", "notebooks/02_distill.ipynb#summary"),
        ("README.md", "LICENSE", "files/LICENSE.md"),
        ("README.md", "docs/reliability.md", "docs/reliability.md"),
        ("docs/reliability.md", "notebook-ci.md", "notebook-ci.md"),
        ("docs/notebook-ci.md", "../CONTRIBUTING.md", "../CONTRIBUTING.md"),
        ("CONTRIBUTING.md", "tools/notebook_rules.py", "files/tools/notebook_rules.py.md"),
        ("README.md", "distill_utils/explain", "api/explain.md"),
        ("README.md", "distill_utils/explain/metrics.py", "api/explain.metrics.md"),
        ("docs/notebook-ci.md", "../distill_utils/_store.py", "../files/distill_utils/_store.py.md"),
        ("README.md", "docs/results.md#techniques-glyphs", "docs/results.md#techniques-glyphs"),
        ("course/README.md", "../docs/notebook-ci.md#five-steps", "../docs/notebook-ci.md#five-steps"),
        ("README.md", "#sources", "#sources"),
        ("README.md", "https://arxiv.org/abs/1503.02531", "https://arxiv.org/abs/1503.02531"),
    ],
)
def test_a_link_of_the_repository_becomes_one_of_the_site(page, link, there):
    assert pages.relinked(f"see [x `y`]({link}).", page, pages.pages(), set()) == f"see [x `y`]({there})."


def test_links_in_raw_html_name_the_page_that_comes_out():
    text = pages.relinked('<a href="notebooks/02_distill.ipynb#summary">', "README.md", pages.pages(), set())
    assert text == '<a href="notebooks/02_distill.html#summary">'


def test_code_is_left_alone():
    code = "`[a](README.md)` and\n\n```\n[b](LICENSE)\n```\n\n"
    text = pages.relinked(f"{code}[c](LICENSE)", "README.md", pages.pages(), set())
    assert text == f"{code}[c](files/LICENSE.md)"


@pytest.mark.parametrize("link", ["nothing.md", "../outside.md"])
def test_a_link_that_leads_nowhere_is_refused(link):
    with pytest.raises(pages.BadLink, match=r"README\.md links to .* which does not exist"):
        pages.relinked(f"[a]({link})", "README.md", pages.pages(), set())


def test_everything_is_laid_out(tmp_path):
    pages.write(tmp_path)
    start = (tmp_path / "index.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        assert f"</notebooks/{path.stem}>" in start
        cells = json.loads((tmp_path / "notebooks" / path.name).read_text(encoding="utf-8"))["cells"]
        pictures = [cell for cell in cells if "image/png" in str(cell.get("outputs"))]
        assert pictures
        assert all(len(cell["metadata"]["mystnb"]["image"]["alt"]) > 20 for cell in pictures)
        assert (tmp_path / "files" / "notebooks" / path.name).read_bytes() == path.read_bytes()
        assert re.match(r"# \D", cells[0]["source"]), "lessons are numbered in the contents alone"
    for page in (
        "course/README.md",
        "course/glossary.md",
        "course/quiz/01.md",
        "README.zh-CN.md",
        "docs/results.zh-CN.md",
    ):
        assert (tmp_path / page.replace("course/README", "course/index")).exists() == (ROOT / page).exists()
    assert (tmp_path / "api" / "losses.md").exists()
    about = start.split(":caption: About the series")[1].split("```")[0]
    for page in ("CONTRIBUTING.md", "docs/notebook-ci.md", "docs/reliability.md", "docs/results.md"):
        assert f" </{page.removesuffix('.md')}>" in about
        assert (tmp_path / page).read_text(encoding="utf-8").startswith("# ")
        assert not (tmp_path / "files" / f"{page}.md").exists(), "shown as a page, not as a file"
    assert "timings.json" in (tmp_path / "files" / "results" / "index.md").read_text(encoding="utf-8")


# The reference


def test_a_module_is_described_without_importing_it(tmp_path):
    path = tmp_path / "distill_utils" / "toy.py"
    path.parent.mkdir()
    path.write_text(
        '"""Says *nothing*, 2*a*b.\n\nSuch as:\n\n    kept(as it is)\n"""\nimport not_there\n\n\n'
        'def shown(a: int, *, b=2) -> int:\n    """|a| of `b`."""\n\n\ndef bare(): ...\n\n\n'
        'def _hidden():\n    """No."""\n\n\nclass Thing:\n    """A thing."""\n\n    size: int = 3\n\n'
        '    def act(self, x):\n        """Acts."""\n',
        encoding="utf-8",
    )
    text = pages.reference(path)
    assert "Says *nothing*, 2\\*a\\*b." in text
    assert "```text\nkept(as it is)\n```" in text
    assert "{py:function} shown(a: int, *, b=2) -> int" in text
    assert "\\|a\\| of `b`." in text
    assert "{py:class} Thing(size: int = 3)" in text
    assert "{py:method} act(x)" in text
    assert "bare" not in text
    assert "_hidden" not in text


def test_every_public_function_of_the_losses_is_in_the_reference():
    text = pages.reference(ROOT / "distill_utils" / "losses.py")
    for name in ("soft_target_loss", "distillation_loss", "group_kd_loss"):
        assert f"{{py:function}} {name}(student_logits: Tensor" in text


def test_the_list_of_modules_says_what_each_is(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text('"""One thing,\nand its like. More.\n"""\n', encoding="utf-8")
    assert pages.first_sentence(path) == "One thing, and its like."
    assert all(len(pages.first_sentence(module)) > 20 for module in pages.public_modules().values())


# Languages


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ("<p>θ₁ 教师</p>", '<p>θ₁ <span lang="zh-CN">教师</span></p>'),
        ("<p>用 softmax 归一化。See</p>", '<p><span lang="zh-CN">用 softmax 归一化。</span>See</p>'),
        ("<pre>教师</pre><a title='教师'>x</a>", "<pre>教师</pre><a title='教师'>x</a>"),
        ("<p>teacher</p>", "<p>teacher</p>"),
        ("<p>gate, 门, and</p>", '<p>gate, <span lang="zh-CN">门</span>, and</p>'),
    ],
)
def test_chinese_words_say_that_they_are_chinese(html, found):
    assert body.chinese(html) == found


def test_an_interval_stays_in_one_line():
    assert body.unbroken("<td>+3.1 [+2.0, +4.1]</td>") == "<td>+3.1 [+2.0,\u00a0+4.1]</td>"
    assert body.unbroken("<pre>[2, 4]</pre>") == "<pre>[2, 4]</pre>"
    assert body.unbroken("<td>8e-119</td>") == "<td>8e\u2011119</td>"


def test_a_long_name_may_break_behind_its_dots_and_underscores():
    html = '<code><span class="pre">tests/a_b.py::__c</span></code> a_b'
    found = '<code><span class="pre">tests/<wbr>a_<wbr>b.<wbr>py::<wbr>__<wbr>c</span></code> a_b'
    assert body.breakable(html) == found


def test_a_figure_opens_in_full_on_a_tap_unless_it_is_a_link_already():
    picture = '<img alt="a" src="../_images/a.png" width="9">'
    assert body.opened(f"<p>{picture}</p>") == f'<p><a href="../_images/a.png">{picture}</a></p>'
    assert body.opened(f'<a href="x.html"><b>{picture}</b></a>') == f'<a href="x.html"><b>{picture}</b></a>'
    assert body.opened('<img src="data:,">') == '<img src="data:,">'


# What make site checks in the pages that came out


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ('<a href="b.html#there">x</a><img src="data:," alt="described">', None),
        ('<a href="c.html">x</a>', "a.html links to c.html, which is not there"),
        ('<a href="b.html#nowhere">x</a>', "a.html links to b.html#nowhere, and there is no such anchor"),
        ('<a href="#nowhere">x</a>', "a.html links to #nowhere, and there is no such anchor"),
        ('<img src="data:,">', "a.html has 1 pictures without a description"),
        ('<script src="https://cdn.example/x.js"></script>', "a.html fetches https://cdn.example/x.js"),
        ('<img src="gone.png" alt="described">', "a.html fetches gone.png, which is not there"),
        ('<a href="https://example.org">x</a>', None),
    ],
)
def test_a_built_page_is_checked(tmp_path, html, fault):
    (tmp_path / "a.html").write_text(html, encoding="utf-8")
    (tmp_path / "b.html").write_text('<h2 id="there">b</h2>', encoding="utf-8")
    found = check.faults(tmp_path)
    assert len(found) == (fault is not None)
    assert not fault or found[0].startswith(fault)


def test_a_folder_without_pages_is_a_fault(tmp_path):
    assert check.faults(tmp_path) == [f"there is no page in {tmp_path}"]


# Slides


def text(source, **metadata):
    return nbformat.v4.new_markdown_cell(source, metadata=metadata)


def png(width: int, height: int) -> str:
    return base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)).decode()


def code(source="pass", kinds=(), size=(900, 400), **metadata):
    data = {"image/png": png(*size), "text/markdown": "| a |\n| --- |\n| 1 |"}
    found = [nbformat.v4.new_output("display_data", {kind: data[kind]}) for kind in kinds]
    return nbformat.v4.new_code_cell(source, outputs=found, metadata=metadata)


def shown(*cells) -> list:
    opening = text("# 1. Title\n\nWhat is asked.\n\n> **You will**\n>\n> - learn;\n>\n> **You need**: nothing.")
    notebook = nbformat.v4.new_notebook(cells=[opening, *cells])
    return [(slides.slide_type(cell), cell.source) for cell in slides.slides(notebook)]


def marked(kind):
    return {"slideshow": {"slide_type": kind}}


def test_title_and_promise_come_first():
    assert shown() == [("slide", "# Title\n\nWhat is asked."), ("slide", "## You will\n\n- learn;")]


def test_a_figure_stands_below_its_heading_and_the_paragraph_before_it_without_its_code():
    found = shown(text("## Why\n\nLong story.\n\nLook at the left."), code("draw()", ["image/png", "text/markdown"]))
    assert found[2] == ("slide", "## Why\n\nLook at the left.")
    cell = slides._result(code("draw()", ["image/png", "text/markdown"]), "image/png")
    assert cell.metadata["transient"]["remove_source"]
    assert [list(output.data) for output in cell.outputs] == [["image/png"]]


def test_a_part_without_a_figure_shows_its_first_table_and_one_without_both_its_text():
    tables = [code("1", ["text/markdown"]), code("2", ["text/markdown"])]
    assert [source for _, source in shown(text("## Why\n\nSee."), *tables)][2:] == ["## Why\n\nSee.", "1"]
    assert shown(text("## Why\n\nBecause."), code())[2:] == [("slide", "## Why\n\nBecause.")]


def test_a_part_of_a_section_names_the_section_too():
    found = shown(text("## Why\n\nBecause.\n\n### How\n\nSo."), code(kinds=["image/png"]))
    assert found[2][1] == '<p class="section">Why</p>\n\n## How\n\nSo.'


@pytest.mark.parametrize("kind", ["slide", "subslide", "fragment"])
def test_code_is_shown_where_its_cell_says_so(kind):
    found = shown(text("## Why\n\nFive lines."), code("five", **marked(kind)), code("more"))
    assert [source for _, source in found[2:]] == ["## Why\n\nFive lines.", "five"]


@pytest.mark.parametrize(
    ("size", "place"),
    [((900, 400), "below"), ((1400, 500), "below"), ((900, 800), "beside"), ((1200, 760), "alone")],
)
def test_a_figure_of_much_height_gets_more_of_the_slide(size, place):
    cell = slides._result(code("draw()", ["image/png"], size), "image/png")
    assert cell.outputs[0].metadata.room == place
    found = shown(text("## Why\n\nLook."), code("draw()", ["image/png"], size))
    assert found[2] == ("slide", "## Why" if place == "alone" else "## Why\n\nLook.")


def test_a_slide_of_text_alone_carries_on_what_it_began():
    table = "| a |\n| --- |\n| 1 |"
    assert shown(text(f"## Why\n\nTwo of them:\n\n{table}"), code())[2:] == [
        ("slide", f"## Why\n\nTwo of them:\n\n{table}")
    ]
    formula = "With probability\n\n    p = 1\n\nwhere p is one. And more."
    assert shown(text(f"## Why\n\n{formula}"), code())[2][1] == f"## Why\n\n{formula.removesuffix(' And more.')}"


def test_code_on_a_slide_has_no_two_empty_lines_and_nothing_for_a_formatter():
    assert slides._shown(code("a\n\n\nb  # fmt: skip")).source == "a\n\nb"


def test_what_is_marked_skip_is_left_out():
    picture = code("draw", ["image/png"])
    assert len(shown(text("## Why\n\nSee."), picture, code("again", ["image/png"], **marked("skip")))) == 2 + 2
    assert len(shown(text("## Why\n\nSee.", **marked("skip")), picture)) == 2


def test_set_up_and_next_are_left_out_and_exercises_have_no_hints():
    hint = "   <details><summary>Hint</summary>\n   No.\n   </details>"
    exercises = f"## Exercises\n\n1. **Apply.** Do.\n\n{hint}\n\n## Next\n\nOn."
    found = shown(text("## Set-up\n\nLoads."), code(), text(exercises))
    assert found[2:] == [("slide", "## Exercises\n\n1. **Apply.** Do.")]


def test_only_whole_sentences_are_left_out_of_a_long_paragraph():
    sentence = "Here are ten words that say nothing much at all."
    assert slides.brief(" ".join([sentence] * 9), 45) == " ".join([sentence] * 4)
    assert slides.brief("It counts (Slack et al. 2019). Next.", 4) == "It counts (Slack et al. 2019)."


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_lesson_makes_a_talk(path):
    notebook = nbformat.read(path, as_version=4)
    before = copy.deepcopy(notebook)
    found = slides.slides(notebook)
    assert notebook == before, "making slides changed the notebook"
    assert 6 <= sum(slides.slide_type(cell) in slides.SHOWN for cell in found) <= 22
    figures = sum("image/png" in str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code")
    assert sum("image/png" in str(cell.get("outputs")) for cell in found) == figures
    sources = "\n".join(cell.source for cell in found if cell.cell_type == "markdown")
    assert not re.search(r"\]\((?!https?:)", sources), "a relative link leads nowhere from a slide"
    on_slides = [cell for cell in found if slides.slide_type(cell) != "notes" and not cell.metadata.get("transient")]
    assert all(len(cell.source.splitlines()) <= 18 for cell in on_slides if cell.cell_type == "code")
    assert all(len(cell.source.split()) <= 180 for cell in on_slides)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_slide_announces_only_what_it_shows(path):
    words = {"image/png": r"\b(figures?|panels?)\b", "text/markdown": r"\btables?\b", "": r"\b(explorer|slider)s?\b"}
    found, slide = [], []
    for cell in slides.slides(nbformat.read(path, as_version=4)):
        if slides.slide_type(cell) in ("slide", "subslide"):
            found.append(slide := [])
        if slides.slide_type(cell) != "notes":
            slide.append(cell)
    for cells in found:
        said = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        if said.startswith(("## Exercises", "## You will")):
            continue  # what is done in the notebook
        shown = str([cell.get("outputs") for cell in cells]) + ("text/markdown" if "| :--" in said else "")
        body_text = re.sub(r"^(#|<p).*$", "", said, flags=re.MULTILINE).replace("in a table", "")
        for kind, pattern in words.items():
            lost = not kind or kind not in shown
            assert not (lost and re.search(pattern, body_text, re.IGNORECASE)), f"not on the slide: {said}"


def test_a_sentence_about_a_table_that_stays_behind_is_left_out():
    lead = "The figure shows one channel. The table gives them all."
    assert slides.without_lost(lead, "figure") == "The figure shows one channel."
    found = shown(text("## Why\n\nFirst.\n\nThree cautions.\n\n- one;"), code(kinds=["image/png"]))
    assert found[2][1] == "## Why\n\nFirst.", "a sentence that leads to a list needs the list"


# One-click routes


def test_no_link_is_made_without_an_address(monkeypatch):
    monkeypatch.setattr(launch, "repository", lambda: None)
    assert launch.links("02_distill") == {}
    assert "colab" not in tables.lessons(str).lower()
    assert "olab" not in pages.ways_to_open(NOTEBOOKS[0])


@pytest.mark.parametrize(
    ("line", "address"),
    [
        (f'Repository = "{ADDRESS}"', ADDRESS),
        (f'Repository = "{ADDRESS}.git"', ADDRESS),
        ('Repository = "https://example.org/x/y"', None),
        ('Homepage = "https://github.com/x/y"', None),
    ],
)
def test_the_address_is_read_from_pyproject(monkeypatch, tmp_path, line, address):
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "x"\n[project.urls]\n{line}\n', encoding="utf-8")
    monkeypatch.setattr(launch.settings, "ROOT", tmp_path)
    assert launch.repository() == address


@pytest.mark.usefixtures("named")
def test_links_lead_to_the_copy_for_colab_and_to_the_notebook_on_binder():
    assert launch.links("02_distill") == {
        "Colab": "https://colab.research.google.com/github/someone/a-fork/blob/gh-pages/colab/02_distill.ipynb",
        "Binder": "https://mybinder.org/v2/gh/someone/a-fork/HEAD?urlpath=lab/tree/notebooks/02_distill.ipynb",
    }
    row = next(line for line in tables.lessons(str).splitlines() if "02_distill" in line)
    assert all(f"({address})" in row for address in launch.links("02_distill").values())
    assert launch.links(NOTEBOOKS[0].stem)["Colab"] in pages.ways_to_open(NOTEBOOKS[0])


def test_a_copy_for_colab_has_one_more_cell_which_installs_and_nothing_else(tmp_path):
    colab.write(tmp_path, ADDRESS)
    for path in NOTEBOOKS:
        first, *rest = nbformat.read(tmp_path / path.name, as_version=4).cells
        assert first.source == f"!git clone --quiet --depth 1 {ADDRESS} distill\n%cd distill\n%pip install --quiet ."
        assert rest == nbformat.read(path, as_version=4).cells
        nbformat.validate(nbformat.read(tmp_path / path.name, as_version=4))


def test_the_dev_container_sets_up_as_make_does():
    found = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    assert f"READY := {found['postCreateCommand'].split()[-1]}" in lines


# Pins and the workflow


def test_what_builds_the_site_is_pinned_without_an_address():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = (ROOT / "tools" / "site" / "requirements.txt").read_text(encoding="utf-8")
    for asked in project["dependency-groups"]["site"]:
        name = re.match(r"[\w-]+", asked)[0]
        assert re.search(rf"^{name}==[\d.]+( ;.*)?$", pins, re.MULTILINE), f"{name} is not pinned: make lock"
    assert "://" not in pins


def test_the_site_is_published_from_main_alone_after_green_tests():
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(workflow)["jobs"]
    assert "github.ref == 'refs/heads/main'" in jobs["publish"]["if"]
    assert set(jobs["publish"]["needs"]) == {"make-test", "site"}
    assert [name for name, job in jobs.items() if "permissions" in job] == ["publish"]


def test_what_unfolds_is_called_what_is_written_on_it():
    html = '<summary aria-label="Toggle hidden content"><p>Show code</p></summary>'
    assert body.named(html) == "<summary><p>Show code</p></summary>"


def test_chinese_slides_are_cut_at_sentences_and_announce_nothing_that_is_missing():
    assert slides.length("教师网络 T = 4") == pytest.approx(0.6 * 4 + 3)
    assert slides.brief("第一句话。" * 3 + "最后一句。", words=4) == "第一句话。"
    assert slides.without_lost("教师很有把握。下表列出各类别。", None) == "教师很有把握。"
    assert slides.without_lost("教师很有把握。下表列出各类别。", "table") == "教师很有把握。下表列出各类别。"


def test_a_link_to_a_notebook_that_is_no_page_is_refused():
    link = "[x](../course/source/01_train_teacher/01_train_teacher.ipynb)"
    with pytest.raises(pages.BadLink, match="no page of the site"):
        pages.relinked(link, "notebooks/00_start_here.ipynb", pages.pages(), set())
