import pytest

from secateurs.errors import SecateursError
from secateurs.settings.pruning import Pruning


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("step", 0.99, [0, 1, -0.1]),
        ("floor", 3, [0, -1]),
        ("multiple", 8, [0, 1.5]),
        ("calibration_batches", 1, [0]),
        ("scope", "network", ["net", ""]),
        ("allocation", "curves", ["curve"]),
        ("rewind", "lottery", ["weight", ""]),
    ],
)
def test_each_setting_has_its_bounds(name, good, bad):
    assert getattr(Pruning(**{name: good}), name) == good
    for value in bad:
        with pytest.raises(SecateursError, match=f"^{name}: expected"):
            Pruning(**{name: value})


def test_a_round_takes_five_percent_of_every_group_by_default():
    usual = Pruning()
    assert (usual.step, usual.floor, usual.rewind, usual.skip) == (0.05, 0.1, None, ())
    # What the data and the model allow is decided when the study begins.
    assert (usual.criterion, usual.scope, usual.allocation, usual.repair) == (None,) * 4
