from secateurs.channels.cut import Cut, TensorCut
from secateurs.channels.independent import (
    Slice,
    exclude_mixed,
    is_all_in,
    other_answers,
    slices_of,
    still_read,
)
from secateurs.errors import CutError
from support.networks_by_hand import two_layers


def test_slices_are_all_that_a_cut_removes_axis_by_axis():
    cut = Cut({"a.weight": TensorCut((4, 3), {0: (1, 2), 1: (0,)}), "b": TensorCut((4,), {0: ()})})
    assert slices_of(cut) == [Slice("a.weight", 0, (1, 2)), Slice("a.weight", 1, (0,))]
    assert [one.layer for one in slices_of(cut)] == ["a", "a"]
    assert Slice("bare", 0, (1,)).layer == "bare"


def test_all_of_a_slice_may_lie_in_several_others_of_its_axis():
    part = Slice("a", 0, (1, 4))
    assert is_all_in(part, [Slice("a", 0, (4,)), Slice("a", 0, (0, 1))])
    assert not is_all_in(part, [Slice("a", 0, (4,)), Slice("a", 1, (1,)), Slice("b", 0, (1,))])


def test_channels_that_something_mixes_are_left_out():
    exact, mixed = two_layers(), two_layers(mixes=True)
    cut = exact.cut({"first": [1]})
    assert exclude_mixed(exact, cut) is cut
    assert exclude_mixed(mixed, mixed.cut({"first": [1]})).channels == {}


def test_refusals_name_the_layers_and_the_numbers():
    parts = [Slice("a.weight", 0, (1,)), Slice("a.bias", 0, (1,)), Slice("b.weight", 1, (2,))]
    assert isinstance(still_read(parts), CutError)
    assert str(still_read(parts)).startswith("a, b: expected channels without influence")
    message = str(other_answers("net", parts, 0.25, 1e-5))
    assert "weights that read these channels at zero (a, b)" in message
    assert "difference of 1e-05 or less, received 0.25" in message
