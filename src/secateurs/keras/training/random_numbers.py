"""Seeding of the backend's, NumPy's and Python's random generators."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from secateurs.keras.internals import keep_backend_random_state, seed_backend_
from secateurs.training.random_numbers import seed_process

_DROPOUT = 5


@contextlib.contextmanager
def seed_generators(*seeds: int) -> Iterator[None]:
    """Seed every random generator in this context; their state is restored afterwards.

    TensorFlow's global generator is not seeded: its state cannot be restored.
    """
    seed = int(np.random.default_rng([_DROPOUT, *seeds]).integers(2**62))
    with keep_backend_random_state(), seed_process(*seeds):
        seed_backend_(seed)
        yield
