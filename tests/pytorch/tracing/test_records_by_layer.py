"""Operations matched by their layer where their numbers differ."""

import numpy as np
import pytest

from secateurs.channels.tensors import Mask
from secateurs.pytorch.tracing.op_record import OpRecord
from secateurs.pytorch.tracing.records_by_layer import OtherPathError, RecordsByLayer


def record(layer, name, units=None):
    masks = [] if units is None else [Mask(0, 1, np.array(units))]
    return OpRecord(name, layer, masks=masks)


def test_an_operation_is_its_layers_first_second_and_so_on_of_its_kind():
    one, two, other = record("a", "add"), record("a", "add"), record("b", "add")
    known = RecordsByLayer([one, other, two])
    assert known.find("a", "add", 0, 9) is one
    assert known.find("a", "add", 1, 9) is two
    assert known.find("b", "add", 0, 9) is other
    assert known.find("b", "mul", 0, 9) is None


def test_more_of_a_kind_are_as_all_are_or_refused_where_channels_go():
    same = RecordsByLayer([record("a", "mm", [1, 2]), record("a", "mm", [1, 2])])
    assert list(same.find("a", "mm", 5, 0).masks[0].units) == [1, 2]
    unlike = RecordsByLayer([record("a", "mm", [1, 2]), record("a", "mm", [3, 4])])
    with pytest.raises(OtherPathError, match="operation 7 of the forward pass is mm"):
        unlike.find("a", "mm", 2, 7)
