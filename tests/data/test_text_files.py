"""Texts from files: split, length, classes and masking."""

import json

import numpy as np
import pytest

from secateurs.data.text_files import load_texts
from secateurs.errors import DataError


class Letters:
    """A token for each letter, as Transformers' tokenizers answer."""

    mask_token_id, all_special_ids = 1, (0, 1)

    def __call__(self, texts, padding, truncation, max_length):
        length = max_length or max(map(len, texts))
        rows = [[ord(c) for c in text[:length]] for text in texts]
        return {
            "input_ids": [row + [0] * (length - len(row)) for row in rows],
            "attention_mask": [[1] * len(row) + [0] * (length - len(row)) for row in rows],
        }


LINES = [f"{number:02}" * (1 + number % 3) for number in range(40)]


def words(part):
    return ["".join(map(chr, row[row > 0])) for row in part["input_ids"]]


def test_lines_are_split_once_each_by_the_seed(tmp_path):
    place = tmp_path / "book.txt"
    place.write_text("\n\n".join(LINES) + "\n")
    parts = load_texts(place, Letters(), shares=(0.2, 0.1))
    assert [len(words(part)) for part in parts] == [28, 8, 4]
    assert sorted(word for part in parts for word in words(part)) == sorted(LINES)
    assert parts[0]["input_ids"].shape[1] == 6
    again = load_texts(place, Letters(), shares=(0.2, 0.1))
    other = load_texts(place, Letters(), shares=(0.2, 0.1), seed=1)
    assert words(again[1]) == words(parts[1]) != words(other[1])
    short = load_texts(place, Letters(), length=3, limit=5)
    assert short[0]["input_ids"].shape == (5, 3)
    assert not set(words(short[1])) & set(words(short[2]))


def test_a_folders_files_are_told_by_their_names(tmp_path):
    for name, lines in (("train", LINES[:20]), ("valid", LINES[20:30]), ("test", LINES[30:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    found = load_texts(tmp_path, Letters())
    assert [words(part) for part in found] == [LINES[:20], LINES[20:30], LINES[30:]]
    (tmp_path / "more.txt").write_text("extra")
    assert "extra" in words(load_texts(tmp_path, Letters())[0])


@pytest.mark.parametrize(
    ("labels", "classes"), [(["no", "yes"], {"no": 0, "yes": 1}), ([3, 7], {3: 3, 7: 7})]
)
def test_labels_are_numbers_of_classes(tmp_path, labels, classes):
    place = tmp_path / "rated.jsonl"
    rows = [{"text": line, "label": labels[n % 2]} for n, line in enumerate(LINES)]
    place.write_text("\n".join(map(json.dumps, rows)))
    for part in load_texts(place, Letters()):
        by_text = {row["text"]: classes[row["label"]] for row in rows}
        assert part["labels"].tolist() == [by_text[word] for word in words(part)]


def test_some_tokens_of_each_text_are_hidden_and_become_the_labels(tmp_path):
    place = tmp_path / "book.txt"
    place.write_text("\n".join(LINES * 20))
    plain = load_texts(place, Letters())[0]
    masked = load_texts(place, Letters(), masked=True)[0]
    hidden = masked["labels"] != -100
    assert np.array_equal(masked["labels"][hidden], plain["input_ids"][hidden])
    assert (masked["input_ids"][hidden] == 1).all()
    assert np.array_equal(masked["input_ids"][~hidden], plain["input_ids"][~hidden])
    assert not (hidden & (plain["attention_mask"] == 0)).any()
    assert hidden.any(axis=1).all()
    share = hidden.sum() / plain["attention_mask"].sum()
    assert 0.15 < share < 0.35  # of texts this short one is a quarter of all


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "no such path"),
        ("two.txt", "a\nb", "at least; received 2 in all, none is left for train"),
        ("bad.txt", b"\xff\xfe\x00", "expected a text in UTF-8"),
        ("a.jsonl", "{", "line 1: expected JSON"),
        ("a.jsonl", "[" * 100_000, "line 1: expected JSON"),
        ("a.jsonl", '{"words": 3}', "expected an object with a text"),
        ("a.jsonl", '{"text": "a", "label": [1]}', "a label that is a number or a name"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}', "a label in every line or in none"),
    ],
)
def test_unreadable_text_is_reported_with_its_place(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as raised:
        load_texts(tmp_path / name, Letters())
    assert "\n" not in str(raised.value)


def test_an_empty_folder_and_a_tokenizer_without_a_mask(tmp_path):
    with pytest.raises(DataError, match=r"expected files \.txt, \.jsonl in it; received none"):
        load_texts(tmp_path, Letters())
    (tmp_path / "a.txt").write_text("\n".join(LINES))

    class Plain(Letters):
        mask_token_id = None

    with pytest.raises(DataError, match="expected a tokenizer with a mask token"):
        load_texts(tmp_path, Plain(), masked=True)
