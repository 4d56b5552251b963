import numpy as np
import pytest

torch = pytest.importorskip("torch")

from secateurs.data import draw_texts  # noqa: E402
from secateurs.errors import DataError, ModelError  # noqa: E402


class Chain(torch.nn.Module):
    """A Markov chain: the next word depends on the last one alone."""

    def __init__(self, chances):
        super().__init__()
        self.scores = torch.nn.Parameter(torch.log(torch.tensor(chances)))

    def forward(self, tokens):
        return self.scores[tokens]


CHANCES = [[0.1, 0.6, 0.3], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]


def test_words_follow_each_other_as_often_as_the_model_says():
    drawn = draw_texts(Chain(CHANCES), 100, 200, seed=3)
    assert drawn.shape == (100, 200)
    assert drawn.dtype == np.int64
    before, after = drawn[:, :-1].ravel(), drawn[:, 1:].ravel()
    found = np.array([np.bincount(after[before == word], minlength=3) for word in range(3)])
    assert np.allclose(found / found.sum(1, keepdims=True), CHANCES, atol=0.02)


def test_the_first_word_is_drawn_by_lot_or_what_was_asked_for():
    model = Chain(CHANCES)
    first = draw_texts(model, 600, 2)[:, 0]
    assert np.allclose(np.bincount(first) / 600, 1 / 3, atol=0.07)
    assert (draw_texts(model, 8, 2, start=2)[:, 0] == 2).all()


def test_a_seed_draws_the_same_again_and_another_draws_others():
    model = Chain(CHANCES)
    one, again, other = (draw_texts(model, 4, 20, seed=seed) for seed in (0, 0, 1))
    assert (one == again).all()
    assert (one != other).any()


def test_cold_texts_take_the_likeliest_word():
    drawn = draw_texts(Chain(CHANCES), 4, 9, start=0, temperature=1e-3)
    assert drawn.tolist() == [[0, 1, 0, 1, 0, 1, 0, 1, 0]] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": 0}, "texts: expected a whole number of at least 1; received int 0"),
        ({"length": 1}, "length: expected a whole number of at least 2; received int 1"),
        ({"start": 3}, "start: expected a token below 3; received 3"),
        ({"start": -1}, "start: expected a token's number; received int -1"),
        ({"temperature": 0}, "temperature: expected a positive number; received int 0"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(DataError, match=message):
        draw_texts(Chain(CHANCES), **{"texts": 2, "length": 4, **options})


def test_a_model_that_is_none_of_language_is_refused():
    class Means(torch.nn.Module):
        def forward(self, tokens):
            return tokens.float().mean(1, keepdim=True)

    with pytest.raises(ModelError, match=r"Means: expected a language model.*shape \(1, 1\)"):
        draw_texts(Means(), 2, 4)
