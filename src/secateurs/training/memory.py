"""Explanation of out-of-memory errors, in any framework."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from secateurs.errors import MeasurementError, SecateursError

# Messages of PyTorch on GPUs and CPUs, TensorFlow, JAX.
_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "failed to allocate memory",
    "resource_exhausted",
    "oom when allocating",
    "storage size calculation overflowed",
    "unable to allocate",
)


@contextmanager
def explain_memory_errors(batch_size: int) -> Iterator[None]:
    """Suggest a smaller batch if the code inside runs out of memory.

    Args:
        batch_size: present batch size.

    Raises:
        SecateursError: instead of the framework's out-of-memory error; others pass unchanged.
    """
    try:
        yield
    except SecateursError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        smaller = max(1, batch_size // 2)
        advice = (
            f"Try a smaller batch: --batch-size {smaller}, or sec.Training(batch_size={smaller}); "
            "or keep the batch size and split batches (PyTorch): --accumulation-steps 2."
            if batch_size > 1
            else "The batch has only one image: use smaller images, or a smaller model."
        )
        raise SecateursError(
            f"out of memory in a batch of {batch_size} images. The last checkpoint is still "
            f"valid. {advice}"
        ) from error


@contextmanager
def explain_no_room(batch: int | None) -> Iterator[None]:
    """Suggest a smaller batch if timing a model runs out of memory.

    Args:
        batch: examples per call; None for as many as the example inputs hold.

    Raises:
        MeasurementError: instead of the framework's out-of-memory error; others pass unchanged.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        of = "" if batch is None else f" of {batch:,}"
        raise MeasurementError(f"not enough memory for a batch{of}: use a smaller one") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or a framework reports that memory has run out."""
    if isinstance(error, MemoryError):
        return True
    message = f"{type(error).__name__} {error}".lower()
    return any(sign in message for sign in _SIGNS)
