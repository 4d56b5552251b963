import math

import pytest

from secateurs.training.rate_trials import best_scale


def try_out(loss_of):
    """(best scale, the scales that were tried)."""
    tried = []

    def loss_at(scale):
        tried.append(scale)
        return loss_of(scale)

    return best_scale(loss_at), tried


def test_larger_rates_are_tried_while_the_loss_falls():
    best, tried = try_out(lambda scale: abs(math.log(scale / 4)))
    assert best == 3
    assert tried == [1, 3, 9]
    assert try_out(lambda scale: -scale) == (9, [1, 3, 9])


def test_smaller_rates_are_tried_where_larger_ones_are_worse():
    best, tried = try_out(lambda scale: abs(math.log(scale * 10)))
    assert best == pytest.approx(1 / 9)
    assert tried == pytest.approx([1, 3, 1 / 3, 1 / 9, 1 / 27])
    assert try_out(lambda scale: scale)[0] == pytest.approx(1 / 81)
    assert try_out(lambda scale: abs(math.log(scale)))[0] == 1


@pytest.mark.parametrize("failed", [math.inf, math.nan])
def test_a_rate_that_fails_is_not_the_best(failed):
    assert try_out(lambda scale: failed if scale > 1 else 1.0)[0] == 1
    best, _ = try_out(lambda scale: math.inf if scale >= 1 else 1.0)
    assert best == pytest.approx(1 / 3)
    assert try_out(lambda scale: failed)[0] == 1
