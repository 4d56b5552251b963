"""Models whose outputs differ in number by value are compared by what these are chosen from."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
import torchvision_on_cpu
from support.detectors import SIZE, backbone, batches, faster, retina, ssd

# Pooling of boxes in Python is compiled by what PyTorch has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*calibration images are few"),
]

BUDGET = sec.Budget(macs=0.6)


def images_of(count, seed=0):
    return [image for batch, _ in batches(count // 2, seed) for image in batch]


def make(build):
    torchvision_on_cpu.let_detectors_run()
    torch.manual_seed(0)
    model = build().eval()
    for module in model.modules():  # heads start with weights that leave their results constant
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return model


def prune(model, images, **options):
    budget = options.pop("budget", BUDGET)
    return sec.prune(model, ([images[0]],), budget, calibration=images, **options)


@torch.no_grad()
def head_results(model, images):
    """What a detector of one stage computes, in a batch of its own normalisation."""
    batch = torch.cat([model.transform([image])[0].tensors for image in images])
    features = [model.backbone(batch)]
    found = model.head(features)
    return [found[name] for name in sorted(found)]


def relative_error(right, found):
    """Mean over the tensors of the squared error, relative to the variance over images."""
    each = []
    for pair in zip(right, found, strict=True):
        one, other = (tensor.double().flatten(1) for tensor in pair)
        spread = (one - one.mean(0)).square().sum(1).mean()
        each.append(float((one - other).square().sum(1).mean() / spread))
    return float(np.mean(each))


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


class TwoLevels(nn.Module):
    """A backbone with two maps of features."""

    out_channels = 16

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
        self.fine = nn.Sequential(*layers)
        self.coarse = nn.Sequential(nn.Conv2d(16, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 16, 1))

    def forward(self, x):
        fine = self.fine(x)
        return {"0": fine, "1": self.coarse(fine)}


def two_stages():
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    pool = MultiScaleRoIAlign(["0", "1"], 2, 1, canonical_scale=24, canonical_level=3)
    few = {f"rpn_{when}_nms_top_n_test": 12 for when in ("pre", "post")}
    return FasterRCNN(
        TwoLevels(), None, rpn_anchor_generator=AnchorGenerator(((12,), (40,)), ((1.0,),) * 2),
        box_roi_pool=pool, box_head=TwoMLPHead(16 * 4, 24), box_score_thresh=0.0,
        box_predictor=FastRCNNPredictor(24, 2), box_detections_per_img=3,
        min_size=SIZE, max_size=SIZE, **few,
    )  # fmt: skip


@torch.no_grad()
def both_stages(model, dense, images):
    """Results of both stages on what the dense detector proposes, pooled as torchvision does."""
    found = []
    for image in images:
        ready = dense.transform([image])[0]
        (boxes,), _ = dense.rpn(ready, dense.backbone(ready.tensors))
        boxes = boxes[torch.arange(32) % len(boxes)]
        features = model.backbone(ready.tensors)
        objectness, offsets = model.rpn.head(list(features.values()))
        pooled = model.roi_heads.box_roi_pool(features, [boxes], ready.image_sizes)
        scores, moves = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
        found.append([*objectness, *offsets, scores[None], moves[None]])
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def test_a_detector_of_two_stages_is_repaired_on_the_regions_of_the_dense_one():
    model, images, others = make(two_stages), images_of(64), images_of(8, seed=5)
    with torch.no_grad():
        for last in (model.rpn.head.bbox_pred, model.roi_heads.box_predictor.bbox_pred):
            last.weight *= 0.05  # or the boxes are moved out of the image
    made = prune(model, images, second_domain=others)
    found = made.report.fidelity
    assert found.last_layers == (
        "rpn.head.cls_logits", "rpn.head.bbox_pred",
        "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred",
    )  # fmt: skip
    right = both_stages(model, model, others)
    by_hand = relative_error(right, both_stages(made.model, model, others))
    assert found.second_domain.distance == pytest.approx(by_hand, rel=1e-3)
    dropped = prune(model, images, repair=False).model
    assert by_hand < 0.5 * relative_error(right, both_stages(dropped, model, others))
    assert made.report.proof.holds
    assert made.model.roi_heads.box_head.fc7.out_features < 24


def masks():
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

    heads = {
        "mask_head": MaskRCNNHeads(16, (16, 16), 1),
        "mask_predictor": MaskRCNNPredictor(16, 12, 2),
    }
    return MaskRCNN(backbone(), None, mask_roi_pool=pool_one_map(4), **heads, **second_stage())


def keypoints():
    from torchvision.models.detection import KeypointRCNN
    from torchvision.models.detection.keypoint_rcnn import (
        KeypointRCNNHeads,
        KeypointRCNNPredictor,
    )

    heads = {
        "keypoint_head": KeypointRCNNHeads(16, (16, 16)),
        "keypoint_predictor": KeypointRCNNPredictor(16, 3),
    }
    pool = pool_one_map(4)
    return KeypointRCNN(backbone(), None, keypoint_roi_pool=pool, **heads, **second_stage())


def pool_one_map(size):
    from torchvision.ops import MultiScaleRoIAlign

    return MultiScaleRoIAlign(["0"], size, 1)


def second_stage():
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

    few = {f"rpn_{when}_nms_top_n_test": 6 for when in ("pre", "post")}
    return {
        "rpn_anchor_generator": AnchorGenerator(((24,),), ((1.0,),)),
        "box_roi_pool": pool_one_map(2), "box_head": TwoMLPHead(16 * 4, 24),
        "box_predictor": FastRCNNPredictor(24, 2), "box_score_thresh": 0.0,
        "box_detections_per_img": 2, "min_size": SIZE, "max_size": SIZE, **few,
    }  # fmt: skip


@pytest.mark.parametrize(("build", "layer"), [
    (masks, "mask_predictor.mask_fcn_logits"),
    (keypoints, "keypoint_predictor.kps_score_lowres"),
])  # fmt: skip
def test_masks_and_keypoints_are_compared_too(build, layer):
    torchvision_on_cpu.let_detectors_run()
    torch.manual_seed(0)
    report = prune(build().eval(), images_of(16), repair=True).report
    assert report.fidelity.last_layers[-1] == f"roi_heads.{layer}"
    stages = {stage.name: stage.fidelity.distance for stage in report.fidelity}
    assert stages["repaired"] < 0.5 * stages["dropped"]
    assert report.proof.holds


class Chooser(nn.Module):
    """A user's own detector: a batch in, lists of the surest boxes out."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 24, 3, 2, 1)
        )
        self.more = nn.Conv2d(24, 24, 3, 1, 1)
        self.boxes, self.scores = nn.Conv2d(24, 4, 1), nn.Conv2d(24, 1, 1)

    def compute(self, x):
        x = torch.relu(self.body(x))
        x = x + torch.relu(self.more(x))
        return self.boxes(x), self.scores(x)

    def forward(self, x):
        boxes, scores = (part.flatten(2).transpose(1, 2) for part in self.compute(x))
        pairs = zip(boxes.exp(), scores.sigmoid()[..., 0], strict=True)
        return [box[score > 0.5] for box, score in pairs]


