"""Training towards the dense model's outputs, between cuts, in both frameworks."""

import keras
import numpy as np
import pytest
import torch
from keras import layers as L
from scipy.special import expit, log_softmax, softmax
from torch import nn

import secateurs as sec
from secateurs import keras as on_keras
from secateurs import pytorch as on_pytorch
from secateurs.errors import ModelError
from secateurs.study.learning import learning_of

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(24, 5)).astype("float32")
LABELS = np.arange(24) % 3


def torch_model(probabilities):
    assert not probabilities
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


def keras_model(probabilities):
    plain = torch_model(False)
    last = "softmax" if probabilities else None
    model = keras.Sequential([keras.Input((5,)), L.Dense(8, "relu"), L.Dense(3, last)])
    tensors = [parameter.detach().numpy() for parameter in plain.parameters()]
    model.set_weights([tensor.T for tensor in tensors])
    return model


def scores(model):
    with torch.no_grad():
        return model(torch.from_numpy(IMAGES)).numpy()


SIDES = [
    pytest.param(on_pytorch.Learner, torch_model, False, id="pytorch"),
    pytest.param(on_keras.Learner, keras_model, False, id="keras, scores"),
    pytest.param(on_keras.Learner, keras_model, True, id="keras, probabilities"),
]


@pytest.mark.parametrize(("learner", "model", "probabilities"), SIDES)
def test_the_loss_is_of_the_labels_and_the_dense_models_outputs(learner, model, probabilities):
    training = sec.Training(batch_size=24, distillation=0.3, temperature=3.0, label_smoothing=0.1)
    one = learner(model(probabilities), (IMAGES, LABELS), (IMAGES, LABELS), None, training)
    dense = one.snapshot()
    network = one.trace()
    one.apply(network.cut({network.groups[0].name: [0, 1, 2, 3]}), network)
    one.follow(dense)
    loss = one.train(0, [1e-6], lambda: None)

    plain = torch_model(False)
    wide = scores(plain)
    with torch.no_grad():
        plain[2].weight[:, :4] = 0
    small = scores(plain)
    targets = 0.9 * np.eye(3)[LABELS] + 0.1 / 3
    of_labels = -(targets * log_softmax(small, 1)).sum(1)
    heat = softmax(wide / 3, 1)
    apart = 9 * (heat * (np.log(heat) - log_softmax(small / 3, 1))).sum(1)
    assert loss == pytest.approx((0.7 * of_labels + 0.3 * apart).mean(), rel=1e-4)


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_number_follows_the_one_that_the_dense_model_gives(activation):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), L.Dense(8, "relu"), L.Dense(1, activation)])
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=activation is None))
    labels = LABELS % 2
    training = sec.Training(batch_size=24, distillation=0.3, temperature=3.0, optimizer="sgd")
    one = on_keras.Learner(model, (IMAGES, labels), (IMAGES, labels), None, training)
    dense = one.snapshot()
    network = one.trace()
    one.apply(network.cut({network.groups[0].name: [0, 1, 2, 3]}), network)
    one.follow(dense)
    loss = one.train(0, [1e-6], lambda: None)

    first, shift, kernel, bias = model.get_weights()
    hidden = np.maximum(IMAGES @ first + shift, 0)
    wide = (hidden @ kernel + bias)[:, 0].astype(np.float64)
    small = (hidden[:, 4:] @ kernel[4:] + bias)[:, 0].astype(np.float64)
    of_labels = np.logaddexp(0, np.where(labels == 1, -small, small))
    yes, mine = expit(wide / 3), expit(small / 3)
    apart = 9 * (yes * np.log(yes / mine) + (1 - yes) * np.log((1 - yes) / (1 - mine)))
    assert loss == pytest.approx((0.7 * of_labels + 0.3 * apart).mean(), rel=1e-3)


