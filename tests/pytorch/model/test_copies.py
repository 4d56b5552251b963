"""A call leaves the model unchanged, and other threads can use it meanwhile."""

import copy
import threading

import pytest
import torch
import torch.nn.utils.prune as masks
from torch import nn

import secateurs as sec
from secateurs.channels.cut import Cache, Cut
from secateurs.pytorch.model.copies import copy_model, find_module, share_tensors


def convolutions(wrap=lambda layer: layer):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), wrap(nn.Conv2d(8, 8, 3)), nn.Conv2d(8, 4, 3)).eval()


X = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        lambda layer: masks.ln_structured(layer, "weight", 0.5, 2, 0),
    ],
)
def test_a_weight_that_a_hook_makes_is_there_before_and_after_in_both_models(wrap):
    model = convolutions(wrap)
    model(X)
    before = model[1].weight
    small = sec.delete_channels(model, {"0": [1, 4]}, X)
    assert model[1].weight is before
    assert small[1].weight.shape == (8, 6, 3, 3)
    again = sec.apply(model, Cut.from_json(sec.report_of(small).cut.to_json()), X, proof=False)
    assert torch.equal(again(X), small(X))


def test_a_copy_shares_tensors_and_nothing_else():
    model = convolutions()
    model.table, model.kept = {"a": torch.ones(2)}, [1]
    copy = share_tensors(model)
    assert copy[0] is not model[0]
    assert copy[0].weight is model[0].weight
    assert copy.table["a"] is model.table["a"]
    copy.kept.append(2)
    copy.eval()[0].training = True
    assert model.kept == [1]
    assert not model[0].training
    assert share_tensors(model, [Cache("", "table", "a")]).table == {}


def test_buffers_of_one_memory_share_one_in_the_copy():
    model = nn.BatchNorm1d(4)
    model.register_buffer("alike", model.running_mean.detach())
    model.register_buffer("part", model.running_mean[1:3])
    copy = copy_model(model)
    copy.running_mean += 1
    assert copy.alike.tolist() == [1.0] * 4
    assert copy.part.tolist() == [1.0] * 2
    assert model.running_mean.tolist() == [0.0] * 4
    assert copy.running_var.data_ptr() != model.running_var.data_ptr()


def test_a_copied_buffer_keeps_its_layout_and_its_attributes():
    model = nn.Module()
    model.register_buffer("turned", torch.arange(6.0).reshape(2, 3).t())
    model.register_buffer("noted", torch.ones(2))
    model.noted.source = "a file"
    copy = copy_model(model)
    assert copy.turned.stride() == (1, 3)
    assert torch.equal(copy.turned, model.turned)
    assert copy.noted.source == "a file"


def test_a_module_is_found_by_its_path():
    model = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))
    assert find_module(model, "") is model
    assert find_module(model, "0.1") is model.get_submodule("0.1")
    with pytest.raises(AttributeError, match="7"):
        find_module(model, "0.7")


