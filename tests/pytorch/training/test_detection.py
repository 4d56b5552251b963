"""torchvision's detectors in the loop, on images of one bright square."""

import math

import pytest
import torch

import secateurs as sec
import torchvision_on_cpu
from secateurs.pytorch.training.tasks import TASKS, MetricTally
from support.detectors import batches, faster, overlap, retina, ssd

# Pooling of boxes in Python is compiled by what PyTorch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.mark.parametrize("make", [retina, faster, ssd])
def test_a_detector_is_pruned_and_trained_by_its_own_losses(make):
    torchvision_on_cpu.let_detectors_run()
    torch.manual_seed(0)
    model, validation = make().eval(), batches(2, 1)
    result = sec.iterate(
        model, batches(2), validation, task="detection", metric=overlap, step=0.3,
        training=sec.Training(fine_tune_batches=2, learning_rate=1e-3),
        stop=sec.Stop(rounds=1, tolerance=None), measure_speed=False,
    )  # fmt: skip
    trained = result.history.of("train")[-1]
    assert result.cut.removed_channels > 0
    assert math.isfinite(trained["loss"])
    small = result.model.eval()
    with torch.no_grad():
        expected = torch.cat([overlap(small(images), targets) for images, targets in validation])
    if trained["value"] >= result.history.of("train")[0]["value"]:
        assert trained["value"] == pytest.approx(float(expected.mean()), abs=1e-5)
    assert result.report.proof.holds


def test_mean_average_precision_counted_by_hand():
    pytest.importorskip("pycocotools")
    tally = MetricTally(TASKS["detection"])
    real = [{"boxes": torch.tensor([[0.0, 0.0, 20.0, 20.0]]), "labels": torch.tensor([1])}] * 2
    right = {**real[0], "scores": torch.tensor([0.9])}
    wrong = {
        "boxes": torch.tensor([[30.0, 30.0, 50.0, 50.0]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.8]),
    }
    tally.add([right, wrong], real, None, 2)
    # Recall ends at 1/2 with precision 1 until there: COCO's 101 points, of which 51 are reached.
    assert tally.value() == pytest.approx(51 / 101, abs=1e-4)
