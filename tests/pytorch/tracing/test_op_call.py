from dataclasses import dataclass

import torch

from secateurs.pytorch.tracing.op_call import Call, iterate_tensors, map_tensors

aten = torch.ops.aten
X, Y = torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)


def test_arguments_are_known_by_name_wherever_they_were_given():
    call = Call(aten.add.Tensor, (X, Y), {"alpha": 2})
    assert call["self"] is X
    assert call.get("other") is Y
    assert call.get("missing", 7) == 7
    assert call.name == "add"
    assert torch.equal(call.run_one(), X + 2 * Y)


def test_tensors_in_lists_are_found_and_replaced_in_order():
    call = Call(aten.cat.default, ([X, Y],), {})
    assert [one is other for one, other in zip(call.tensors(), (X, Y), strict=True)] == [True, True]
    changed = call.with_tensors({1: X})
    assert torch.equal(changed.run_one(), torch.cat([X, X]))
    assert torch.equal(call.run_one(), torch.cat([X, Y]))


def test_other_arguments_by_name():
    call = Call(aten.sum.dim_IntList, (X, [0]), {})
    assert torch.equal(call.with_arguments(dim=[1]).run_one(), X.sum(1))
    assert call.numbers(int) == [0]


def test_without_data_shapes_are_found():
    call = Call(aten.mul.Tensor, (X.to("meta"), Y.to("meta")), {})
    made = call.run_one()
    assert made.is_meta
    assert made.shape == (2, 3)


def test_structures_are_gone_through_in_order():
    nested = {"a": [X, 3], "b": (Y,)}
    assert [id(one) for one in iterate_tensors(nested)] == [id(X), id(Y)]
    doubled = map_tensors(nested, lambda tensor: 2 * tensor)
    assert torch.equal(doubled["b"][0], 2 * Y)
    assert doubled["a"][1] == 3


@dataclass(frozen=True)
class Found:
    logits: torch.Tensor
    count: int = 3


def test_data_classes_are_gone_through_field_by_field():
    found = Found(X)
    assert [id(one) for one in iterate_tensors([found])] == [id(X)]
    doubled = map_tensors(found, lambda tensor: 2 * tensor)
    assert isinstance(doubled, Found)
    assert torch.equal(doubled.logits, 2 * X)
    assert doubled.count == 3
    assert found.logits is X
