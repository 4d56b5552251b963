import numpy as np
import pytest

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.collector import StatisticsCollector
from secateurs.calibration.needs import Need
from support.networks_by_hand import grid, two_layers


class Noted(StatisticsCollector):
    """Writes down what it is asked to go through."""

    def __post_init__(self):
        super().__post_init__()
        self.asked = []

    def add_values(self, batch):
        self.asked.append(("values", len(batch)))

    def add_gates(self, batch):
        self.asked.append(("gates", len(batch)))

    def add_squared_gradients(self, image):
        self.asked.append(("squares", len(image)))
        squares = self.curvature.setdefault("first.bias", np.zeros(4))
        squares += image.images[0, 0] ** 2


BATCH = CalibrationBatch(np.array([[1.0], [3.0]]), None)


@pytest.mark.parametrize(
    ("needs", "asked"),
    [
        (Need.WEIGHTS, []),
        (Need.ACTIVATIONS, [("values", 2)]),
        (Need.GRAMS | Need.ACTIVATIONS, [("values", 2)]),
        (Need.GATES, [("gates", 2)]),
        (Need.CURVATURE, [("squares", 1), ("squares", 1)]),  # image by image
    ],
)
def test_only_needed_statistics_are_collected(needs, asked):
    collector = Noted(two_layers(), needs)
    collector.add(BATCH)
    assert collector.asked == asked
    found = collector.build_statistics()
    assert found.images == 2
    for need, value in (
        (Need.ACTIVATIONS, found.readings),
        (Need.GRAMS, found.grams),
        (Need.GATES, found.gates),
        (Need.CURVATURE, found.curvature),
        (Need.ABLATION, found.ablation),
    ):
        assert (value is not None) == bool(needs & need)


def test_curvature_is_a_mean_over_images():
    collector = Noted(two_layers(), Need.CURVATURE)
    collector.add(BATCH)
    collector.add(BATCH.rows(slice(1, 2)))
    assert collector.build_statistics().curvature["first.bias"].tolist() == [(1 + 9 + 9) / 3] * 4


def test_readers_of_the_same_values_count_together():
    collector = Noted(two_layers(), Need.ACTIVATIONS)
    units = collector.network.tensors["first.bias"].axes[0]
    collector.note_reader(0, "a", units, np.ones(4))
    collector.note_reader(1, "b", units, np.ones(4))
    collector.note_reader(0, "c", units, np.arange(4.0))
    assert [(r.layer, r.reader_norm.tolist()) for r in collector.readings] == [
        ("a", [1, 2, 3, 4]),
        ("b", [1, 1, 1, 1]),
    ]


def test_products_of_a_group_add_up_at_each_reading():
    collector = Noted(two_layers(), Need.GRAMS)
    one, other = np.array([[1.0, 2, 0, 1]]), np.array([[0.0, 1, 3, 1], [2, 2, 2, 2]])
    for values in (one, other):
        collector.gram_of("first", 0, 4).add_values(values)
    (gram,) = collector.build_statistics().grams["first"]
    both = np.concatenate([one, other])
    np.testing.assert_allclose(gram.products, both.T @ both)
    np.testing.assert_allclose(gram.centred / 3, np.cov(both.T, bias=True))


def test_groups_along_an_axis_are_those_whose_channels_are_a_table_there():
    network = grid(2, 3)
    collector = Noted(network, Need.GRAMS)
    cells = network.tensors["in.weight"].axes[0]
    found = {len(rows): rows.tolist() for _, rows in collector.groups_among(cells)}
    assert found == {2: [[0, 1, 2], [3, 4, 5]], 3: [[0, 3], [1, 4], [2, 5]]}
    assert list(collector.groups_among(network.tensors["out.weight"].axes[0])) == []
