"""Operations as matrix products: patches times matrix equals the output."""

import pytest
import torch

from secateurs.pytorch.reconstruction.contractions import Geometry, map_of
from secateurs.pytorch.tracing.op_call import Call

aten = torch.ops.aten
IMAGES = torch.randn(2, 6, 9, 8)
CALLS = {
    "linear": (aten.linear.default, torch.randn(2, 5, 6), torch.randn(4, 6), ()),
    "plain": (aten.conv2d.default, IMAGES, torch.randn(4, 6, 3, 2), ()),
    "stride, padding": (
        aten.conv2d.default,
        IMAGES,
        torch.randn(4, 6, 3, 2),
        (None, [2, 1], [1, 0], [1, 2]),
    ),
    "grouped": (aten.conv2d.default, IMAGES, torch.randn(4, 3, 3, 3), (None, [1], [1], [1], 2)),
    "transposed": (
        aten.conv_transpose2d.input,
        IMAGES,
        torch.randn(6, 4, 3, 3),
        (None, [2, 2], [1, 1], [1, 1]),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_patches_times_matrix_is_what_the_operation_gives(name):
    function, x, weight, rest = CALLS[name]
    y = function(x, weight, *rest)
    known = map_of(Call(function, (x, weight, *rest), {}), x.dim())
    u, (rows,) = known.tables(x, [y], y.numel(), 0)
    matrix = torch.from_numpy(known.matrix()).float()
    assert u.shape[::2] == (known.groups, known.inputs)
    assert torch.allclose(u @ matrix, rows, atol=1e-4)
    assert torch.allclose(torch.as_tensor(known.weight_from(known.matrix())).float(), weight)


def test_windows_are_the_patches_that_the_kernel_is_laid_on():
    weight = torch.randn(4, 6, 3, 2)
    call = Call(aten.conv2d.default, (IMAGES, weight, None, [2, 1], [1, 0], [1, 2]), {})
    geometry = Geometry.of(call)
    windows = geometry.windows(IMAGES)
    expected = aten.conv2d(IMAGES, weight, None, [2, 1], [1, 0], [1, 2])
    found = torch.einsum("ncxykl,ockl->noxy", windows, weight)
    assert torch.allclose(found, expected, atol=1e-4)
