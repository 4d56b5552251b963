import torch

import secateurs as sec
from secateurs.study.sources import Sources, describe_task
from support.scripted import Scripted


def describe(learner):
    return describe_task(learner.trace(), learner, Sources([1], [2]))


def test_what_has_no_name_is_told_by_its_sizes():
    task = describe(Scripted(lambda *_: 0.5))
    assert (task.model, task.data) == ("Sequential", "list")
    assert task.model_options["parameters"] == 3 * 20 + 20 + 20 * 20 + 20 + 20 * 2 + 2
    assert task.data_options == {"batches": 10, "validation_batches": 1}
    assert "cut" not in task.model_options
    assert not task.by_name


def test_another_shape_or_an_earlier_cut_is_another_task():
    one = describe(Scripted(lambda *_: 0.5))
    assert describe(Scripted(lambda *_: 0.5)) == one
    assert describe(Scripted(lambda *_: 0.5, widths=(20, 21))) != one
    cut = Scripted(lambda *_: 0.5)
    cut.model = sec.delete_channels(cut.model, {"0": [3]}, torch.zeros(1, 3))
    found = describe(cut)
    assert found.model_options["cut"]
    cut.model = sec.delete_channels(Scripted(None).origin, {"0": [4]}, torch.zeros(1, 3))
    assert describe(cut).model_options["cut"] != found.model_options["cut"]
