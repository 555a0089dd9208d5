"""The generated parts of README.md: tables between markers, made from files, never typed.

A table stands between <!-- NAME:begin --> and <!-- NAME:end -->; TABLES says what makes it. A test compares. The
Chinese README has the same tables in its own words, the instructor's page that of the notebooks.
"""

import re
from collections import Counter

from distill_utils import _store, settings, studies
from distill_utils.commands import run
import chinese
import launch

README = settings.ROOT / "README.md"
CHINESE = settings.ROOT / "README.zh-CN.md"
COURSE = settings.ROOT / "course" / "README.md"

# What the article asks for, and which notebook does it.
_ARTICLE = {
    "the introduction; §3.1, set up the machine": ["00_start_here"],
    "step 1: train the large model, θ₁": ["01_train_teacher"],
    "step 2: compress it by distillation, θ₂; §3.3, hand θ₁ to the small model": ["02_distill"],
    "step 3: train the small model, θ₃": ["03_train_student"],
    "steps 4 and 5: test the small and the large model": ["04_test_both"],
    "§5.1: tune the small model with dropout": ["05_dropout_tuning"],
    "§5.2: make it scale": ["06_scaling"],
    "§2.3: compare techniques": ["07_techniques_compared"],
    "§3.2 and §4: DeepLIFT; debug a classifier that does badly": ["08_explain_with_deeplift"],
    "the title: easier to interpret, easier to read": ["08_explain_with_deeplift", "09_readable_student"],
}


# The claims that the article's title stands or falls by: study, dataset, how their names begin.
_TITLE = [
    ("explanations", "glyphs", "primary: "),
    ("explanations", "fashion_mnist", "primary: "),
    ("readable_student", "glyphs", ""),
    ("readable_student", "mnist", "distilled against labels, soft tree"),
]
_MEASURED = {
    "object_mass_ig": "relevance on the object",
    "region_correlation_ig": "do maps foretell what each region is worth?",
    "abpc_ig": "does hiding what maps point at cost more?",
    "log_sensitivity": "how much a little noise moves maps; less is better",
    "conflict_accuracy": "accuracy when the planted cue lies",
    "fidelity_8": "answers that a tree of depth 8 on the factors of the image foretells",
    "test_accuracy": "accuracy of the tree",
}


def update(*, check: bool = False) -> bool:
    """Write the generated tables into README.md and the other pages; check: write nothing.

    Returns whether every page already was what is generated. Raises ValueError where a table has no markers.
    """
    same = True
    for path, tables in pages().items():
        before = path.read_text(encoding="utf-8")
        after = filled(before, tables, path.name)
        same = same and after == before
        if after != before and not check:
            with _store.atomic(path) as temporary:
                temporary.write_text(after, encoding="utf-8")
    return same


def pages() -> dict:
    """Which tables stand on which page: by its path, by their names, what makes them."""
    return {
        README: TABLES,
        CHINESE: {name: lambda make=make: readme_zh.chinese(make()) for name, make in TABLES.items()},
        COURSE: {"notebooks": lambda: TABLES["notebooks"]().replace("](notebooks/", "](../notebooks/")},
    }


def filled(text: str, tables: dict | None = None, page: str = "README.md") -> str:
    """The text with every table between its markers as it is generated now."""
    for name, make in (TABLES if tables is None else tables).items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{page} needs one {begin} and one {end}, each on a line of its own")
        try:
            table = make()
        except (LookupError, TypeError, AttributeError) as error:
            raise _store.DamagedFile(
                f"a file that the table {name} is made from is damaged ({error!r}): take results/ from git again"
            ) from error
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return text


def _notebooks() -> str:
    path = settings.results_folder() / "timings.json"
    timings = _store.read_json(path, mend=studies.MEND) if path.exists() else {}
    lines = ["| notebook | what it asks | minutes | memory |", "| :-- | :-- | --: | --: |"]
    paths, measured = sorted(run.NOTEBOOKS.glob("*.ipynb")), []
    for path in paths:
        title, sentence = _opening(path)
        minutes = memory = "not yet measured"
        if path.stem in timings:
            measured.append(timings[path.stem]["seconds"])
            minutes, memory = _minutes(measured[-1]), _memory(timings[path.stem]["peak_memory_mb"])
        name = " · ".join([f"[{title}](notebooks/{path.name})", *_elsewhere(path.stem)])
        lines.append(f"| {path.stem[:2]} {name} | {sentence} | {minutes} | {memory} |")
    if len(measured) == len(paths) > 0:
        lines.append(f"| | all of them, one after the other | {_minutes(sum(measured))} | |")
    return "\n".join(lines)


def _elsewhere(stem: str) -> list[str]:
    """Links to where a notebook opens with one click; none while pyproject.toml names no public address."""
    return [f"[{name}]({address})" for name, address in launch.links(stem).items()]


