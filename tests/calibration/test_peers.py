"""Parts of images that several processes take."""

from types import SimpleNamespace

import numpy as np
import pytest

from secateurs.calibration.peers import ALONE, can_share, own_part


@pytest.mark.parametrize("images", [3, 4, 10, 11, 12])
def test_parts_follow_one_another_and_differ_by_one_image_at_most(images):
    peers = [SimpleNamespace(rank=rank, count=3) for rank in range(3)]
    parts = [np.arange(images)[own_part(images, one)] for one in peers]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(images))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_process_without_an_image_ends_the_sharing():
    peers = SimpleNamespace(rank=0, count=3)
    assert not can_share([2, 2, 2], peers)
    assert can_share([2, 3], peers)


def test_one_process_has_the_totals_already():
    counts, sums = ALONE.total([np.array(3), np.array([1, 2])])
    assert (float(counts), sums.tolist(), ALONE.gather("a")) == (3.0, [1.0, 2.0], ["a"])
    assert ALONE.from_main(lambda: 7) == 7
