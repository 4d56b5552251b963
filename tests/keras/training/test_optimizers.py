import keras
import pytest

import secateurs as sec
from secateurs.keras.training.optimizers import make_optimizer


def test_sgd_uses_nesterov_momentum_and_decoupled_weight_decay():
    training = sec.Training(optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.5)
    optimizer, weight = make_optimizer(training), keras.Variable([2.0])
    optimizer.build([weight])
    by_hand, speed = 2.0, 0.0
    for gradient in (1.0, -3.0):
        optimizer.apply([keras.ops.convert_to_tensor([gradient])])
        by_hand -= 0.1 * 0.5 * by_hand
        speed = 0.9 * speed - 0.1 * gradient
        by_hand += 0.9 * speed - 0.1 * gradient
    assert keras.ops.convert_to_numpy(weight.value) == pytest.approx(by_hand)
