"""What tests of a detector's repair share: models whose heads compute, and their errors by hand."""

import numpy as np
import torch
from torch import nn

import secateurs as sec
import torchvision_on_cpu
from support.detectors import batches

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
