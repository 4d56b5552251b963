"""Running out of memory is recognised, whichever library raises it."""

import pytest

import secateurs as sec
from secateurs.training.memory import explain_memory_errors, explain_no_room


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"),
    ],
)
def test_a_smaller_batch_is_proposed(error):
    for size, message in ((64, r"64 images.*--batch-size 32"), (1, "only one image")):
        with pytest.raises(sec.SecateursError, match=message), explain_memory_errors(size):
            raise error


@pytest.mark.parametrize("error", [ValueError("shape"), KeyboardInterrupt(), sec.DataError("x")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)), explain_memory_errors(64):
        raise error


@pytest.mark.parametrize("batch", [None, 100_000])
def test_a_model_that_is_timed_in_too_large_a_batch(batch):
    message = (
        "not enough memory for a batch: "
        if batch is None
        else "not enough memory for a batch of 100,000: "
    )
    with pytest.raises(sec.MeasurementError, match=message), explain_no_room(batch):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
    with pytest.raises(RuntimeError, match="shapes"), explain_no_room(batch):
        raise RuntimeError("shapes differ")
