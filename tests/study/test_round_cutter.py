import pytest
import torch

import secateurs as sec
from secateurs.settings.pruning import Pruning
from secateurs.study.round_cutter import repairs, widths
from support.scripted import Scripted, run


def test_widths_are_the_filters_of_each_layer():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 1), torch.nn.Conv2d(6, 4, 1))
    network = sec.trace(model, torch.zeros(1, 3, 2, 2))
    assert widths(network) == {"0": 6, "1": 4}
    assert widths(network, network.cut({"0": [1, 2]})) == {"0": 4, "1": 4}


@pytest.mark.parametrize(
    ("rewind", "repaired"),
    [(None, True), ("learning-rate", True), ("weights", False), ("lottery", False)],
)
def test_weights_that_are_replaced_at_once_are_not_repaired(rewind, repaired):
    assert repairs(Pruning(repair=True, rewind=rewind)) is repaired
    assert not repairs(Pruning(rewind=rewind))


def test_the_plan_is_the_main_processs():
    """The others get it as text, and cut the same."""
    learner = Scripted(lambda round_, done: 0.9)
    agreed = []

    def agree(decide):
        agreed.append(decide())
        return agreed[-1]

    learner.agree = agree
    _, store = run(learner, stop={"rounds": 1}, pruning={"step": 0.25})
    assert sec.Cut.from_json(agreed[0]).removed_channels == 10
    assert store.history.last("prune")["removed"] == 10
    assert store.history.last("prune")["widths"] == {"0": 15, "2": 15, "4": 2}


def test_rewound_survivors_have_the_values_of_that_time():
    """The output's bias counts batches: 14 of 20 were done when it was kept."""
    learner = Scripted(lambda round_, done: 0.9)
    run(
        learner,
        training={"batches": 20, "fine_tune_batches": 6},
        pruning={"rewind": "weights", "step": 0.5},
        stop={"rounds": 1},
    )
    restored = [entry[1] for entry in learner.log if entry[0] == "restore"]
    assert restored[:2] == [10, 14]  # the dense model's best evaluation, then the rewind
    assert learner.batches_trained == 14 + 6
    assert learner.model[0].out_features == 10
