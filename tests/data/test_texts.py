import numpy as np
import pytest

from secateurs.data.texts import from_texts
from secateurs.errors import DataError


def letters(texts, padding, truncation, max_length):
    """A token for each letter, as Transformers' tokenizers answer."""
    assert truncation
    length = max_length or max(map(len, texts))
    assert padding == ("longest" if max_length is None else "max_length")
    rows = [[ord(c) for c in text[:length]] for text in texts]
    masks = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
    return {
        "input_ids": [row + [0] * (length - len(row)) for row in rows],
        "attention_mask": masks,
    }


def test_texts_are_as_long_as_the_longest_or_as_asked_for():
    found = from_texts(["ab", "c"], letters)
    assert found["input_ids"].tolist() == [[97, 98], [99, 0]]
    assert found["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert "labels" not in found
    found = from_texts(["ab", "c"], letters, length=1, labels=[1, 0])
    assert found["input_ids"].tolist() == [[97], [99]]
    assert found["labels"].tolist() == [1, 0]
    assert {array.dtype for array in found.values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("ab", {}, "texts: expected a list of texts; received str 'ab'"),
        ([], {}, "received list of 0"),
        ([1], {}, "received list of 1"),
        (["a"], {"length": 0}, "length: expected a whole number; received int 0"),
        (["a"], {"labels": 3}, "labels: expected whole numbers; received int 3"),
        (["a"], {"labels": [1, 2]}, "expected as many labels as texts; received 2 for 1"),
    ],
)
def test_what_cannot_be_used_is_refused(texts, options, message):
    with pytest.raises(DataError, match=message):
        from_texts(texts, letters, **options)


def test_a_tokenizer_that_raises_is_told_with_the_fix():
    def raising(*_, **__):
        raise ValueError("no padding\ntoken")

    with pytest.raises(
        DataError, match=r"tokenizer.pad_token = .*raised ValueError: no padding token"
    ):
        from_texts(["a"], raising)
