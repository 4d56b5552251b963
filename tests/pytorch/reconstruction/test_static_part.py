"""Models whose outputs differ in number by value are compared by what these are chosen from."""

import copy

import pytest
import torch
from torch import nn

import secateurs as sec
from support.detectors import batches, retina, ssd
from support.repaired_detectors import BUDGET, head_results, images_of, make, prune, relative_error

# Pooling of boxes in Python is compiled by what PyTorch has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*calibration images are few"),
]


@pytest.mark.parametrize(("build", "layers"), [
    (retina, ("head.classification_head.cls_logits", "head.regression_head.bbox_reg")),
    (ssd, ("head.regression_head.module_list.0", "head.classification_head.module_list.0")),
])  # fmt: skip
def test_a_detector_of_one_stage_is_repaired_towards_its_heads_results(build, layers):
    model, images = make(build), images_of(80)
    others = images_of(20, seed=5)
    made = prune(model, images, second_domain=others)
    found = made.report.fidelity
    assert found.last_layers == layers
    right = head_results(model, others)
    by_hand = relative_error(right, head_results(made.model, others))
    assert found.second_domain.distance == pytest.approx(by_hand, rel=1e-3)
    dropped = prune(model, images, repair=False).model
    assert by_hand < 0.5 * relative_error(right, head_results(dropped, others))
    assert made.report.proof.holds
    assert f"the results of {', '.join(layers)}" in str(made.report)
    assert len(made.model(others[:2])) == 2


def test_the_detector_that_is_given_stays_as_it_is():
    model, images = make(retina), images_of(16)
    before = copy.deepcopy(model.state_dict())
    kinds = [type(module) for module in model.modules()]
    small = prune(model, images).model
    assert [type(module) for module in model.modules()] == kinds
    assert [type(module) for module in small.modules()] == kinds
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_whole_is_repaired_as_its_backbone_and_head_are():
    class Computes(nn.Module):
        def __init__(self, detector):
            super().__init__()
            self.backbone, self.head = detector.backbone, detector.head

        def forward(self, x):
            return self.head([self.backbone(x)])

    model, images = make(retina), images_of(80)
    normalised = torch.cat([model.transform([image])[0].tensors for image in images])
    part = sec.prune(Computes(model).eval(), normalised[:1], BUDGET, calibration=normalised)
    whole = prune(model, images)
    assert whole.cut.channels == part.cut.channels
    theirs = part.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.allclose(value, theirs[name], rtol=1e-3, atol=1e-4), name


def test_repair_and_frontier_take_a_detector():
    model, images = make(retina), images_of(40)
    dropped = prune(model, images, repair=False).model
    right = head_results(model, images)
    without = relative_error(right, head_results(dropped, images))
    assert relative_error(right, head_results(sec.repair(dropped, model, images), images)) < (
        0.5 * without
    )
    found = sec.frontier(model, ([images[0]],), calibration=batches(20), shares=(0.4, 0.7))
    assert [point.name for point in found] == ["dense", "macs=0.7", "macs=0.4"]
    assert found["dense"].fidelity.distance == 0
    assert found["macs=0.7"].fidelity.distance < found["macs=0.4"].fidelity.distance


def test_distillation_takes_a_detector():
    model, images = make(retina), images_of(40)
    made = prune(model, images, budget=sec.Budget(macs=0.2), distil=30)
    stages = {stage.name: stage.fidelity.distance for stage in made.report.fidelity}
    assert stages["distilled"] < stages["repaired"]
    assert not made.model.training


def test_a_study_repairs_a_detector_whose_batches_are_small():
    model, data = make(retina), batches(64)
    images = images_of(20, seed=5)
    right, errors = head_results(model, images), {}
    for repair in (None, False):
        made = sec.iterate(
            model, data, batches(2, 1), task="detection", step=0.4, repair=repair,
            metric=lambda outputs, targets: torch.ones(len(targets)), measure_speed=False,
            training=sec.Training(batches=0, fine_tune_batches=1, learning_rate=1e-9),
            stop=sec.Stop(rounds=1, tolerance=None),
        )  # fmt: skip
        errors[repair] = relative_error(right, head_results(made.model.eval(), images))
    assert errors[None] < 0.5 * errors[False]
