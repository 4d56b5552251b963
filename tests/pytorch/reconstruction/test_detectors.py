"""Both stages of a detector are repaired on the regions that the dense one proposes."""

import warnings

import pytest
import torch
from torch import nn

import secateurs as sec
import torchvision_on_cpu
from support.detectors import SIZE, backbone, faster
from support.repaired_detectors import images_of, make, prune, relative_error

# Pooling of boxes in Python is compiled by what PyTorch has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*calibration images are few"),
]


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
