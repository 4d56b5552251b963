"""torchvision's detectors in the loop, on images of one bright square."""

import math

import pytest
import torch
from torch import nn

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


def picky(score):
    """A detector that finds some boxes, and none of the less sure ones."""
    torchvision_on_cpu.let_detectors_run()
    torch.manual_seed(0)
    model = retina().eval()
    nn.init.normal_(model.head.classification_head.cls_logits.weight, std=3.0)
    model.score_thresh = score
    return model


def scores_found(image):
    """Of all places and classes, the highest first."""
    model = picky(0.0)
    with torch.no_grad():
        features = model.backbone(model.transform([image])[0].tensors)
        found = model.head.classification_head([features])
    return found.sigmoid().flatten().sort(descending=True).values


def test_a_threshold_that_few_boxes_pass_freezes_nothing():
    ((image, *_), _), *_ = batches(1)
    given = ([image],)
    some = float(scores_found(image)[5])
    network = sec.trace(picky(some), given)
    assert [len(group) for group in network.groups] == [
        len(group) for group in sec.trace(picky(0.0), given).groups
    ]
    proof = sec.prune(picky(some), given, amount=0.1).report.proof
    assert proof.holds


def test_where_a_cut_detector_finds_nothing_values_inside_are_compared():
    ((image, *_), _), *_ = batches(1)
    model = picky(0.0)
    with torch.no_grad():  # boxes are found by one channel alone
        model.head.classification_head.cls_logits.bias.fill_(-20.0)
        last = model.head.classification_head.conv[-1][0]
        last.weight[0].zero_()
        last.bias[0] = 30.0
        model.head.classification_head.cls_logits.weight.zero_()
        model.head.classification_head.cls_logits.weight[:, 0] = 0.2
    model.score_thresh = 0.5
    assert len(model([image])[0]["boxes"])
    (layer,) = [name for name, module in model.named_modules() if module is last]
    small = sec.delete_channels(model, {layer: [0]}, ([image],))
    assert not len(small([image])[0]["boxes"])
    proof = sec.report_of(small).proof
    assert proof.holds
    assert proof.is_inside_only
    assert "outputs are empty" in str(proof)


def test_a_detector_that_finds_nothing_anyway_proves_nothing():
    ((image, *_), _), *_ = batches(1)
    with pytest.raises(sec.CutError, match="an image in which it finds something"):
        sec.prune(picky(1.0), ([image],), amount=0.1)


def test_a_list_of_images_in_place_of_a_list_in_a_tuple_is_told():
    ((image, *_), _), *_ = batches(1)
    with pytest.raises(sec.ModelError, match=r"a list as one input is \(\[image\],\)"):
        sec.trace(picky(0.0), [image])


@pytest.mark.parametrize("kind", [tuple, list])
def test_batches_as_torchvisions_collate_function_makes_them(kind):
    torchvision_on_cpu.let_detectors_run()
    found = []
    for change in (lambda parts: parts, lambda parts: kind(map(kind, parts))):
        data, held = ([change(batch) for batch in batches(2, seed)] for seed in (0, 1))
        torch.manual_seed(0)
        model = retina().eval()
        result = sec.iterate(
            model, data, held, task="detection", metric=overlap, step=0.3,
            training=sec.Training(fine_tune_batches=2, learning_rate=1e-3),
            stop=sec.Stop(rounds=1, tolerance=None), measure_speed=False,
        )  # fmt: skip
        network = sec.trace(model, ([data[0][0][0]],))
        scores = sec.score(network, "taylor", data=data, task="detection")
        found.append((result.history.of("train")[-1]["loss"], *map(sum, scores.values())))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_scores_by_lists_of_images_want_a_task():
    data = batches(2)
    network = sec.trace(picky(0.0), ([data[0][0][0]],))
    with pytest.raises(sec.DataError, match=r"a list of images.* Pass task='detection'"):
        sec.score(network, "taylor", data=data)


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