def test_a_users_own_detector_is_repaired_towards_what_it_chooses_from():
    model, images = make(Chooser), torch.rand(96, 3, 24, 24)
    others = torch.rand(24, 3, 24, 24)
    budget = sec.Budget(macs=0.5)
    made = sec.prune(model, images[:1], budget, calibration=images, second_domain=others)
    assert made.report.fidelity.last_layers == ("boxes", "scores")
    with torch.no_grad():
        right = model.compute(others)
        by_hand = relative_error(right, made.model.compute(others))
        dropped = sec.prune(model, images[:1], budget, calibration=images, repair=False).model
        without = relative_error(right, dropped.compute(others))
    assert made.report.fidelity.second_domain.distance == pytest.approx(by_hand, rel=1e-3)
    assert by_hand < 0.5 * without


class Routed(nn.Module):
    """Layers run on what values chose, and all outputs have a row for each image."""

    def __init__(self):
        super().__init__()
        self.first, self.expert = nn.Linear(6, 16), nn.Linear(16, 16)
        self.last = nn.Linear(16, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        chosen = (x[:, 0] > 0).nonzero()[:, 0]
        x = x.index_add(0, chosen, torch.relu(self.expert(x[chosen])))
        return self.last(x)


def test_a_model_whose_layers_run_after_a_decision_is_compared_by_its_outputs():
    torch.manual_seed(0)
    model = Routed().eval()
    with torch.no_grad():
        model.first.bias[0] = 10.0  # every image is chosen
    images = torch.rand(96, 6)
    made = sec.prune(model, images[:2], sec.Budget(macs=0.6), calibration=images)
    assert made.report.fidelity.last_layers == ()
    assert "Compared were not" not in str(made.report)


class Bare(nn.Module):
    """Weights of no layer's, and as many outputs as values decide."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Parameter(torch.randn(16, 6)), nn.Parameter(torch.randn(3, 16))

    def forward(self, x):
        scores = torch.relu(x @ self.first.T) @ self.last.T
        return scores[scores > 0]


def test_outputs_that_cannot_be_compared_are_told_in_one_line():
    torch.manual_seed(0)
    images = torch.randn(96, 6)
    with pytest.raises(sec.DataError, match=r"expected outputs with a row for each") as caught:
        sec.prune(Bare().eval(), images[:2], sec.Budget(macs=0.6), calibration=images)
    assert "\n" not in str(caught.value)


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


def test_a_backbone_that_finds_nothing_to_propose_is_compared_on_whole_images():
    model, images = make(faster), images_of(8)
    model.rpn.score_thresh = 1.0
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ready = model.transform([images[0]])[0]
        (boxes,), _ = model.rpn(ready, {"0": model.backbone(ready.tensors)})
        assert not len(boxes)
        found = sec.repair(model, model, images)
    assert sec.report_of(found).fidelity.fidelity.distance == 0
