import numpy as np
import torch
from torch import nn

from secateurs.pytorch.proof.differences import largest_difference, precision_of


def test_the_tolerance_follows_the_coarsest_dtype():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2).double())
    assert precision_of(model) == torch.bfloat16


def test_a_model_of_another_shape_is_infinitely_different():
    assert largest_difference(torch.zeros(2), torch.zeros(3))[0] == float("inf")
    assert largest_difference(torch.ones(2), torch.zeros(2)) == (1.0, 0.0)
    assert np.isinf(largest_difference(torch.tensor([np.nan]), torch.zeros(1))[0])
