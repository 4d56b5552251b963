import numpy as np
import pytest
import torch

from secateurs.training.muon import USUAL, Muon, orthogonalize, size_of


@pytest.mark.parametrize("shape", [(6, 6), (3, 40), (40, 3), (1, 9)])
def test_singular_values_become_about_one_and_directions_stay(shape):
    matrix = np.random.default_rng(0).normal(size=shape)
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    found = orthogonalize(matrix)
    diagonal = left.T @ found @ right.T
    assert diagonal == pytest.approx(np.diag(np.diag(diagonal)), abs=1e-9)
    assert (np.abs(np.diag(diagonal) - 1) < 0.35).all()


def test_small_singular_values_count_as_much_as_large_ones():
    turned = orthogonalize(np.diag([1.0, 0.01]))
    assert 0.65 < turned[1, 1] / turned[0, 0] < 1.6


def test_tensors_of_pytorch_give_the_same():
    matrix = np.random.default_rng(1).normal(size=(4, 7))
    assert orthogonalize(torch.from_numpy(matrix)).numpy() == pytest.approx(orthogonalize(matrix))


def test_a_zero_matrix_has_a_zero_direction():
    assert not orthogonalize(np.zeros((3, 4))).any()


def test_the_direction_uses_nesterov_momentum_and_is_scaled_for_tall_matrices():
    gradients = np.random.default_rng(2).normal(size=(3, 8, 2))
    muon, momentum = Muon(np.zeros((8, 2))), np.zeros((8, 2))
    for gradient in gradients:
        momentum = 0.95 * momentum + 0.05 * gradient
        wanted = 2 * orthogonalize(0.95 * momentum + 0.05 * gradient)
        assert muon.direction(gradient) == pytest.approx(wanted)


def test_it_finds_a_least_squares_solution():
    random = np.random.default_rng(3)
    inputs, matrix, muon = random.normal(size=(200, 5)), np.zeros((3, 5)), Muon(np.zeros((3, 5)))
    wanted = random.normal(size=(3, 5))
    for step in range(400):
        gradient = (inputs @ (matrix - wanted).T).T @ inputs / 200
        matrix = matrix - 0.05 * (1 - step / 400) * muon.direction(gradient)
    assert matrix == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("shape", [(6, 6), (3, 400), (400, 3), (1, 9)])
def test_the_size_is_of_all_singular_values(shape):
    matrix = 7 * np.random.default_rng(4).normal(size=shape)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert size_of(matrix) == pytest.approx(np.sqrt(np.mean(values**2)))
    assert size_of(torch.from_numpy(matrix)) == pytest.approx(size_of(matrix))


def test_steps_have_the_size_of_the_weights():
    """Weights, and with them what they answer, a hundred times as large: the same training."""
    random = np.random.default_rng(5)
    weights, gradients = random.normal(size=(4, 6)), random.normal(size=(3, 4, 6))
    plain, large = Muon(weights), Muon(100 * weights)
    for gradient in gradients:
        assert large.direction(gradient) == pytest.approx(100 * plain.direction(gradient))
    usual = Muon(USUAL * np.eye(4)).direction(gradients[0][:, :4])
    assert size_of(usual) == pytest.approx(1, rel=0.35)
