import numpy as np
import pytest

from secateurs.settings.pruning import Pruning
from secateurs.settings.training import Training
from secateurs.study.training_schedule import TrainingSchedule, fine_tuning_rates

CONSTANT = {"schedule": "constant", "warm_up": 0.0, "learning_rate": 0.5}


def schedule(training=(), **pruning):
    return TrainingSchedule(Training(**CONSTANT, **dict(training)), Pruning(**pruning), 10)


def test_a_round_shorter_than_an_epoch_has_a_fifth_of_the_rate():
    assert fine_tuning_rates(Training(**CONSTANT, fine_tune_batches=9), 10).tolist() == [0.1] * 9
    assert fine_tuning_rates(Training(**CONSTANT, fine_tune_batches=10), 10).tolist() == [0.5] * 10
    assert fine_tuning_rates(Training(**CONSTANT), 10).tolist() == [0.5] * 10
    settings = Training(**CONSTANT, fine_tune_batches=2, fine_tune_learning_rate=0.3)
    assert fine_tuning_rates(settings, 10).tolist() == [0.3] * 2


def test_a_repaired_round_has_three_tenths_of_the_rate():
    rates = schedule(repair=True).round_rates
    np.testing.assert_allclose(rates, [0.15] * 10)
    short = schedule({"fine_tune_batches": 4}, repair=True).round_rates
    np.testing.assert_allclose(short, [0.03] * 4)
    given = schedule({"fine_tune_learning_rate": 0.3}, repair=True).round_rates
    assert given.tolist() == [0.3] * 10
    assert schedule(repair=False).round_rates.tolist() == [0.5] * 10


@pytest.mark.parametrize(
    ("rewind", "back_to", "rates"),
    [
        (None, 26, "fine-tuning"),
        ("learning-rate", 26, "dense"),
        ("weights", 26, "dense"),
        ("lottery", 0, "dense"),
    ],
)
def test_rounds_go_back_as_many_batches_as_they_train(rewind, back_to, rates):
    training = Training(batches=30, fine_tune_batches=4)
    found = TrainingSchedule(training, Pruning(rewind=rewind), 10)
    assert found.rewind_to == back_to
    assert found.rewinds_weights == (rewind in ("weights", "lottery"))
    expected = found.dense_rates[back_to:] if rates == "dense" else fine_tuning_rates(training, 10)
    np.testing.assert_array_equal(found.round_rates, expected)


def test_without_a_number_a_round_and_an_evaluation_are_an_epoch():
    assert schedule().evaluate_every == 10
    assert schedule({"evaluate_every": 3}).evaluate_every == 3
    assert len(schedule().round_rates) == 10
    assert schedule({"batches": 4}, rewind="weights").rewind_to == 0  # no further than the start
