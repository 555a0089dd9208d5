"""Every lesson on every kind of image set: few classes and many, grey and colour, small and large, unequal classes.

    python tools/stress/datasets.py             lessons 00 to 10 on all of them (make datasets); hours
    python tools/stress/datasets.py 2 7 -- 02   sets whose name begins so, and lessons that begin so; other rows stay

The sets are folders of pictures that are drawn here, each class a pattern of its own under noise, read as a reader's
own photographs are; and, where DISTILL_DATA has them, photographs of CIFAR-10. A lesson must run to its end: claims
that were measured on glyphs have no band there, all others must hold. The table goes to docs/reliability.md.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import reliability
from PIL import Image

from distill_utils import settings, training

SETS = {  # name -> channels, side, images of each class
    "2 classes, grey, 8 pixels": (1, 8, [60, 60]),
    "3 classes, colour, 16 pixels": (3, 16, [80, 80, 80]),
    "7 unequal classes, colour, 32 pixels": (3, 32, [20, 30, 40, 60, 90, 140, 200]),
    "10 classes, grey, 28 pixels": (1, 28, [100] * 10),
    "10 classes, colour, 64 pixels": (3, 64, [40] * 10),
    "100 classes, colour, 32 pixels": (3, 32, [25] * 100),
}
PHOTOGRAPHS = "photographs of CIFAR-10"


def draw(folder: Path, channels: int, side: int, counts: list[int]) -> None:
    """A folder of pictures: a third of each pixel is its class's pattern, the rest is noise."""
    random = np.random.default_rng(0)
    for label, count in enumerate(counts):
        (place := folder / f"class {label:02}").mkdir(parents=True)
        coarse = random.uniform(0, 255, (4, 4, channels))
        pattern = np.kron(coarse, np.ones((side // 4, side // 4, 1)))
        for i in range(count):
            pixels = (pattern + 2 * random.uniform(0, 255, (side, side, channels))) / 3
            Image.fromarray(pixels.astype(np.uint8).squeeze()).save(place / f"{i}.png")


def said(name: str, lesson: str, work: Path) -> str:
    """Nothing where the lesson runs to its end on a set, else what it said."""
    own = {"DISTILL_DATASET": "cifar10_folder", "DISTILL_RUNS": f"{work}/runs", "DISTILL_BUILD": f"{work}/build"}
    if name in SETS:
        own |= {"DISTILL_DATASET": f"folder:{work}/images", "DISTILL_SIDE": str(SETS[name][1])}
    done = subprocess.run([sys.executable, "-m", "distill_utils", "run", lesson], cwd=reliability.ROOT, text=True,
                          capture_output=True, env=os.environ | own)  # fmt: skip
    words = re.findall(r"[^\r\n]*failed: [^\n]*", done.stderr + done.stdout)
    return (words or [done.stderr.strip()[-300:] or "failed"])[0] if done.returncode else ""


def main(arguments: list[str]) -> int:
    names, only = (part.split("|") if part else [] for part in "|".join(arguments).partition("|--|")[::2])
    known = [*SETS, PHOTOGRAPHS] if (settings.data_folder() / "CIFAR10_folder").exists() else [*SETS]
    chosen = [name for name in known if not names or name.startswith(tuple(names))]
    lessons = [path.stem for path in sorted((reliability.ROOT / "notebooks").glob("*.ipynb")) if path.stem[:2] < "11"]
    lessons = [lesson for lesson in lessons if not only or lesson.startswith(tuple(only))]
    rows = {row["images"]: row for row in reliability.kept().get("datasets", [])}
    with training.progress_bar(len(chosen) * len(lessons), "lessons", unit="lesson") as bar:
        for name in chosen:
            with tempfile.TemporaryDirectory() as folder:
                if name in SETS:
                    draw(Path(folder) / "images", *SETS[name])
                failed = {}
                for lesson in lessons:
                    if words := said(name, lesson, Path(folder)):
                        failed[lesson] = words
                        bar.write(f"{name}, {lesson}: {words}")
                    bar.update()
            rows[name] = {"images": name, "lessons": ", ".join(lesson.partition("_")[0] for lesson in lessons),
                          "run to their end": not failed}  # fmt: skip
            if failed:
                return 1
    reliability.record("datasets", [rows[name] for name in known if name in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
