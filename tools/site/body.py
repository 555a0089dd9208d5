"""Last touches to the text of a built page: Chinese words say that they are Chinese, for screen readers and fonts;
long names may break behind a dot or an underscore, and intervals may not break; a figure opens in full on a tap."""

import re

HAN = "\u3000-\u303f\u3400-\u9fff\uff00-\uffef"
# From the first Chinese character to the last, with what may stand between: digits, spaces, quotation marks.
RUN = re.compile(rf"[{HAN}](?:[{HAN}\w\s“”…·、()（）-]*[{HAN}])?")
KEPT = re.compile(
    r"(<(?:pre|script|style|title|textarea)\b.*?</(?:pre|script|style|title|textarea)>|<[^>]*>)", re.DOTALL
)


def chinese(html: str) -> str:
    """HTML in which every run of Chinese between two tags says that it is Chinese; code is left alone."""
    parts = KEPT.split(html)
    parts[::2] = [RUN.sub(r'<span lang="zh-CN">\g<0></span>', text) for text in parts[::2]]
    return "".join(parts)


def unbroken(html: str) -> str:
    """HTML in which [+2.0, +4.1] and 8e-119 stay in one line each; code is left alone."""
    parts = KEPT.split(html)
    parts[::2] = [
        re.sub(r"(?<=\[)([+−-]?[\d.]+), ([+−-]?[\d.]+)(?=\])", "\\1,\u00a0\\2", text) for text in parts[::2]
    ]
    parts[::2] = [re.sub(r"(?<=\de)-(?=\d)", "\u2011", text) for text in parts[::2]]
    return "".join(parts)


def breakable(html: str) -> str:
    """HTML in which a name set as code may go on in the next line behind each of _ . / and :: in it."""
    return re.sub(
        r'(?<=<span class="pre">)[^<]+', lambda found: re.sub(r"(_+|::|[./])(?=\w)", r"\1<wbr>", found[0]), html
    )


def opened(html: str) -> str:
    """HTML in which every picture that is a file leads to that file: on a phone it is too small to be read."""
    parts = re.split(r"(<a\b.*?</a>)", html, flags=re.DOTALL)  # what is in a link keeps it
    parts[::2] = [
        re.sub(r'<img\b[^>]*\bsrc="((?!data:)[^"]+)"[^>]*>', r'<a href="\1">\g<0></a>', part) for part in parts[::2]
    ]
    return "".join(parts)


def named(html: str) -> str:
    """HTML in which what unfolds is called what is written on it, and not otherwise, for who steers by voice."""
    return html.replace('<summary aria-label="Toggle hidden content">', "<summary>")
