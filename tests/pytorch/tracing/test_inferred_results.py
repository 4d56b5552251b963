"""What PyTorch inferred for a call is made again for calls alike, and only for those."""

import pytest
import torch

from secateurs.pytorch.tracing.inferred_results import run_without_data
from secateurs.pytorch.tracing.op_call import Call

aten = torch.ops.aten
HEADS = torch.randn(1, 2, 5, 4)
CALLS = {
    "linear with a bias": (aten.addmm.default, (torch.ones(4), torch.ones(2, 3), torch.ones(3, 4))),
    "attention": (aten.scaled_dot_product_attention.default, (HEADS, HEADS, HEADS)),
    "heads last": (aten.mul.Tensor, (HEADS.transpose(1, 2), HEADS.transpose(1, 2))),
    "a list": (aten.cat.default, ([torch.ones(2, 3), torch.ones(2, 1)], 1)),
    "several results": (aten.topk.default, (torch.ones(4, 6), 2)),
    "a limit that is a tensor": (aten.clamp.Tensor, (torch.ones(3), torch.tensor(0.5))),
    "a quotient of integers": (aten.div.Tensor, (torch.ones(3, dtype=torch.int64), 2)),
}


def on_meta(value):
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return [on_meta(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def widening():
    """An operation whose inference counts how often it is asked for."""
    asked = []
    library = torch.library.Library("secateurs_test", "FRAGMENT")
    library.define("widen(Tensor x, Scalar by) -> Tensor")

    def infer(x, by):
        asked.append((tuple(x.shape), by))
        return x.new_empty((*x.shape[:-1], int(x.shape[-1] * by)))

    library.impl("widen", infer, "Meta")
    yield torch.ops.secateurs_test.widen.default, asked
    library._destroy()


@pytest.mark.parametrize("name", CALLS)
def test_the_second_call_gives_what_pytorch_gives(name):
    function, arguments = CALLS[name]
    with torch.inference_mode():
        expected = function(*arguments)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for _ in range(2):
            found = run_without_data(function, [on_meta(value) for value in arguments], {})
            found = found if isinstance(found, tuple) else (found,)
            assert [(t.shape, t.stride(), t.dtype, t.is_meta) for t in found] == [
                (t.shape, t.stride(), t.dtype, True) for t in expected
            ]


@torch.inference_mode()
def test_calls_alike_are_inferred_once(widening):
    widen, asked = widening
    x = torch.empty(2, 3, device="meta")
    first, second = (Call(widen, [x, 2], {}).run_one() for _ in range(2))
    assert asked == [((2, 3), 2)]
    assert first.shape == second.shape == (2, 6)
    assert first.untyped_storage()._cdata != second.untyped_storage()._cdata
    run_without_data(widen, [torch.empty(3, 3, device="meta"), 2], {})
    run_without_data(widen, [x.to(torch.float64), 2], {})
    run_without_data(widen, [torch.empty(3, 2, device="meta").T, 2], {})
    assert len(asked) == 4
    run_without_data(widen, [x, 2.0], {})  # equal to 2, and of another type
    assert asked[4:] == [((2, 3), 2.0)]


@torch.inference_mode()
def test_what_shares_memory_with_an_operand_does_so_each_time():
    x = torch.empty(2, 6, device="meta")
    for function, arguments in (
        (aten.view.default, (x, [3, 4])),
        (aten.dropout.default, (x, 0.5, False)),  # its schema does not tell
        (aten.relu_.default, (x,)),
    ):
        for _ in range(2):
            found = run_without_data(function, arguments, {})
            assert found.untyped_storage()._cdata == x.untyped_storage()._cdata


@torch.inference_mode()
def test_an_error_is_raised_each_time():
    x = torch.empty(2, 6, device="meta")
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"reduction dim|mat1"):
            run_without_data(aten.mm.default, (x, x), {})


def test_the_default_dtype_counts():
    numbers = torch.ones(3, dtype=torch.int64, device="meta")
    with torch.inference_mode():
        assert run_without_data(aten.div.Tensor, (numbers, 2), {}).dtype == torch.float32
        torch.set_default_dtype(torch.float64)
        try:
            assert run_without_data(aten.div.Tensor, (numbers, 2), {}).dtype == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)
