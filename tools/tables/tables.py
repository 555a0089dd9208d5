"""Writes the generated parts of README.md, docs/results.md and course/README.md, and the minutes at the head of each
lesson, in English and in Chinese.

    python tools/tables/tables.py [--check]

What stands between <!-- NAME:begin --> and <!-- NAME:end --> is made from notebooks/, results/ and findings.json.
--check writes nothing and fails if a page is out of date. The argument `say` is a function that returns English words
as they are (str) or in Chinese (chinese).
"""

import functools
import json
import re
import statistics
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools" / "site")]

import launch  # noqa: E402
from findings import committed, difference, findings  # noqa: E402

from distill_utils import _store, settings, studies  # noqa: E402

NOTEBOOKS = ROOT / "notebooks"
CHINESE = json.loads(Path(__file__).with_name("zh.json").read_text(encoding="utf-8"))


def chinese(words: str) -> str:
    """The words in Chinese; in English where zh.json has none, which a test reports."""
    return CHINESE.get(words, words)


def table(say, columns: str, rows: list[tuple]) -> str:
    """A Markdown table; columns: headings separated by a bar, a colon after those of numbers."""
    names = columns.split("|")
    marks = ["--:" if name.endswith(":") else ":--" for name in names]
    lines = [[say(name.strip(":")) for name in names], marks, *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def lessons(say, folder: str = "notebooks") -> str:
    """Every notebook with its question and measured minutes."""
    timings = _store.read_json(settings.results_folder() / "timings.json", cure=studies.CURE)
    rows, measured = [], []
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    for path in paths:
        title, question = opening(path)
        links = [f"[{say(title)}]({folder}/{path.name})"]
        links += [f"[{name}]({address})" for name, address in launch.links(path.stem).items()]
        seconds = timings.get(path.stem, {}).get("seconds")
        measured += [seconds] if seconds else []
        time = minutes(seconds) if seconds else say("not yet measured")
        rows.append((f"{path.stem.partition('_')[0]} {' · '.join(links)}", say(question), time))
    if len(measured) == len(paths):
        rows.append(("", say("all of them, one after the other"), minutes(sum(measured))))
    return table(say, "notebook|question|minutes:", rows)


def opening(path: Path) -> tuple[str, str]:
    """Title and first paragraph of a notebook."""
    source = "".join(_store.read_json(path)["cells"][0]["source"]).replace("|", "\\|")
    title, *paragraphs = re.split(r"\n\s*\n", source.strip())
    title = re.sub(r"^#\s+(?:\d+\.?\s+)?", "", title)
    return title, " ".join(paragraphs[0].split()) if paragraphs else ""


def minutes(seconds: float) -> str:
    """In halves of a minute: other machines differ by more."""
    return f"{seconds / 60:.0f}" if seconds >= 600 else f"{max(1, round(seconds / 30)) / 2:g}"


_TAKES = [
    re.compile(r"(\*\*Takes\*\*: )\S+( minutes to read and )\S+( to run)"),
    re.compile(r"(\*\*用时\*\*：阅读 )\S+( 分钟，运行 )\S+( 分钟)"),
]


def heads() -> dict[Path, str]:
    """The text of every lesson and of its translation with the minutes that it takes: to read, in steps of five (150
    words or 20 visible lines of code a minute, half a minute for a figure), and to run, as measured."""
    timings, texts = _store.read_json(settings.results_folder() / "timings.json", cure=studies.CURE), {}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        cells = _store.read_json(path)["cells"]
        seen = {"markdown": "", "code": ""}
        for cell in cells:
            if "hide-input" not in cell["metadata"].get("tags", []):
                seen[cell["cell_type"]] += "".join(cell["source"]) + "\n"
        figures = json.dumps(cells).count('"image/png":')
        effort = len(seen["markdown"].split()) / 150 + seen["code"].count("\n") / 20 + figures / 2
        reading, running = 5 * max(1, round(effort / 5)), minutes(timings[path.stem]["seconds"])
        for page in (path, ROOT / "translations" / "zh" / "notebooks" / f"{path.stem}.po"):
            texts[page] = page.read_text(encoding="utf-8")
            for pattern in _TAKES:
                texts[page] = pattern.sub(rf"\g<1>{reading}\g<2>{running}\g<3>", texts[page])
    return texts


def results(say) -> str:
    """Each study's verdicts, counted; then all claims of each study."""
    counts, parts = [], []
    for path in sorted(settings.results_folder().glob("*-*.json")):
        if "verdicts" not in _store.read_json(path, cure=studies.CURE):
            continue  # a benchmark
        found = committed(*path.stem.split("-"))
        name, rows = f"{found['study']}, {found['dataset']}", []
        words = Counter(row["verdict"].partition(": ")[0] for row in found["verdicts"])
        counted = "; ".join(f"{number} × {say(word)}" for word, number in sorted(words.items()))
        counts.append((name, found["settings"]["seeds"], len(found["runs"]), counted))
        for row in found["verdicts"]:
            verdict = ": ".join(map(say, row["verdict"].split(": ", 1)))
            if row["seeds_needed"]:
                verdict += say(" ({seeds:,} seeds would decide)").format(seeds=row["seeds_needed"])
            kind = say("primary" if row["primary"] else "exploratory")
            rows.append((row["claim"], say(row["label"]), kind, difference(row, say), verdict, row["n"]))
        columns = "claim|measured|kind|difference, 95 % interval:|verdict|seeds:"
        parts.append(f"### {name}\n\n{table(say, columns, rows)}")
    return "\n\n".join([table(say, "study|seeds:|runs:|claims, by verdict", counts), *parts])


_HOW = {"recorded": "cached", "online": "online"}


def speed(say) -> str:
    """What benchmarks/kd_step.py measured on each processor: ratios, and the images per CPU-second behind them."""
    parts = []
    for path in sorted(settings.results_folder().glob("benchmark-kd_step-*.json")):
        found = _store.read_json(path, cure=studies.CURE)
        rate, rows = found["images_per_cpu_second"], []
        for row in found["ratios"]:
            ours, other = (f"{row[end]} {rate[row[end]]:,.0f}" for end in ("of", "to"))
            span = f"{row['low']:.2f}–{row['high']:.2f}"
            limit = f"{rate['student_alone'] / rate[row['to']]:.2f}" if row["of"] == "cached" else ""
            rows.append((ours, other, f"{row['median']:.2f}", span, limit, row["asked"] or ""))
        for row in found.get("real_sizes", []):
            ours, other = (f"{say(word)} {row[key]:,.0f}" for word, key in _HOW.items())
            span = f"{row['low']:.1f}–{row['high']:.1f}"
            rows.append((f"{row['teacher']}, {row['student']}: {ours}", other, f"{row['ratio']:.1f}", span, "", ""))
        head = say("One thread of {processor}, torch {torch}:").format(**found, torch=found["versions"]["torch"])
        columns = "images per CPU-second|compared with|ratio:|range:|limit:|target:"
        chosen = say("Chosen there: {chosen}.").format(**found) + "\n\n" if "chosen" in found else ""
        shares = [(say(name), f"{share:.0%}") for name, share in found.get("profile", {}).items()]
        profile = "\n\n" + table(say, "part of a cached step|share of its time:", shares) if shares else ""
        parts.append(f"### {found['processor']}\n\n{head}\n\n{chosen}{table(say, columns, rows)}{profile}")
    return "\n\n".join(parts)


def growth(say) -> str:
    """What benchmarks/scaling.py measured: how the cost of a step grows, and the memory that a recording takes."""
    found = _store.read_json(settings.results_folder() / "benchmark-scaling.json", cure=studies.CURE)
    rows = [
        (say(row["grows"]), f"{row['x']:,}", say(row["kind"]), f"{row['measured']:,.0f}", f"{row['model']:,.0f}")
        for row in found["rows"]
    ]
    held = [
        (say(row["recording"]), f"{row['recording_mb']:,.0f}", f"{row['mb_of_its_own']:,.0f}", f"{row['step']:,.0f}")
        for row in found["memory"]
    ]
    head = say("One thread of {processor}, torch {torch}:").format(**found)
    columns = "recording|MB of logits:|MB of the process, torch included:|µs per image:"
    grown = table(say, "what grows|to:|step|µs per image:|by the model:", rows)
    return "\n\n".join([head, grown, table(say, columns, held)])


def pretrained(say) -> str:
    """What benchmarks/pretrained.py found: the students of four teachers, and the declared comparisons."""
    found, arms = _store.read_json(settings.results_folder() / "benchmark-pretrained.json", cure=studies.CURE), {}
    for run in found["runs"]:
        arms.setdefault(run["arm"], []).append(run["accuracy"])
    rows = [
        (say(arm), f"{found['teachers'][arm]:.1f}" if arm in found["teachers"] else "",
         f"{statistics.mean(right):.1f}", f"{min(right):.1f}–{max(right):.1f}", len(right))
        for arm, right in arms.items()
    ]  # fmt: skip
    compared = []
    for row in found["comparisons"]:
        treated, control = (say(arm) for arm in row["claim"].split(" against "))
        mean, low, high = row["difference"]
        span = f"{mean:+.1f} {say('points')} [{low:+.1f}, {high:+.1f}]"
        compared.append((say("{treated} against {control}").format(treated=treated, control=control), span,
                         say(row["verdict"])))  # fmt: skip
    students = table(say, "taught by|its own accuracy, %:|student, test accuracy, %:|range:|seeds:", rows)
    return students + "\n\n" + table(say, "comparison|difference, 95 % interval:|verdict", compared)


def memory(say) -> str:
    """What sixty learners take at once: the peak of each notebook, for a server's memory."""
    timings = _store.read_json(settings.results_folder() / "timings.json", cure=studies.CURE)
    peaks = {name.partition("_")[0]: found["peak_memory_mb"] for name, found in timings.items()}
    rows = [
        (name, f"{peak:,}", *(f"{60 * peak / waves / 1000:,.0f}" for waves in (1, 2))) for name, peak in peaks.items()
    ]
    return table(say, "notebook|MB each:|GB for sixty, all at once:|GB for sixty, in two waves:", rows)


OPENING = {"notebooks": lessons, "findings": findings}
EVIDENCE = {"results": results, "speed": speed, "growth": growth, "pretrained": pretrained}
PAGES = {
    "README.md": (str, OPENING),
    "README.zh-CN.md": (chinese, OPENING),
    "docs/results.md": (str, EVIDENCE),
    "docs/results.zh-CN.md": (chinese, EVIDENCE),
    "course/README.md": (str, {"notebooks": functools.partial(lessons, folder="../notebooks"), "memory": memory}),
}


def filled(page: str, text: str) -> str:
    """The text of a page with its generated parts made again. Raises ValueError where one has no markers."""
    say, parts = PAGES[page]
    for name, make in parts.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{page} needs one {begin.strip()} and one {end}, each on a line of its own")
        before, rest = text.split(begin)
        text = f"{before}{begin}{make(say)}\n{end}{rest.split(end)[1]}"
    return text


def main(*, check: bool) -> int:
    texts = {ROOT / page: filled(page, (ROOT / page).read_text(encoding="utf-8")) for page in PAGES} | heads()
    changed = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    for path in changed:
        page = path.relative_to(ROOT)
        print(f"{page} is out of date: make tables" if check else f"wrote {page}")
        if not check:
            path.write_text(texts[path], encoding="utf-8")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
