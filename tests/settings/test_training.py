import pytest

from secateurs.errors import SecateursError
from secateurs.settings.training import Training


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("batches", 0, [-1, 1.5]),
        ("fine_tune_batches", 1, [0]),
        ("batch_size", 1, [0]),
        ("learning_rate", 1e-9, [0, -1]),
        ("momentum", 0, [1, -0.1]),
        ("warm_up", 1, [1.1, -0.1]),
        ("label_smoothing", 0, [1]),
        ("distillation", 1, [1.1]),
        ("temperature", 0.1, [0]),
        ("optimizer", "adamw", ["adam"]),
        ("schedule", "one-cycle", ["one_cycle"]),
        ("precision", "bf16", ["fp16"]),
        ("seed", 2**63 - 1, [-1, 2**63]),
    ],
)
def test_each_setting_has_its_bounds(name, good, bad):
    assert getattr(Training(**{name: good}), name) == good
    for value in bad:
        with pytest.raises(SecateursError, match=f"^{name}: expected"):
            Training(**{name: value})


def test_a_dense_model_is_taken_as_trained_by_default():
    assert Training().batches == 0
    assert Training().fine_tune_batches is None
