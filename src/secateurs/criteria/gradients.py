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
    When it hurts: far from 0 a straight line is no good guess: a channel that many others stand in
    for and one that nothing needs look alike. Molchanov 2019 squares the gradient of a whole
    minibatch: that depends on the batch's size and, at a trained optimum, vanishes as it grows; per
    image (as in 2017) it does neither.
    Source: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient
    Inference, ICLR 2017; the gate: Importance Estimation for Neural Network Pruning, CVPR 2019.
    """
    mean: Array = facts.gates.absolute[facts.group.channels] / facts.gates.images
    return mean


@criterion(Need.GATES)
def fisher(facts: GroupData) -> Array:
    """Expected damage by the loss's curvature along each channel's gate (group Fisher).

    Formula: s_j = 1/2 mean over images of (sum over consumers of h * dL_n/dh)^2; the terms of
    coupled consumers are summed first, then squared, image by image. In units of the loss, so it
    compares across layers.
    Cost: as ``taylor``, in the same pass.
    When it hurts: where the loss is nearly zero on all calibration images, so are the gradients,
    and the ranks are noise. It does not divide by what the channel costs; a budget does that.
    Source: Liu et al., Group Fisher Pruning for Practical Network Compression, ICML 2021.
    """
    mean: Array = facts.gates.squares[facts.group.channels] / (2 * facts.gates.images)
    return mean


@criterion(Need.WEIGHTS | Need.CURVATURE)
def obd(facts: GroupData) -> Array:
    """Saliency of all weights that leave with a channel (optimal brain damage, diagonal).

    Formula: s_j = 1/2 sum over k of h_kk w_k^2, over every weight, scale and shift that leaves with
    channel j; h_kk = mean over images of (dL_n/dw_k)^2, squared image by image.
    Cost: one forward and one backward pass for each calibration image on its own.
    When it hurts: weights are taken one by one, though those of a channel leave together and their
    errors add up or cancel: ``fisher`` counts that. Squared gradients stand for the curvature only
    near an optimum.
    Source: LeCun, Denker & Solla, Optimal Brain Damage, 1990; squared gradients for h_kk as in
    Theis et al., Faster Gaze Prediction, 2018.
    """
    saliency = np.zeros(len(facts))
    for weights, squares in facts.weights_and_curvature():
        saliency += 0.5 * np.einsum("cn,cn,cn->c", squares, weights, weights, dtype=np.float64)
    return saliency
