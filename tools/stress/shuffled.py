"""pytest -p shuffled: unit tests in an order drawn from ORDER_SEED, file by file and within each file.

Unlike with pytest-randomly, the cells of a notebook stay in order. All processes of xdist draw the same order.
"""

import os
import random

import pytest


@pytest.hookimpl(trylast=True)  # after conftest.py has put the notebooks first
def pytest_collection_modifyitems(items):
    draw = random.Random(os.environ["ORDER_SEED"])
    files = {}
    for item in items:
        if item.path.suffix == ".py":
            files.setdefault(item.path, []).append(item)
    orders = list(files.values())
    draw.shuffle(orders)
    for tests in orders:
        draw.shuffle(tests)
    items[:] = [item for item in items if item.path.suffix != ".py"] + [item for tests in orders for item in tests]