def _opening(path) -> tuple[str, str]:
    """Title and first paragraph of a notebook."""
    source = "".join(_store.read_json(path)["cells"][0]["source"]).replace("|", "\\|")
    title, *paragraphs = re.split(r"\n\s*\n", source.strip())
    title = re.sub(r"^#\s+(?:\d+\.?\s+)?", "", title)
    return title, " ".join(paragraphs[0].split()) if paragraphs else ""


def _minutes(seconds: float) -> str:
    """Half a minute is as fine as another machine's minutes can be foretold."""
    if seconds >= 600:
        return f"{seconds / 60:.0f}"
    return f"{max(1, round(seconds / 30)) / 2:g}"


def _memory(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f} GB"


def _article() -> str:
    lines = ["| the article | here |", "| :-- | :-- |"]
    for step, stems in _ARTICLE.items():
        lines.append(f"| {step} | {', '.join(map(_link, stems))} |")
    return "\n".join(lines)


def _link(stem: str) -> str:
    there = (run.NOTEBOOKS / f"{stem}.ipynb").exists()
    return f"[{stem}](notebooks/{stem}.ipynb)" if there else f"{stem} (in preparation)"


def _results() -> str:
    """The verdicts of every study in results/, counted, and below them one line for every claim."""
    counts = ["| study | dataset | seeds | runs | its claims, by verdict |", "| :-- | :-- | --: | --: | :-- |"]
    claims = ["| study | claim | difference, 95 % interval | verdict | seeds |", "| :-- | :-- | --: | :-- | --: |"]
    for path in sorted(settings.results_folder().glob("*-*.json")):
        found = _store.read_json(path, mend=studies.MEND)
        if "verdicts" not in found:
            continue  # what else lies there
        studies.read(path)
        words = Counter(row["verdict"].partition(":")[0] for row in found["verdicts"])
        counted = ", ".join(f"{number} × {word}" for word, number in sorted(words.items()))
        seeds, runs = found["settings"]["seeds"], len(found["runs"])
        counts.append(f"| {found['study']} | {found['dataset']} | {seeds} | {runs} | {counted} |")
        for row in found["verdicts"]:
            study = f"{found['study']}, {found['dataset']}"
            claims.append(f"| {study} | {row['claim']} | {_difference(row)} | {row['verdict']} | {row['n']} |")
    return "\n".join([*counts, "", "<details><summary>Every claim</summary>", "", *claims, "", "</details>"])


def _title() -> str:
    """What became of the title, claim by claim; a study that has not been run is missing."""
    lines = ["| dataset | claim | measured by | difference, 95 % interval | verdict | seeds |",
             "| :-- | :-- | :-- | --: | :-- | --: |"]  # fmt: skip
    for study, dataset, begins in _TITLE:
        path = settings.results_folder() / f"{study}-{dataset}.json"
        for row in _store.read_json(path, mend=studies.MEND)["verdicts"] if path.exists() else []:
            if row["claim"].startswith(begins):
                metric = _MEASURED.get(row["metric"], row["metric"])
                claim, end = row["claim"].removeprefix("primary: "), f"{row['verdict']} | {row['n']} |"
                difference = _difference(row).replace(f" {row['metric'].replace('_', ' ')}", "")  # named beside it
                lines.append(f"| {dataset} | {claim} | {metric} | {difference} | {end}")
    return "\n".join(lines)


def _difference(row: dict) -> str:
    """Shares of images in points, everything else in its own unit; minus is less, whatever is better."""
    if row["low"] == row["high"] == 0:
        return "none: the same runs"
    form, scale, unit = "+.3g", 1, row["metric"].removeprefix("test_").replace("_", " ")
    if row["metric"].endswith(("accuracy", "agreement", "_right")) or row["metric"].startswith("fidelity"):
        form, scale, unit = "+.1f", 100, "points"
    elif row["metric"].endswith("errors"):
        form, unit = "+.1f", "errors"
    if row["low"] is None:
        return f"{scale * row['difference']:{form}} {unit} (one seed)"
    mean, low, high = (f"{scale * row[name]:{form}}" for name in ("difference", "low", "high"))
    return f"{mean} {unit} [{low}, {high}]"


def _speed() -> str:
    """What benchmarks/kd_step.py measured last: its ratios, and the images per CPU-second that they are made of."""
    path = settings.results_folder() / "benchmark-kd_step.json"
    found = _store.read_json(path, mend=studies.MEND)
    speed = found["images_per_cpu_second"]
    lines = [f"On one thread of {found['processor']}, torch {found['versions']['torch']}:", "",
             "| images per CPU-second | against | ratio (range) | asked |", "| :-- | :-- | --: | --: |"]  # fmt: skip
    for row in found["ratios"]:
        ours, other = (f"{row[end]} {speed[row[end]]:,.0f}" for end in ("of", "to"))
        span = f"{row['median']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        lines.append(f"| {ours} | {other} | {span} | {row['asked'] or ''} |")
    return "\n".join(lines)


TABLES = {"notebooks": _notebooks, "article": _article, "title": _title, "results": _results, "speed": _speed}
