"""The web edition: how Sphinx builds what pages.py has laid out. make site"""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools" / "site")]

import body  # noqa: E402
import launch  # noqa: E402
from sphinx.search.zh import SearchChinese  # noqa: E402

IS_CHINESE = os.environ.get("DISTILL_LANGUAGE") == "zh"
project = "知识蒸馏：逐步实现，逐项实测" if IS_CHINESE else "Knowledge distillation, step by step and measured"
author = copyright = ""
html_title = html_short_title = "知识蒸馏" if IS_CHINESE else "Knowledge distillation"
language = "zh_CN" if IS_CHINESE else "en"
highlight_language = "none"  # of blocks that name none: formulas and commands
extensions = ["myst_nb"]
root_doc = "index"
exclude_patterns = ["files/**/*.ipynb"]  # copies to download

nb_execution_mode = "off"  # the committed outputs are what is shown
nb_render_markdown_format = "myst"  # tables among the outputs
nb_ipywidgets_js = {}  # widgets stand there in their static form; nothing is loaded from elsewhere
myst_heading_anchors = 4  # as the repository's viewer makes them

if IS_CHINESE:
    nb_code_prompt_show, nb_code_prompt_hide = "显示代码", "隐藏代码"
    # Sphinx 9 asks for a stemmer for Chinese, which does not exist: the search would stop. English words have one.
    SearchChinese.language_name = "English"
    # What is asked is cut into words as pages are, and the terms of the glossary are words.
    SearchChinese.js_splitter_code = (ROOT / "tools" / "site" / "split.js").read_text(encoding="utf-8")
    html_search_options = {"dict": str(ROOT / "build" / "terms.txt")}
    glossary = (ROOT / "course" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^\*\*([\u4e00-\u9fff]+)", glossary, re.MULTILINE)
    Path(html_search_options["dict"]).write_text("".join(f"{term} 1000000\n" for term in terms), encoding="utf-8")

html_theme = "sphinx_book_theme"
templates_path = ["templates"]
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = html_show_copyright = html_show_sphinx = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "navbar_persistent": [],  # one search field is enough
    "collapse_navbar": True,
}
if launch.repository():
    html_theme_options |= {"repository_url": launch.repository(), "use_repository_button": True}


def setup(app):
    app.connect("html-page-context", _language)


def _language(app, page, template, context, doctree):
    """A Chinese page is marked as such as a whole, for screen readers; on others, Chinese words are. Each page of one
    edition leads to the same page of the other."""
    if context.get("body"):
        context["body"] = body.opened(body.unbroken(body.breakable(body.named(context["body"]))))
    elsewhere = "../" if IS_CHINESE else "zh/"
    if not page.endswith(".zh-CN"):
        context["other_edition"] = f"{context['content_root']}{elsewhere}{page}.html"
    if IS_CHINESE or page.endswith(".zh-CN"):
        context["language"] = "zh-CN"
    elif context.get("body"):
        context["body"] = body.chinese(context["body"])
