"""Cuts from damaged or hostile files raise our own errors, whatever the content."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateurs.channels.cost import Cost
from secateurs.channels.cut import Cache, ChannelCut, Cut, Rescaling, SizeChange, TensorCut
from secateurs.errors import CheckpointError
from support.damaged import EXAMPLES, broken, change_value

WHOLE = Cut(
    {"a.weight": TensorCut((4, 3), {0: (1, 2)}), "b.weight": TensorCut((2, 4), {1: (1, 2)})},
    (SizeChange("a", "out_features", None, 4, 2), SizeChange("n", "sizes", "h", 4, 2)),
    {"a": ChannelCut(4, (1, 2))},
    (Rescaling("b.weight", 0, (1,), 0.5),),
    Cost(20, 200, 80, 4),
    Cost(10, 100, 40, 2),
    (Cache("a", "kept"),),
)


def is_answered(text):
    """Whether a text is read as a cut that can be used; our own error is an answer, too."""
    try:
        cut = Cut.from_json(text)
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both are answers
        return False
    cut.explain()
    assert Cut.from_json(cut.to_json()) == cut
    for tensor in cut.tensors.values():
        if max(tensor.shape, default=0) < 1000:
            assert min(tensor.shape_after, default=0) >= 0
            assert all(len(tensor.list_kept(a)) == tensor.shape_after[a] for a in tensor.removed)
    return True


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data())
def test_a_cut_with_values_changed_is_read_or_refused(data):
    values = json.loads(WHOLE.to_json())
    for _ in range(data.draw(st.integers(1, 3))):
        change_value(data.draw, values)
    is_answered(json.dumps(values))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data())
def test_a_cut_with_bytes_changed_is_read_or_refused(data):
    content = broken(data.draw, WHOLE.to_json().encode())
    is_answered(content.decode(errors="surrogateescape"))


def with_changes(**changes):
    return json.dumps(json.loads(WHOLE.to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "not JSON"),
        ("1" * 5000, "not JSON"),
        (with_changes(sets=[[2, 1], [1]]), r"sets\.0: expected rising"),
        (with_changes(sets=[[1, -2], [1]]), r"sets\.0\.1: expected greater"),
        (with_changes(sets=[[1, 9], [1]]), r"a\.weight: expected indices below 4; received 9"),
        (with_changes(sets=[[1, True], [1]]), r"sets\.0\.1: expected a valid integer"),
        (with_changes(tensors={"a": [[4], {"²": 0}]}), "expected a valid integer"),
        (with_changes(tensors={"a": [[4], {"1": 0}]}), r"expected an axis of \[4\]; received 1"),
        (with_changes(tensors={"a": [[4], {"0": 7}]}), "one of 2 sets; received 7"),
        (with_changes(channels={"a": [0, 0]}), "expected indices below 0"),
        (with_changes(rescalings=[["b.weight", 2, 1, 0.5]]), r"expected an axis of \[2, 4\]"),
        (with_changes(rescalings=[["b.weight", 0, 1, float("nan")]]), "finite"),
        (with_changes(sizes=[["a", "out_features", None, 4.5, 2]]), "valid integer"),
        (with_changes(sizes=[["a", "out_features"]]), "sizes.0"),
        (with_changes(caches=[["a"]]), "caches.0"),
    ],
)
def test_errors_are_one_line_with_their_place(text, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        Cut.from_json(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_whole_one_is_read():
    assert is_answered(WHOLE.to_json())
