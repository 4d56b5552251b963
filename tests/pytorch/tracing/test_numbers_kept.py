import numpy as np
import pytest
import torch

from secateurs.pytorch.tracing.numbers_kept import NumbersKept

LIKE = torch.empty(3, dtype=torch.float64, device="meta")

WAYS = {
    "tensor": lambda: torch.tensor([2.0, 3.0], device=LIKE.device),
    "as_tensor": lambda: torch.as_tensor([2.0, 3.0], device="meta"),
    "asarray": lambda: torch.asarray(np.array([2.0, 3.0]), device=LIKE.device),
    "new_tensor": lambda: LIKE.new_tensor([2.0, 3.0]),
    "new_tensor of a type": lambda: LIKE.new_tensor([2, 3], dtype=torch.long),
}


@pytest.mark.parametrize("name", WAYS)
def test_what_is_made_of_numbers_has_them(name):
    expected = WAYS[name]()
    with NumbersKept():
        made = WAYS[name]()
    assert expected.is_meta
    assert made.tolist() == [2, 3]
    assert (made.dtype, made.shape) == (expected.dtype, expected.shape)


def test_other_devices_and_other_calls_are_left_alone():
    with NumbersKept():
        assert torch.empty(2, device="meta").is_meta
        assert torch.tensor(2.0, device="cpu").item() == 2
        assert torch.ones(2).new_tensor([1.0]).item() == 1
