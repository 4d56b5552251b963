"""Criteria from gradients of the loss, image by image."""

from __future__ import annotations

import numpy as np

from secateurs.calibration.needs import Need
from secateurs.channels.arrays import Array
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import criterion


@criterion(Need.GATES)
def taylor(facts: GroupData) -> Array:
    """First-order estimate of the change of each image's loss.

    Formula: s_j = mean over images of |t_nj|; t_nj is the derivative of image n's loss with respect
    to a gate on channel j: the sum of h * dL_n/dh over space and over all consumers that read it.
    Cost: one forward and one backward pass over the calibration images; needs labels, or a loss.
    When it hurts: a linear estimate is poor for a change as large as the removal of a channel: one
    that many others can replace looks the same as one that nothing needs. Molchanov 2019 squares
    the gradient of a whole minibatch, which depends on the batch size and, at a trained optimum,
    vanishes as that grows; per image (as in 2017) it does neither.
    Source: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient
    Inference, ICLR 2017; the gate: Importance Estimation for Neural Network Pruning, CVPR 2019.
    """
    mean: Array = facts.gates.absolute[facts.group.channels] / facts.gates.images
    return mean


@criterion(Need.GATES)
def fisher(facts: GroupData) -> Array:
    """Second-order estimate of the change of the loss, from squared gradients (group Fisher).

    Formula: s_j = 1/2 mean over images of (sum over consumers of h * dL_n/dh)^2; the terms of
    coupled consumers are summed first, then squared, image by image. It is in units of the loss, so
    it can be compared across layers.
    Cost: that of ``taylor``, in the same pass.
    When it hurts: if the loss is nearly zero on all calibration images, so are the gradients, and
    the ranking is noise. It is not divided by the cost of the channel; a budget does that.
    Source: Liu et al., Group Fisher Pruning for Practical Network Compression, ICML 2021.
    """
    mean: Array = facts.gates.squares[facts.group.channels] / (2 * facts.gates.images)
    return mean


@criterion(Need.WEIGHTS | Need.CURVATURE)
def obd(facts: GroupData) -> Array:
    """Saliency of all weights removed with a channel (optimal brain damage, diagonal).

    Formula: s_j = 1/2 sum over k of h_kk w_k^2, over every weight, scale and shift that is removed
    with channel j; h_kk = mean over images of (dL_n/dw_k)^2, squared image by image.
    Cost: one forward and one backward pass for each calibration image separately.
    When it hurts: weights are treated as independent, though those of a channel are removed
    together and their effects add up or cancel, which ``fisher`` accounts for. Squared gradients
    approximate the curvature only near an optimum.
    Source: LeCun, Denker & Solla, Optimal Brain Damage, 1990; squared gradients for h_kk as in
    Theis et al., Faster Gaze Prediction, 2018.
    """
    saliency = np.zeros(len(facts))
    for weights, squares in facts.weights_and_curvature():
        saliency += 0.5 * np.einsum("cn,cn,cn->c", squares, weights, weights, dtype=np.float64)
    return saliency
