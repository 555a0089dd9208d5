"""Epochs over a folder of photographs: ours beside torchvision's ImageFolder with a DataLoader, in one run.

    python benchmarks/folder.py [--images 2000] [--side 64] [--rounds 3] [--workers W] [--folder PATH] [--json FILE]

Without --folder it draws JPEG photographs of 500 × 375 pixels, which are deleted afterwards. Both systems deliver the
same batches of 128 float images of side × side pixels, in a random order, to nobody: what is measured is reading.

    first   from the files to the last batch of the first epoch; ours decodes all photographs into its store before
    later   each epoch after that; ours reads its memory-mapped file, torchvision decodes again

Systems take turns in a new order each round, and a round's ratio is taken within it. Asked: the first epoch no
slower, later ones 20 times as fast.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill_utils import data, settings

BATCH = 128
ASKED = {"first": 1.0, "later": 20.0}


def draw(folder: Path, count: int) -> Path:
    """JPEG files in two classes, with detail at every scale, as photographs have it."""
    random_ = np.random.default_rng(0)
    for i in range(count):
        pixels = np.full((375, 500, 3), 128.0)
        for size in (3, 9, 30, 90, 250):
            coarse = Image.fromarray(random_.integers(0, 255, (size * 3 // 4 + 1, size, 3), np.uint8))
            pixels += 0.3 * (np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)) - 128.0)
        path = folder / f"class {i % 2}" / f"{i:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


class Torchvision:
    def __init__(self, folder: Path, side: int, workers: int):
        shrink = [v2.Resize(side), v2.CenterCrop(side), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        images = torchvision.datasets.ImageFolder(folder, v2.Compose(shrink))
        self.loader = DataLoader(
            images, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0, drop_last=True
        )

    def epoch(self) -> int:
        return sum(len(images) for images, _ in self.loader)


class Ours:
    def __init__(self, folder: Path, side: int, workers: int):
        loaded = data.load(f"folder:{folder}", side=side)
        self.images = loaded.train + loaded.validation + loaded.test

    def epoch(self) -> int:
        order = torch.randperm(len(self.images))
        return sum(len(self.images.images[rows]) for rows in order.split(BATCH) if len(rows) == BATCH)


def measure(folder: Path, side: int, workers: int, rounds: int) -> list[dict]:
    """One row per system and round: seconds of the first epoch and, the median of three, of later ones."""
    rows, order, systems = [], random.Random(0), {"torchvision": Torchvision, "ours": Ours}
    for file in sorted(folder.rglob("*")):  # so that nobody pays for the first reading from the disk
        if file.is_file():
            file.read_bytes()
    for round_ in range(rounds):
        for name in order.sample(list(systems), len(systems)):
            with tempfile.TemporaryDirectory() as runs:
                os.environ["DISTILL_RUNS"] = runs
                start = time.perf_counter()
                system = systems[name](folder, side, workers)
                count = system.epoch()
                first, later = time.perf_counter() - start, []
                for _ in range(3):
                    start = time.perf_counter()
                    system.epoch()
                    later.append(time.perf_counter() - start)
            row = {
                "system": name,
                "round": round_,
                "first": first,
                "later": statistics.median(later),
                "images": count,
            }
            rows.append(row)
            print(f"round {round_}: {name:12} first epoch {first:8.2f} s, later {row['later']:8.3f} s", flush=True)
    return rows


def summary(rows: list[dict]) -> list[dict]:
    """How many times as fast ours is, within a round: median, least and most."""
    by = {(row["system"], row["round"]): row for row in rows}
    ratios = []
    for epoch, asked in ASKED.items():
        values = [by["torchvision", k][epoch] / by["ours", k][epoch] for k in sorted({row["round"] for row in rows})]
        ratios.append({"epoch": epoch, "median": statistics.median(values), "low": min(values), "high": max(values),
                       "asked": asked})  # fmt: skip
    return ratios


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="how many to draw")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=settings.cores(), help="of the DataLoader; 0: none")
    parser.add_argument("--folder", type=Path, help="photographs of your own, one folder per class")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as drawn:
        folder = chosen.folder.resolve() if chosen.folder else draw(Path(drawn), chosen.images)
        rows = measure(folder, chosen.side, chosen.workers, chosen.rounds)
    ratios = summary(rows)
    print(f"\n{'epoch':8}{'times as fast':>16}{'range':>18}{'asked':>8}")
    for row in ratios:
        span = f"{row['low']:.1f} to {row['high']:.1f}"
        print(f"{row['epoch']:8}{row['median']:16.1f}{span:>18}{row['asked']:8g}")
    if chosen.json:
        settings_ = {"side": chosen.side, "workers": chosen.workers, "batch": BATCH, "cores": settings.cores()}
        versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
        found = {"benchmark": "folder", "settings": settings_, "versions": versions, "rows": rows, "ratios": ratios}
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
