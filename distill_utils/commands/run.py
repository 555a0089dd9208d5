"""Runs the series of notebooks as a reader would, keeps the executed copies, their pages and what they took."""

import contextlib
import copy
import html
import re
import threading
import time
from pathlib import Path

import nbclient
import nbformat
import psutil
from nbclient.output_widget import OutputWidget
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from distill_utils import _store, checks, data, plots, settings, training

NOTEBOOKS = settings.ROOT / "notebooks"
_NOT_DESCRIBED = 'alt="No description has been provided for this image"'


class NotebookFailed(RuntimeError):
    """A cell raised, or its kernel died. The message names the notebook and quotes the error."""


def run(names: list[str] | None = None, *, in_place: bool = False) -> None:
    """Execute notebooks in order, with one progress bar each.

    names: beginnings of file names (default: all). Writes build/notebooks/*.ipynb, build/html/*.html and, beside
    build/checks/*.jsonl, build/timings.json with seconds and peak memory in MB; in_place: also puts the outputs into
    notebooks/ and the timings into results/. Raises NotebookFailed at the first cell that raises, after the
    notebook with its error is written.
    """
    every = sorted(NOTEBOOKS.glob("*.ipynb"))
    chosen = [path for path in every if not names or path.stem.startswith(tuple(names))]
    if not chosen:
        known = ", ".join(path.stem for path in every)
        raise ValueError(f"no notebook begins with {', '.join(names or ['anything'])}: the series has {known}")
    folders = [settings.build_folder()] + ([settings.results_folder()] if in_place else [])
    data.check_name(settings.dataset())
    for path in chosen:
        notebook, timing = _execute(path)
        for folder in folders:
            timings = folder / "timings.json"
            known = _store.read_json(timings) if timings.exists() else {}
            _store.write_json(timings, dict(sorted({**known, path.stem: timing}.items())))
        if in_place:
            _write(path, nbformat.writes(notebook))
        print(f"{path.stem}: {timing['seconds']:.0f} s, at most {timing['peak_memory_mb']:.0f} MB")
    print(f"\n{checks.table()}\n\nNotebooks, pages and checks are in {settings.build_folder()}")


def _execute(path: Path):
    notebook = nbformat.read(path, as_version=4)
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    client = _Client(notebook, timeout=1800, kernel_name="python3",
                     extra_arguments=["--log-level=ERROR"],  # no warning inside the progress bar
                     resources={"metadata": {"path": str(path.parent)}})
    client.widget_registry = {"@jupyter-widgets/output": {"OutputModel": _UnansweredOutput}}
    start, failure = time.perf_counter(), ""
    with training.progress_bar(cells, path.stem, unit="cell") as bar, _PeakMemory() as memory:
        client.on_cell_executed, client.bar = lambda **_: bar.update(), bar
        try:
            client.execute()
        except nbclient.exceptions.CellExecutionError as error:
            failure = f"{error.ename}: {error.evalue}"
        except nbclient.exceptions.DeadKernelError:
            failure = "the kernel died while it ran a cell (out of memory?)"
    timing = {"seconds": round(time.perf_counter() - start, 1), "peak_memory_mb": round(memory.peak / 2**20)}
    tidy(notebook)
    _write(settings.build_folder() / "notebooks" / path.name, nbformat.writes(notebook))
    _write(settings.build_folder() / "html" / f"{path.stem}.html", page(notebook, path.stem))
    if failure:
        kept = settings.build_folder() / "html" / f"{path.stem}.html"
        raise NotebookFailed(f"{path.name} failed: {failure} (the cell is at the end of {kept})")
    return notebook, timing


class _Client(nbclient.NotebookClient):
    """Says behind the bar of cells how far the running cell's own bar is: a cell of minutes does not look hung."""

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream" and "\r" in msg["content"]["text"]:
            inner = re.search(r"([^\r]+?):? +(\d+%)[^\r]*<([\d:?]+)[^\r]*$", msg["content"]["text"])
            self.bar.set_postfix_str(inner.expand(r"\1: \2, \3 left") if inner else "")
        return super().process_message(msg, cell, cell_index)


class _UnansweredOutput(OutputWidget):
    """nbclient's stand-in for an explorer's output, which does not write its state back to the kernel. On a busy
    machine that message now and then made the client miss the reply to the cell, and wait for it without end."""

    def send(self, *_, **__) -> None:
        pass


def tidy(notebook) -> None:
    """Drop from an executed notebook what cannot be read without its kernel: progress bars, widget states, times.
    What a cell printed in pieces becomes one: where the pieces end is the kernel's timing."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr" and "\r" in output.text:
                continue
            data = output.get("data", {})
            if "application/vnd.jupyter.widget-view+json" in data:
                output.data = {"text/plain": data["text/plain"]}
            kept.append(output)
        cell.outputs = kept
    CoalesceStreamsPreprocessor().preprocess(notebook, {})


def page(notebook, title: str) -> str:
    """The notebook as one HTML page that needs no network. Links between notebooks become links between pages, links
    out of notebooks/ lead into the checkout."""
    notebook, descriptions = copy.deepcopy(notebook), []
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "image/png" in output.get("data", {}):
            descriptions.append(output.metadata.get("image/png", {}).get("alt", ""))
        if "text/markdown" in output.get("data", {}):  # an author's HTML stands in text cells; here it is data's
            output.data["text/markdown"] = plots.without_markup(output.data["text/markdown"])
    exporter = HTMLExporter(template_name="lab", embed_images=True)
    exporter.mathjax_url = exporter.require_js_url = exporter.jquery_url = ""
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    if body.count(_NOT_DESCRIBED) == len(descriptions):  # nbconvert leaves out what figures say of themselves
        for words in descriptions:
            body = body.replace(_NOT_DESCRIBED, f'alt="{html.escape(words)}"', 1)
    body = re.sub(r'(href="[\w./-]+)\.ipynb"', r'\1.html"', body)
    return body.replace('href="../', f'href="{settings.ROOT.as_uri()}/')


def _write(path: Path, text: str) -> None:
    with _store.atomic(path) as temporary:
        temporary.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")


class _PeakMemory(threading.Thread):
    """The most memory, in bytes, that this process's descendants held together while the block ran."""

    def __enter__(self):
        self.peak, self.ended = 0, threading.Event()
        self.start()
        return self

    def run(self):
        while not self.ended.wait(1):
            processes = psutil.Process().children(recursive=True)
            # Counting shared pages in parts, where the system tells (Linux), takes a tenth of a core. The cheap sum
            # counts them whole, so the costly one matters only where the cheap one is above the peak so far.
            for in_parts in (False, True):
                total = sum(_memory(process, in_parts) for process in processes)
                if total <= self.peak:
                    break
            else:
                self.peak = total

    def __exit__(self, *_):
        self.ended.set()
        self.join()


def _memory(process: psutil.Process, in_parts: bool) -> int:
    with contextlib.suppress(psutil.Error):  # it ended meanwhile
        return (in_parts and getattr(process.memory_full_info(), "pss", 0)) or process.memory_info().rss
    return 0
