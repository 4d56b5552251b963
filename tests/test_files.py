"""Damaged files are reported as such."""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from secateurs.deployment.targets import TARGETS
from secateurs.errors import CheckpointError, StudyError
from secateurs.files import (
    CHECKSUM,
    check_model_suffix,
    check_tensor_names,
    check_tensor_shape,
    checksum_of_tensors,
    is_safetensors,
    open_json,
    seal,
    seal_json,
    unpack_safetensors,
)


def content():
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "größe": np.ones(3, np.int64)}
    return seal(save(tensors, {"secateurs": '{"a":1}', "note": "x"}))


def header_of(written):
    length = struct.unpack("<Q", written[:8])[0]
    return json.loads(written[8 : 8 + length]), written[8 + length :]


def with_header(header, numbers):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def test_a_checksum_is_sha256_of_names_lengths_and_bytes():
    pieces = {"b": b"\x01\x02", "a": bytearray(b"\x03")}
    by_hand = struct.pack("<QQ", 1, 1) + b"a\x03" + struct.pack("<QQ", 1, 2) + b"b\x01\x02"
    assert checksum_of_tensors(pieces) == hashlib.sha256(by_hand).hexdigest()
    assert checksum_of_tensors(dict(reversed(pieces.items()))) == checksum_of_tensors(pieces)
    assert checksum_of_tensors({"b": memoryview(np.ones(2)).cast("B"), "a": b""}) != (
        checksum_of_tensors({"b": b"", "a": memoryview(np.ones(2)).cast("B")})
    )


def test_what_is_sealed_reads_as_before_and_keeps_the_checksum_to_itself():
    tensors, metadata = unpack_safetensors(content(), load)
    assert metadata == {"secateurs": '{"a":1}', "note": "x"}
    assert tensors["b"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors["größe"].tolist() == [1, 1, 1]
    assert struct.unpack("<Q", content()[:8])[0] % 8 == 0
    twice = seal(seal(content()))
    assert header_of(twice)[0] == header_of(content())[0]


def test_any_flipped_bit_of_the_numbers_is_noticed():
    written = content()
    start = len(written) - len(header_of(written)[1])
    for place in range(start, len(written)):
        for bit in (0, 7):
            flipped = bytearray(written)
            flipped[place] ^= 1 << bit
            with pytest.raises(CheckpointError, match="damaged or changed since"):
                unpack_safetensors(bytes(flipped), load)


def test_any_flipped_bit_of_the_header_is_noticed():
    written = content()
    end = len(written) - len(header_of(written)[1])
    for place in range(end):
        for bit in range(8):
            flipped = bytearray(written)
            flipped[place] ^= 1 << bit
            with pytest.raises(CheckpointError):
                unpack_safetensors(bytes(flipped), load)


def test_any_flipped_bit_of_sealed_values_is_noticed_or_changes_nothing():
    values = {"a": [1, 2.5], "name": "größe"}
    written = seal_json(values).encode()
    assert open_json(written) == values
    for place in range(len(written)):
        for bit in range(8):
            flipped = bytearray(written)
            flipped[place] ^= 1 << bit
            try:
                assert open_json(bytes(flipped)) == values  # other white space
            except ValueError:
                continue


def test_another_cut_beside_the_same_weights_is_noticed():
    header, numbers = header_of(content())
    header["__metadata__"]["secateurs"] = '{"a":2}'
    with pytest.raises(CheckpointError, match="checksum"):
        unpack_safetensors(with_header(header, numbers), load)


def test_weights_of_one_file_under_the_names_of_another_are_noticed():
    header, numbers = header_of(content())
    header["c"] = header.pop("b")
    with pytest.raises(CheckpointError, match="checksum"):
        unpack_safetensors(with_header(header, numbers), load)


def test_metadata_may_be_null_as_the_format_allows():
    header, numbers = header_of(save({"a": np.ones(3, np.float32)}))
    bare = with_header({**header, "__metadata__": None}, numbers)
    tensors, metadata = unpack_safetensors(bare, load)
    assert metadata == {}
    assert tensors["a"].tolist() == [1, 1, 1]
    assert unpack_safetensors(seal(bare), load)[1] == {}


@pytest.mark.parametrize("name", ["x.pkl", "x.pickle", "x.npz", "x.txt", "x.pt", "x.onnx"])
def test_a_name_of_another_format_is_refused(name):
    with pytest.raises(StudyError, match=r"ends in \.safetensors.*Write x\.safetensors"):
        check_model_suffix(Path(name))


def test_formats_that_are_exported_are_listed_where_the_format_is_unknown():
    with pytest.raises(StudyError) as raised:
        check_model_suffix(Path("x.pkl"))
    for target in TARGETS.values():
        assert target.suffix in str(raised.value)


@pytest.mark.parametrize("name", ["x", "x.safetensors", "x.SafeTensors", "x.v2", "x-0.5", "x."])
def test_a_name_of_no_format_is_accepted(name):
    check_model_suffix(Path(name))


def test_a_file_without_a_checksum_is_read_as_it_is():
    header, numbers = header_of(content())
    del header["__metadata__"][CHECKSUM]
    assert unpack_safetensors(with_header(header, numbers), load)[1]["note"] == "x"


@pytest.mark.parametrize("length", [0x4B50, 0x0280, 0x0380, 0x0480, 0x0580])
def test_a_safetensors_file_is_known_by_its_structure(length):
    """Whatever its length begins with: "PK" of an archive, or a pickle's first two bytes."""
    empty = {"__metadata__": {"pad": ""}}
    empty["__metadata__"]["pad"] = "x" * (length - len(json.dumps(empty)))
    written = with_header(empty, b"")
    assert struct.unpack("<Q", written[:8])[0] == length
    assert is_safetensors(written)
    assert is_safetensors(written[:100])  # a torn one is still one


@pytest.mark.parametrize(
    "other", [b"", b"{", b"PK\x03\x04" + b"\0" * 60, b"\x80\x02}q\0.", b"{" * 99]
)
def test_other_files_are_not_recognised(other):
    assert not is_safetensors(other)


def test_a_file_of_other_tensors_is_refused_by_name():
    path = Path("cut.safetensors")
    check_tensor_names(path, "Net", [], [])
    with pytest.raises(CheckpointError, match=r"missing: a, b, c \.\.\.; not in the model: z\. "):
        check_tensor_names(path, "Net", ["a", "b", "c", "d"], ["z"])


def test_a_tensor_of_another_shape_is_refused():
    check_tensor_shape(Path("cut.safetensors"), "a", (2, 3), [2, 3])
    with pytest.raises(CheckpointError, match=r"a: expected shape \(2, 3\); received \(3, 2\)"):
        check_tensor_shape(Path("cut.safetensors"), "a", [2, 3], (3, 2))
