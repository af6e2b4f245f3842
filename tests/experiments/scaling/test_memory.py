"""What compiled programs need, at shapes whose arrays can be counted."""

import jax
import pytest

from experiments.scaling import memory

FLOATS = 8
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows():
    return memory.rows(images=101, size=32, seeds=6)


def test_images_are_split_and_sums_are_not(rows):
    devices = jax.device_count()
    assert devices == 2  # tests/conftest.py
    resnet, batch, vit, _ = rows[:4]
    assert resnet["images"] == resnet["at_once"] == batch["at_once"] == 101
    for row in (resnet, vit):
        assert row["devices"] == devices
        # 51 images on each, and what they are given about.
        assert 0 < row["arguments"] - 51 * 32 * 32 * 3 * 4 < 100
        assert row["temporary"] > 0
    # The sum of all padded images, and products of all pairs of rows of a patch: at
    # distances below 7, and in 16 rows that never meet those of another patch.
    assert resnet["results"] >= (38 * 38 * 3 + 7 * 4 * 21 * 21) * FLOATS
    assert vit["results"] >= (32 * 32 * 3 + 16 * 17 / 2 * 48 * 48) * FLOATS


def test_seeds_are_split_and_their_data_are_not(rows):
    linear, small = rows[4:]
    assert linear["seeds"] == small["seeds"] == 6
    # Of each device, the first layers of its seeds at both records.
    for row, filters in ((linear, 16), (small, 8)):
        assert 1 <= row["devices"] <= 2
        kernels = 2 * 3 * 3 * 3 * filters * 4
        assert row["results"] in (6 * kernels, 3 * kernels)
    assert 0 < linear["arguments"] - (27 * 27 + 27) * 4 < 100
    assert 0 < small["arguments"] - 2000 * (32 * 32 * 3 + 1) * 4 < 100
