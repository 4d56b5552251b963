"""What a loader draws depends on the seed, the epoch and the batch, and on nothing else."""

import random

import numpy as np

from secateurs.training.random_numbers import draw_batches, seed_process


def draw():
    return random.random(), np.random.rand()  # noqa: S311 as users do


class Drawing:
    """A data set whose batches hold what it draws as it is asked for them."""

    def __iter__(self):
        for _ in range(3):
            yield draw()


class Generator:
    def __init__(self):
        self.seeds = []

    def manual_seed(self, seed):
        self.seeds.append(seed)


class Loader(Drawing):
    def __init__(self):
        self.sampler, self.generator = Drawing(), Generator()
        self.sampler.generator = Generator()


def test_the_process_goes_on_as_before():
    random.seed(1)
    np.random.seed(1)
    expected = draw()
    random.seed(1)
    np.random.seed(1)
    with seed_process(7, 2):
        inside = draw()
    assert draw() == expected
    with seed_process(7, 2):
        assert draw() == inside
    with seed_process(7, 3):
        assert draw() != inside


def test_each_batch_has_random_numbers_of_its_own():
    whole = list(draw_batches(Drawing(), 1, None))
    draw()  # somebody else does
    again = []
    for batch in draw_batches(Drawing(), 1, None):
        again.append(batch)
        draw()
    assert whole == again
    assert len(set(whole)) == 3
    assert whole != list(draw_batches(Drawing(), 2, None))


def test_generators_that_a_loader_keeps_are_begun_anew_in_each_epoch():
    loader = Loader()
    for epoch in (0, 1, 0):
        list(draw_batches(loader, epoch, None))
    for generator in (loader.generator, loader.sampler.generator):
        first, second, again = generator.seeds
        assert first == again != second
