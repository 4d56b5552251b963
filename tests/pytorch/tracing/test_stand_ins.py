"""What a traced pass runs on in place of a model's tensors."""

import pytest
import torch
from torch import nn

from secateurs.channels.equations import Equations
from secateurs.pytorch.model.tensors import list_tensors
from secateurs.pytorch.tracing.fresh_tensors import FreshTensors
from secateurs.pytorch.tracing.op_record import labels_of
from secateurs.pytorch.tracing.stand_ins import StandIns


class Counting(nn.Module):
    """A weight, and a buffer of integers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("places", torch.tensor([2, 0, 1]))


@pytest.fixture
def model():
    return Counting()


def make_stand_ins(model, is_concrete=False):
    fresh = FreshTensors(Equations(), is_concrete, lambda: "a line")
    stand_ins = StandIns(list_tensors(model), fresh, is_concrete)
    stand_ins.start_pass()
    return stand_ins


def test_a_weight_is_replaced_by_one_tensor_without_data_in_each_pass(model):
    stand_ins, weight = make_stand_ins(model), model.layer.weight
    leaf = stand_ins.leaves[id(weight)]
    assert not leaf.is_read
    made = stand_ins.find(weight)
    assert (made.is_meta, made.shape, leaf.is_read) == (True, (2, 3), True)
    assert labels_of(made).leaf is leaf
    assert stand_ins.find(weight) is made
    assert stand_ins.find_buffer(weight) is stand_ins.find_buffer(made) is None
    stand_ins.start_pass()
    assert stand_ins.find(weight) is not made


def test_on_real_tensors_it_has_the_weights_values_and_memory_of_its_own(model):
    made = make_stand_ins(model, is_concrete=True).find(model.layer.weight)
    assert torch.equal(made, model.layer.weight)
    assert made.data_ptr() != model.layer.weight.data_ptr()


def test_a_buffer_of_integers_keeps_its_values(model):
    stand_ins = make_stand_ins(model)
    assert stand_ins.find(model.places) is model.places
    assert stand_ins.find_buffer(model.places).name == "places"


def test_a_buffer_that_is_written_into_is_copied(model):
    stand_ins = make_stand_ins(model)
    made = stand_ins.find(model.places, mutates=True)
    made += 1
    assert model.places.tolist() == [2, 0, 1]
    assert stand_ins.find(model.places) is made  # who reads it later reads what was written
    assert stand_ins.find_buffer(made).name == "places"
    stand_ins.start_pass()
    assert stand_ins.find(model.places) is model.places
    assert stand_ins.find_buffer(made) is None


def test_other_tensors_stand_for_themselves(model):
    other = torch.zeros(3)
    stand_ins = make_stand_ins(model)
    assert stand_ins.find(other) is other
    assert stand_ins.find_buffer(other) is None
