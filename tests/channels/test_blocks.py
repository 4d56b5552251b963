"""Removed blocks as data, and how names change where lists get shorter."""

import pytest

from secateurs.channels.blocks import BlockCut, Numbering
from secateurs.channels.cut import ChannelCut, Cut, TensorCut
from secateurs.errors import CheckpointError, CutError


def block_cuts(*owners, shortens=True):
    return tuple(BlockCut(owner, shortens=shortens) for owner in owners)


def test_names_in_a_shorter_list_are_renumbered_and_back():
    numbering = Numbering(block_cuts("net.layers.1", "net.layers.3"))
    left = [n for n in range(6) if n not in (1, 3)]
    for new, old in enumerate(left):
        assert numbering.before(f"net.layers.{new}.fc.weight") == f"net.layers.{old}.fc.weight"
        assert numbering.after(f"net.layers.{old}.fc.weight") == f"net.layers.{new}.fc.weight"
    assert numbering.after("net.layers.3.fc.weight") is None
    assert numbering.before("net.layers10.2.weight") == "net.layers10.2.weight"
    assert numbering.after("head.weight") == "head.weight"


def test_lists_inside_lists():
    numbering = Numbering(block_cuts("a.0", "a.2.b.1"))
    assert numbering.after("a.2.b.2.w") == "a.1.b.1.w"
    assert numbering.before("a.1.b.1.w") == "a.2.b.2.w"


def test_a_block_takes_all_inside_but_what_stays_on_its_skip():
    block = BlockCut("layer2.0", keeps=("downsample",))
    assert block.takes_with_it("layer2.0.conv1.weight")
    assert block.takes_with_it("layer2.0")
    assert not block.takes_with_it("layer2.0.downsample.0.weight")
    assert not block.takes_with_it("layer2.01.conv1.weight")


def test_cuts_in_turn_speak_of_the_dense_model():
    first = Cut(blocks=block_cuts("layers.1"))
    later = Cut(
        {"layers.1.weight": TensorCut((4, 2), {0: (3,)})},
        channels={"layers.1": ChannelCut(4, (3,))},
    )
    both = first.then(later)
    assert list(both.channels) == ["layers.2"]
    assert list(both.tensors) == ["layers.2.weight"]
    assert both.since(first).tensors == later.tensors
    assert both.without_blocks().tensors == later.tensors
    third = both.then(Cut(blocks=block_cuts("layers.0")))
    assert [block.owner for block in third.blocks] == ["layers.1", "layers.0"]
    assert [block.owner for block in third.since(both).blocks] == ["layers.0"]
    with pytest.raises(CutError, match="its blocks"):
        both.since(Cut(blocks=block_cuts("layers.0")))


def test_cuts_of_blocks_are_written_and_read_and_old_readers_refuse_them():
    cut = Cut(
        blocks=(BlockCut("layer2.0", ("downsample",), "relu", 0, "x"), *block_cuts("layers.4"))
    )
    assert cut
    assert Cut.from_json(cut.to_json()) == cut
    assert cut.to_dict()["version"] == 2
    assert Cut().to_dict()["version"] == 1
    damaged = cut.to_dict()
    damaged["blocks"][1][0] = "layers.last"
    with pytest.raises(CheckpointError, match="blocks"):
        Cut.from_dict(damaged)
