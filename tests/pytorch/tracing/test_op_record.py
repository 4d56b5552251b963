import numpy as np
import pytest
import torch

from secateurs.pytorch.tracing.op_record import (
    Labels,
    follow,
    is_data,
    is_followed,
    labels_of,
    note_as_data,
)


def test_labels_travel_beside_a_tensor_and_not_beside_its_copy():
    tensor, labels = torch.zeros(3), Labels()
    assert not is_followed(tensor)
    with pytest.raises(TypeError):  # all tensors without labels share these
        labels_of(tensor).axes[0] = np.arange(3)
    follow(tensor, labels)
    assert is_followed(tensor)
    assert labels_of(tensor) is labels
    assert not is_followed(tensor.clone())
    assert np.array_equal(tensor.numpy(), np.zeros(3))


def test_tensors_without_channels_are_recorded():
    index = torch.tensor([1])
    assert not is_data(index)
    note_as_data(index)
    assert is_data(index)
