"""What a notebook shows, in the reader's language (DISTILL_LANGUAGE): texts of figures, tables and checks, and what
failing tests of the exercises say.

The words stand in translations/LANGUAGE/strings.po and messages.po. In English, nothing here does anything.
"""

import functools
import re
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

from distill_utils import settings

# A number inside a text; digits that belong to a name, as in fp16, are none.
_NUMBER = re.compile(r"(?<![\w.])[-−+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")


def key(text: str) -> str:
    """A text as the catalogue names it: its numbers replaced by {0}, {1}, ..."""
    count = iter(range(100))
    return _NUMBER.sub(lambda _: f"{{{next(count)}}}", text)


def translated(text: str) -> str:
    """A text in the reader's language, with its own numbers.

    Where the catalogue lacks a text as a whole, it is put together from its lines, or from what stands on both sides
    of a colon or a comma. What is found nowhere stays English, and is listed in build/untranslated.txt.
    """
    if settings.language() == "en":
        return text
    found = _found(text)
    if found is None:
        _list(key(text))
    return text if found is None else found


def _found(text: str) -> str | None:
    if not re.search(r"[A-Za-z]{2}", text) or re.search(r"[\u3400-\u9fff]", text):  # nothing to do, or done
        return text
    whole = _whole(text)
    if whole is not None:
        return whole
    for mark, joint in (("\n", "\n"), (": ", "："), (", ", "，")):
        parts = [_found(part) for part in text.split(mark)] if mark in text else [None]
        if None not in parts:
            return joint.join(map(str, parts))
    return None


def _whole(text: str) -> str | None:
    found = _catalogue(settings.language(), "strings").get(key(text))
    return found and _filled(found, _NUMBER.findall(text))


def _filled(words: str, values: list[str]) -> str:
    return re.sub(r"\{(\d+)\}", lambda hole: values[int(hole[1])], words)


@functools.cache
def _catalogue(language: str, name: str) -> dict[str, str]:
    from babel.messages.pofile import read_po

    with (settings.translations_folder() / language / f"{name}.po").open("rb") as file:
        return {str(entry.id): str(entry.string) for entry in read_po(file)
                if entry.id and entry.string and not entry.fuzzy}


def message(text: str) -> str:
    """What a failing test says, in the reader's language; {0} in the catalogue stands for any words of the text.

    Such words may be a hint, which is translated in turn.
    """
    for english, words in _catalogue(settings.language(), "messages").items():
        found = re.fullmatch(re.sub(r"\\{\d+\\}", "(.*)", re.escape(english)), text, re.DOTALL)
        if found:
            return _filled(words, [message(part) for part in found.groups()])
    return text


def translate_errors() -> None:
    """Make a notebook show what failing tests say in the reader's language."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if settings.language() == "en" or shell is None:
        return

    def show(shell, kind, error, trace, tb_offset=None):
        error.args = (message(str(error)),)
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)

    shell.set_custom_exc((AssertionError,), show)


@functools.cache  # once per text
def _list(text: str) -> None:
    path = settings.build_folder() / "untranslated.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text.replace("\n", "\\n") + "\n")


@functools.cache
def wide_font(names: tuple[str, ...]) -> str | None:
    """The first of these fonts that this machine has, or that of the extra zh; None, with a warning, without any."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    found = next((name for name in names if name in installed), None)
    spec = None if found else find_spec("zhplot")
    if spec and spec.submodule_search_locations:
        fontManager.addfont(Path(spec.submodule_search_locations[0]) / "fonts" / "NotoSansSC-Regular.ttf")
        found = "Noto Sans SC"
    if found is None and settings.language() != "en":
        warnings.warn("no font on this machine has Chinese letters, so figures stay English: "
                      "pip install 'distill-utils[zh]', or install Noto Sans CJK", stacklevel=2)
    return found
