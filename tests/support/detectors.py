"""Small torchvision detectors, and images of one bright square."""

import torch
from torch import nn

import secateurs as sec
import torchvision_on_cpu
from secateurs.pytorch.training.tasks import detect_step

SIZE = 64


class Backbone(nn.Sequential):
    out_channels = 16


def backbone():
    layers = [(3, 8), (8, 16), (16, 16)]
    made = [part for i, o in layers for part in (nn.Conv2d(i, o, 3, 2, 1), nn.ReLU())]
    return Backbone(*made)


def retina():
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    return RetinaNet(
        backbone(), 2, anchor_generator=AnchorGenerator(((24,),), ((1.0,),)), min_size=SIZE,
        max_size=SIZE, topk_candidates=10, detections_per_img=3, score_thresh=0.0,
    )  # fmt: skip


def faster():
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    few = {
        f"rpn_{when}_nms_top_n_{mode}": 10 for when in ("pre", "post") for mode in ("train", "test")
    }
    return FasterRCNN(
        backbone(), None, rpn_anchor_generator=AnchorGenerator(((24,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 0), box_head=TwoMLPHead(16 * 9, 32),
        box_predictor=FastRCNNPredictor(32, 2), box_score_thresh=0.0, box_detections_per_img=3,
        min_size=SIZE, max_size=SIZE, **few,
    )  # fmt: skip


def ssd():
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD, SSDHead

    boxes = DefaultBoxGenerator([[]], scales=[0.4, 0.5])
    head = SSDHead([16], boxes.num_anchors_per_location(), 2)
    return SSD(
        backbone(), boxes, (SIZE, SIZE), 2, head=head, detections_per_img=3, score_thresh=0.0,
        topk_candidates=10,
    )  # fmt: skip


def batches(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        images, targets = [], []
        for _ in range(2):
            x, y = (int(v) for v in torch.randint(0, 40, (2,), generator=draw))
            image = 0.1 * torch.rand(3, SIZE, SIZE, generator=draw)
            image[:, y : y + 24, x : x + 24] += 0.8
            boxes = torch.tensor([[x, y, x + 24.0, y + 24.0]])
            images.append(image)
            targets.append({"boxes": boxes, "labels": torch.tensor([1])})
        found.append((images, targets))
    return found


def overlap(outputs, targets):
    """The best box's overlap with the square, image by image."""
    found = []
    for output, target in zip(outputs, targets, strict=True):
        if not len(output["boxes"]):
            found.append(0.0)
            continue
        best, real = output["boxes"][output["scores"].argmax()], target["boxes"][0]
        low, high = torch.maximum(best[:2], real[:2]), torch.minimum(best[2:], real[2:])
        shared = float((high - low).clamp(min=0).prod())
        areas = [float((box[2:] - box[:2]).prod()) for box in (best, real)]
        found.append(shared / (sum(areas) - shared))
    return torch.tensor(found)


def detector(make):
    """(a detector, its network)."""
    torchvision_on_cpu.let_detectors_run()
    torch.manual_seed(0)
    model = make().eval()
    return model, sec.trace(model, ([torch.rand(3, SIZE, SIZE)],))


def own_loss(model, image, target):
    """What the detector gives in train mode, its draws made alike."""
    model.train()
    torch.manual_seed(0)
    with torch.no_grad():
        return float(detect_step(model, ([image], [target])))