class Counting(nn.Module):
    """Counts its passes in a buffer, in place, and in an attribute, and writes into its input."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))
        self.register_buffer("last", torch.zeros(2, 4))
        self.calls = 0

    def forward(self, x):
        self.passes += 1
        self.calls += 1
        x.mul_(2)
        self.last[:, :2] = x[:2, :2]
        return self.b(self.a(x).relu()) + self.passes


def test_what_a_forward_pass_writes_into_is_put_back():
    torch.manual_seed(0)
    model, inputs = Counting(), torch.rand(2, 4)
    given, state = inputs.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    network = sec.trace(model, inputs)
    small = sec.apply(model, network.cut({"a": [0, 2]}), inputs, network=network)
    assert torch.equal(inputs, given)
    assert model.calls == 0
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert int(small.passes) == 0


def test_random_states_are_unchanged():
    class Noisy(nn.Sequential):
        def forward(self, x):
            return super().forward(x + torch.rand_like(x) * 0 + torch.randperm(x.shape[-1]) * 0)

    model = Noisy(nn.Linear(4, 6), nn.Dropout(), nn.Linear(6, 2))
    inputs = torch.rand(2, 4)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    sec.delete_channels(model, {"0": [1]}, inputs)
    assert torch.equal(torch.rand(4), expected)


def test_what_cannot_be_copied_is_shared():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    model.lock, model[1].all = threading.Lock(), {"a": [(n for n in range(3))]}
    small = sec.delete_channels(model, {"0": [1]}, torch.rand(2, 4))
    assert small.lock is model.lock
    assert small[0].out_features == 5


def test_threads_that_prune_one_model_at_once_leave_each_other_alone():
    model, results, wrong = convolutions().train(), {}, []
    gate = threading.Barrier(4)
    expected = sec.prune(convolutions(), X, amount=0.5).model(X)

    def work(number):
        try:
            gate.wait(10)
            for _ in range(3):
                results[number] = sec.prune(model, X, amount=0.5).model
        except BaseException as error:  # noqa: BLE001 - told by the test
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(torch.equal(small(X), expected) for small in results.values())
    assert all(module.training for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_another_threads_model_is_not_hooked():
    """Its layer runs from before one pass of the model that is pruned to after it."""
    inside, go_on, seen = threading.Event(), threading.Event(), []

    class Slow(nn.Module):
        def forward(self, x):
            inside.set()
            go_on.wait(10)
            return x

    class Pruned(nn.Sequential):
        def forward(self, x):
            if not inside.is_set():
                serving.start()
                inside.wait(10)
            elif not go_on.is_set():
                go_on.set()
                serving.join()
            return super().forward(x)

    served = nn.Sequential(Slow(), nn.Identity())
    serving = threading.Thread(target=lambda: seen.append(served(X)))
    small = sec.prune(Pruned(*convolutions()), X, amount=0.5).model
    assert small[0].out_channels == 4
    assert seen[0] is X


class Copied(nn.Module):
    """Copies itself in its own way."""

    def __init__(self):
        super().__init__()
        self.copies = 0

    def __deepcopy__(self, memo):
        made = Copied()
        made.copies = self.copies + 1
        return made


def test_a_copy_by_state_is_what_deepcopy_makes():
    from secateurs.pytorch.model.copies import copy_value

    shared = {"seen": []}
    one, other = nn.Linear(2, 2), nn.GRU(2, 3)
    model = nn.Sequential(one, one, other, Copied(), nn.BatchNorm1d(2))
    one.table, other.table = shared, shared
    one.sizes, one.names, one.pair = [1, [2]], {"a", "b"}, (1, (2, [3]))
    made, expected = copy_value(model, {}), copy.deepcopy(model)
    assert made[0] is made[1]
    assert made[0].table is made[2].table is not shared
    assert made[3].copies == 1
    for mine, theirs, dense in zip(
        made.modules(), expected.modules(), model.modules(), strict=True
    ):
        assert vars(mine).keys() == vars(theirs).keys()
        assert type(mine) is type(theirs) is type(dense)
        assert mine is not dense
        for key in ("sizes", "names", "pair", "table"):
            assert vars(mine).get(key) == vars(theirs).get(key)
        assert mine._parameters is not dense._parameters
        assert mine._forward_hooks is not dense._forward_hooks
    assert made[0].sizes[1] is not one.sizes[1]
    assert made[0].pair[1][1] is not one.pair[1][1]
    assert all(
        torch.equal(a, b) and a is not b
        for a, b in zip(made.parameters(), model.parameters(), strict=True)
    )
    assert torch.equal(made[2](torch.ones(1, 2))[0], other(torch.ones(1, 2))[0])


@pytest.mark.parametrize("is_first", [True, False])
def test_what_is_copied_deeply_holds_the_models_own_tensors_too(is_first):
    """What only ``deepcopy`` can copy, met before or after the layer whose weight it has."""

    class Holder:
        def __init__(self, tensor):
            self.tensor = tensor

    model = nn.Sequential(nn.Linear(3, 2))
    holder = Holder(model[0].weight)
    if is_first:
        vars(model)["holder"] = holder
        model.__dict__ = {"holder": holder, **vars(model)}
    else:
        model[0].holder = holder
    shared = share_tensors(model)
    kept = shared.holder if is_first else shared[0].holder
    assert kept is not holder
    assert kept.tensor is model[0].weight
    assert shared[0].weight is model[0].weight


def test_a_model_with_a_hubs_mixin_is_copied_as_others_are(monkeypatch):
    class FromHub:
        def __new__(cls, *arguments, **keywords):
            made = super().__new__(cls)
            made.card = ["made"]
            return made

    class Model(nn.Module, FromHub):
        def __init__(self, width):
            super().__init__()
            self.layer, self.kept = nn.Linear(width, 2), {"width": width}

    model = Model(3)
    model.card.append("changed")
    expected = copy.deepcopy(model)
    monkeypatch.setattr(copy, "deepcopy", None)  # it takes ten times as long
    made = share_tensors(model)
    assert made.layer.weight is model.layer.weight
    assert made.kept == expected.kept == {"width": 3}
    assert made.kept is not model.kept
    assert made.card == expected.card == ["made", "changed"]
    assert made.card is not model.card
    assert vars(made).keys() == vars(expected).keys()
