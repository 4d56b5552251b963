"""Cuts as data: JSON round trip, composition, and description in words."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateurs.channels.cost import Cost
from secateurs.channels.cut import ChannelCut, Cut, Rescaling, SizeChange, TensorCut
from secateurs.errors import CheckpointError, CutError


def example():
    return Cut(
        {"a.weight": TensorCut((4, 3), {0: (1, 2)}), "b.weight": TensorCut((2, 4), {1: (1, 2)})},
        (SizeChange("a", "out_features", None, 4, 2), SizeChange("n", "normalized_shape", 0, 4, 2)),
        {"a": ChannelCut(4, (1, 2))},
        (Rescaling("b.weight", 0, (1,), 0.5),),
        Cost(20, 200, 80, 4),
        Cost(10, 100, 40, 2),
    )


def test_json_and_back(tmp_path):
    cut = example()
    assert Cut.from_json(cut.to_json()) == cut
    cut.save(tmp_path / "cut.json")
    assert Cut.load(tmp_path / "cut.json") == cut
    assert json.loads(cut.to_json())["version"] == 1
    assert Cut.from_json(Cut().to_json()) == Cut()


def test_axes_that_lose_the_same_share_one_list():
    assert json.loads(example().to_json())["sets"] == [[1, 2], [1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no", "not JSON"),
        ("[]", "expected a cut"),
        ('{"format": "secateurs-cut", "version": 99}', "version 99"),
        ('{"format": "secateurs-cut", "version": 1}', "damaged"),
    ],
)
def test_invalid_cuts_are_refused(text, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        Cut.from_json(text)
    (tmp_path / "cut.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"cut\.json"):
        Cut.load(tmp_path / "cut.json")


@given(st.data())
def test_composed_cuts_are_composed_indexing(data):
    size = data.draw(st.integers(2, 12))
    values = np.arange(size)
    first = tuple(sorted(data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1))))
    left = np.delete(values, first)
    second = tuple(
        sorted(data.draw(st.sets(st.integers(0, len(left) - 1), max_size=len(left) - 1)))
    )
    one = Cut({"w": TensorCut((size,), {0: first})})
    other = Cut({"w": TensorCut((len(left),), {0: second})})
    both = one.then(other).tensors["w"]
    assert both.list_kept(0).tolist() == np.delete(left, second).tolist()
    assert both.shape_after == (len(left) - len(second),)


def test_composed_cuts_refer_to_the_dense_model():
    later = Cut(
        {"a.weight": TensorCut((2, 3), {1: (0,)})},
        (SizeChange("a", "out_features", None, 2, 1), SizeChange("b", "in_features", None, 4, 3)),
        {"a": ChannelCut(2, (1,)), "b": ChannelCut(5, (0,))},
        (Rescaling("a.weight", 0, (0, 1), 2.0), Rescaling("c.weight", 0, (1,), 3.0)),
        Cost(10, 100, 40, 2),
        Cost(5, 50, 20, 1),
    )
    both = example().then(later)
    assert both.tensors["a.weight"] == TensorCut((4, 3), {0: (1, 2), 1: (0,)})
    assert both.sizes == (
        SizeChange("a", "out_features", None, 4, 1),
        SizeChange("n", "normalized_shape", 0, 4, 2),
        SizeChange("b", "in_features", None, 4, 3),
    )
    # Of what stayed, 0 and 3, the second goes.
    assert both.channels == {"a": ChannelCut(4, (1, 2, 3)), "b": ChannelCut(5, (0,))}
    assert both.rescalings == (
        Rescaling("b.weight", 0, (1,), 0.5),
        Rescaling("a.weight", 0, (0, 3), 2.0),
        Rescaling("c.weight", 0, (1,), 3.0),
    )
    assert (both.before, both.after) == (Cost(20, 200, 80, 4), Cost(5, 50, 20, 1))


def test_a_group_that_is_another_now_is_told_of_as_it_is():
    """Where heads go, what was a group of 4 may be one of 3: its numbers are not those before."""
    later = Cut({}, (), {"a": ChannelCut(3, (0,))})
    assert example().then(later).channels == {"a": ChannelCut(3, (0,))}


def test_cuts_that_do_not_follow_each_other_are_refused():
    with pytest.raises(CutError, match=r"a\.weight: expected a cut of shape \(2, 3\)"):
        example().then(example())


def test_in_words():
    shown = example().explain()
    row = next(line.split() for line in shown.splitlines() if line.startswith("a "))
    assert row == ["a", "4", "2", "50.0", "%", "1-2"]
    assert "parameters 20 -> 10 (50.0 % removed)" in shown
    assert example().removed_channels == 2
    assert not Cut()


@given(st.data())
def test_what_a_cut_does_beyond_an_earlier_one(data):
    """``earlier.then(cut.since(earlier))`` is ``cut``, and indexing says the same."""

    def some(size):
        return tuple(sorted(data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1))))

    size = data.draw(st.integers(2, 12))
    gone = some(size)
    left = size - len(gone)
    then_gone = some(left)
    values = np.arange(size)

    def cut(size, gone, factor):
        tensors = {"w": TensorCut((size,), {0: gone})} if gone else {}
        sizes = (SizeChange("l", "out", None, size, size - len(gone)),) if gone else ()
        channels = {"l": ChannelCut(size, gone)} if gone else {}
        scaled = (Rescaling("w", 0, tuple(range(size - len(gone))), factor),)
        cost = Cost(size, size, size, size), Cost(*[size - len(gone)] * 4)
        return Cut(tensors, sizes, channels, scaled, *cost)

    first, second = cut(size, gone, 0.5), cut(left, then_gone, 2.0)
    whole = first.then(second)
    assert first.then(whole.since(first)) == whole
    since = whole.since(first).tensors.get("w")
    expected = np.delete(np.delete(values, list(gone)), list(then_gone))
    received = np.delete(values, list(gone))
    if since is not None:
        assert since.shape == (left,)
        received = received[since.list_kept(0)]
    np.testing.assert_array_equal(received, expected)
    assert not whole.since(whole)


def test_a_cut_that_does_not_go_on_from_another_is_refused():
    first = Cut({"w": TensorCut((4,), {0: (1,)})})
    for other in (
        Cut(),
        Cut({"w": TensorCut((4,), {0: (2,)})}),
        Cut({"w": TensorCut((5,), {0: (1,)})}),
    ):
        with pytest.raises(CutError, match=r"w: expected a cut that continues"):
            other.since(first)