def test_a_task_follows_the_dense_model_in_all_that_it_gives():
    """Numbers and class scores together, by relative error and by divergence."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.scores, self.numbers = (
                nn.Linear(5, 8),
                nn.Linear(8, 3),
                nn.Linear(8, 1),
            )

        def forward(self, x):
            hidden = self.first(x).relu()
            return {"scores": self.scores(hidden), "numbers": self.numbers(hidden)}

    def error(outputs, targets):
        return (outputs["numbers"][:, 0] - targets).square()

    torch.manual_seed(0)
    model, wanted = Two(), IMAGES[:, 0]
    training = sec.Training(batch_size=24, distillation=0.3, temperature=3.0)
    task = learning_of(model, None, loss=error, metric=lambda outputs, targets: 0.0)
    one = on_pytorch.TaskLearner(model, (IMAGES, wanted), (IMAGES, wanted), None, training, task)
    dense = one.snapshot()
    network = one.trace()
    one.apply(network.cut({network.groups[0].name: [0, 1, 2, 3]}), network)
    one.follow(dense)
    loss = one.train(0, [1e-6], lambda: None)

    x = torch.from_numpy(IMAGES)
    with torch.no_grad():
        theirs = {name: value.double().numpy() for name, value in model(x).items()}
        for head in (model.scores, model.numbers):
            head.weight[:, :4] = 0
        mine = {name: value.double().numpy() for name, value in model(x).items()}
    heat = softmax(theirs["scores"] / 3, 1)
    apart = 9 * (heat * (np.log(heat) - log_softmax(mine["scores"] / 3, 1))).sum(1)
    apart += ((mine["numbers"] - theirs["numbers"]) ** 2)[:, 0] / theirs["numbers"].var()
    of_task = (mine["numbers"][:, 0] - wanted) ** 2
    assert loss == pytest.approx((0.7 * of_task + 0.3 * apart).mean(), rel=1e-4)


def test_a_training_step_of_the_users_own_is_not_mixed_with_anything():
    def step(model, batch):
        return model(batch[0]).square().mean()

    model = torch_model(False)
    training = sec.Training(distillation=0.5)
    task = learning_of(model, None, train_step=step, metric=lambda outputs, targets: 0.0)
    data = (IMAGES, LABELS)
    with pytest.raises(sec.SecateursError, match=r"distillation of 0; received 0\.5"):
        on_pytorch.TaskLearner(model, data, data, None, training, task)


@pytest.mark.parametrize(("learner", "model", "probabilities"), SIDES)
def test_without_labels_the_small_model_comes_to_answer_as_the_dense(learner, model, probabilities):
    wrong = (LABELS + 1) % 3  # what labels would teach
    training = sec.Training(batch_size=24, distillation=1.0, learning_rate=0.1, weight_decay=0.0)
    one = learner(model(probabilities), (IMAGES, wrong), (IMAGES, LABELS), None, training)
    dense = one.snapshot()
    network = one.trace()
    one.apply(network.cut({network.groups[0].name: [0, 3]}), network)
    one.follow(dense)
    first = one.train(0, [1e-6], lambda: None)
    one.train(1, [0.1] * 60, lambda: None)
    last = one.train(61, [1e-6], lambda: None)
    assert last < 0.1 * first
    # A snapshot of the round is restored and trained on as usual.
    one.restore(one.snapshot())
    assert one.train(62, [1e-6], lambda: None) == pytest.approx(last, rel=0.1)


def test_a_compiled_loss_is_not_mixed_with_anything():
    model = keras_model(True)
    model.compile("adam", "sparse_categorical_crossentropy")
    training = sec.Training(optimizer="compiled", distillation=0.5)
    with pytest.raises(ModelError, match="distillation=0 "):
        on_keras.Learner(model, (IMAGES, LABELS), (IMAGES, LABELS), None, training)


def test_the_loop_follows_the_dense_model_as_it_was_trained(tmp_path):
    training = sec.Training(
        batches=8, batch_size=12, learning_rate=0.05, distillation=0.5, fine_tune_batches=4
    )
    options = {
        "step": 0.3,
        "training": training,
        "stop": sec.Stop(rounds=2, tolerance=None),
        "measure_speed": False,
    }
    data = (IMAGES, LABELS)
    result = sec.iterate(torch_model(False), data, data, **options)
    plain = sec.iterate(
        torch_model(False),
        data,
        data,
        **options | {"training": training.model_copy(update={"distillation": 0.0})},
    )
    rounds = [
        [r["loss"] for r in each.history if r["kind"] == "train" and r["round"] == number]
        for each in (result, plain)
        for number in (0, 1)
    ]
    assert rounds[0] == rounds[2]  # the dense model follows no other model
    assert rounds[1] != rounds[3]
