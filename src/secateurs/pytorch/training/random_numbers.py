"""Seeding of PyTorch's, NumPy's and Python's random generators."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from secateurs.training.random_numbers import seed_process

_DROPOUT = 5


@contextlib.contextmanager
def seed_generators(*seeds: int) -> Iterator[None]:
    """Seed every random generator in this context; their state is restored afterwards."""
    seed = int(np.random.default_rng([_DROPOUT, *seeds]).integers(2**62))
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    devices = [torch.cuda.current_device()] if on_cuda else []
    with torch.random.fork_rng(devices), seed_process(*seeds):
        torch.manual_seed(seed)
        yield
