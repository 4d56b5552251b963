import torch
from torch import nn

from secateurs.pytorch.model.wrapped_parts import plain_names, present_names


def test_names_lose_and_regain_the_wrappers_inside():
    inner = nn.Sequential(
        nn.Linear(2, 2), torch.compile(nn.DataParallel(nn.Linear(2, 2)), backend="eager")
    )
    model = nn.ModuleDict({"a": nn.DataParallel(inner), "module": nn.Linear(2, 2)})
    plain, present = plain_names(model), present_names(model)
    names = {
        "a.module.0.weight": "a.0.weight",
        "a.module.1._orig_mod.module.bias": "a.1.bias",
        "a.module.1._orig_mod.module": "a.1",  # the layer itself, which keeps its sizes
        "module.weight": "module.weight",  # a layer of this name is no wrapper
    }
    assert {name: plain(name) for name in names} == names
    assert {present(name): name for name in names.values()} == names
    assert {present(name) for name in names} == set(names)
