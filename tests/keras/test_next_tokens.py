import keras
import numpy as np
import pytest

from secateurs.errors import ModelError
from secateurs.keras import next_scores


def language_model(places):
    tokens = keras.Input((places,), dtype="int32", name="token_ids")
    mask = keras.Input((places,), dtype="int32", name="padding_mask")
    x = keras.layers.Embedding(11, 6)(tokens)
    x = keras.layers.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True)
    x = x * keras.ops.expand_dims(keras.ops.cast(mask, "float32"), -1)
    return keras.Model({"token_ids": tokens, "padding_mask": mask}, keras.layers.Dense(11)(x))


@pytest.mark.parametrize("places", [None, 5])
def test_scores_are_those_of_the_last_place_of_the_text_so_far(places):
    model = language_model(places)
    texts = np.random.default_rng(0).integers(11, size=(2, 5))
    whole = model.predict_on_batch({"token_ids": texts, "padding_mask": np.ones_like(texts)})
    score = next_scores(model)
    for count in range(1, 6):
        assert np.allclose(score(texts[:, :count]), whole[:, count - 1], atol=1e-5)


def test_a_model_of_something_else_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ModelError, match=r"expected a language model.*\(2, 3\)"):
        next_scores(model)(np.zeros((2, 4), np.int64))
