"""Tokenizers in directories, and the task that the model beside them is trained for."""

import json

import pytest

import torchvision_on_cpu  # noqa: F401 - before transformers
from secateurs.errors import DataError, UnknownNameError
from secateurs.models.tokenizers import load_tokenizer, task_of_directory


def write(place, special, end=None):
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import PreTrainedTokenizerFast

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: n for n, w in enumerate(special)}))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, **({"eos_token": end} if end else {})
    ).save_pretrained(place)


def test_the_end_fills_up_where_nothing_else_does(tmp_path):
    write(tmp_path, ["a", "b", "<end>"], "<end>")
    found = load_tokenizer(tmp_path)
    given = found(["a b", "a"], padding="longest", truncation=True, max_length=None)
    assert given["input_ids"] == [[0, 1], [0, 2]]
    assert given["attention_mask"] == [[1, 1], [1, 0]]


def test_a_directory_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match=r"received one without.*--tokenizer DIRECTORY"):
        load_tokenizer(tmp_path)
    with pytest.raises(UnknownNameError, match="received no directory"):
        load_tokenizer(tmp_path / "none")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as a tokenizer") as raised:
        load_tokenizer(tmp_path)
    assert "\n" not in str(raised.value)
    write(tmp_path / "b", ["a"])
    with pytest.raises(DataError, match="expected a tokenizer with a padding token"):
        load_tokenizer(tmp_path / "b")


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("LlamaForCausalLM", "language-modelling"),
        ("GPT2LMHeadModel", "language-modelling"),
        ("BertForMaskedLM", "masked-language-modelling"),
        ("BertForSequenceClassification", "classification"),
        ("ViTModel", None),
    ],
)
def test_an_architecture_determines_the_task(tmp_path, kind, task):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [kind]}))
    assert task_of_directory(tmp_path) == task
    assert task_of_directory(tmp_path / "none") is None
