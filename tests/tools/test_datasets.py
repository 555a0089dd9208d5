"""The images on which every lesson is run: readable as a reader's own, and of the kinds that their names say."""

import datasets
import pytest
import yaml

from distill_utils import data


@pytest.mark.parametrize("name", ["2 classes, grey, 8 pixels", "7 unequal classes, colour, 32 pixels"])
def test_a_set_is_what_its_name_says(name, tmp_path):
    channels, side, counts = datasets.SETS[name]
    datasets.draw(tmp_path, channels, side, counts)
    found = data.load(f"folder:{tmp_path}", side=side)
    assert found.train.images.shape[1:] == (channels, side, side)
    assert len(found.classes) == len(counts) == int(name.split()[0])
    assert sum(map(len, (found.train, found.validation, found.test))) == sum(counts)
    assert ("unequal" in name) == (len(set(counts)) > 1)


def test_the_week_tries_every_set():
    jobs = yaml.safe_load((datasets.reliability.ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    words = jobs["datasets"]["strategy"]["matrix"]["images"]
    assert all(sum(name.startswith(word) for word in words) == 1 for name in datasets.SETS)
