"""What a trace finds, for every kind of coupling, worked out by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from support.traced import Net, check_cut_of_everything, conv, groups_of, image, trace


def test_a_chain():
    model, network = trace(
        lambda m, x: m.head(F.relu(m.norm(m.first(x))).mean((2, 3))),
        first=conv(3, 6),
        norm=nn.BatchNorm2d(6),
        head=nn.Linear(6, 2),
    )
    assert groups_of(network) == {
        "first": (
            6,
            {
                ("first.weight", 0): 1,
                ("first.bias", 0): 1,
                ("norm.weight", 0): 1,
                ("norm.bias", 0): 1,
                ("head.weight", 1): 1,
                ("norm.running_mean", 0): 1,
                ("norm.running_var", 0): 1,
            },
        )
    }
    reasons = {frozen.name: frozen.reasons for frozen in network.frozen}
    assert reasons["head"] == ("it is the network's output",)
    assert reasons["first (input)"] == ("combined with the network's input",)
    small = check_cut_of_everything(model, network, image())
    assert (small.first.out_channels, small.norm.num_features, small.head.in_features) == (4, 4, 4)


def test_a_residual_stream_is_one_group():
    _, network = trace(
        lambda m, x: m.head((m.a(x) + m.c(F.relu(m.b(m.a(x))))).mean((2, 3))),
        a=conv(3, 4),
        b=conv(4, 5),
        c=conv(5, 4),
        head=nn.Linear(4, 2),
    )
    stream, inner = network.groups
    assert (stream.name, len(stream), inner.name, len(inner)) == ("a", 4, "b", 5)
    assert {m.layer for m in stream.members} == {"a", "b", "c", "head"}


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.AdaptiveMaxPool2d(2),
        nn.LPPool2d(2, 2),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=2, mode="bicubic"),
        nn.ReflectionPad2d(1),
        nn.ReplicationPad2d(1),
        nn.ZeroPad2d(1),
        nn.CircularPad2d(1),
        nn.Dropout2d(),
        nn.PReLU(6),
        nn.PReLU(),
        nn.Softplus(),
        nn.Hardswish(),
        nn.RReLU(),
        nn.Threshold(0.1, 0.0),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_works_channel_by_channel_carries_channels(pool):
    model, network = trace(lambda m, x: m.b(m.pool(m.a(x))), a=conv(3, 6), pool=pool, b=conv(6, 2))
    assert [len(group) for group in network.groups] == [6]
    check_cut_of_everything(model, network, image())


def test_a_number_in_a_view_freezes_what_it_counts():
    def forward(m, x):
        y = m.a(x)
        return m.head(y.view(-1, 8, 64).mean(2)) + m.head2(F.relu(m.b(x)).mean((2, 3)))

    model, network = trace(
        forward, a=conv(3, 8), b=conv(3, 5), head=nn.Linear(8, 2), head2=nn.Linear(5, 2)
    )
    assert [group.name for group in network.groups] == ["b"]
    why = next(frozen.reasons for frozen in network.frozen if frozen.name == "a")
    assert "the number 8 is hard-coded at" in why[0]
    assert "test_trace_model.py" in why[0]
    check_cut_of_everything(model, network, image())


def test_shared_modules_and_tied_weights():
    model, network = trace(
        lambda m, x: m.head(F.relu(m.inner(F.relu(m.inner(m.a(x)))))),
        torch.randn(2, 3),
        a=nn.Linear(3, 6),
        inner=nn.Linear(6, 6),
        head=nn.Linear(6, 2),
    )
    assert [len(group) for group in network.groups] == [6]
    small = check_cut_of_everything(model, network, (torch.randn(2, 3),))
    assert small.inner.weight.shape == (4, 4)


def test_tied_weights_stay_tied():
    model = Net(
        lambda m, x: m.head(F.relu(m.b(F.relu(m.a(x))))),
        a=nn.Linear(6, 6),
        b=nn.Linear(6, 6),
        head=nn.Linear(6, 2),
    )
    model.b.weight = model.a.weight
    network = sec.trace(model, torch.randn(2, 6))
    assert network.groups == ()  # a's inputs are the network's input, and b's are a's outputs
    assert network.tensors["a.weight"].aliases == ("b.weight",)
    model = Net(
        lambda m, x: m.head(F.relu(m.b(F.relu(m.a(F.relu(m.first(x))))))),
        first=nn.Linear(3, 6),
        a=nn.Linear(6, 6),
        b=nn.Linear(6, 6),
        head=nn.Linear(6, 2),
    )
    model.b.weight = model.a.weight
    network = sec.trace(model, torch.randn(2, 3))
    small = check_cut_of_everything(model, network, torch.randn(2, 3))
    assert small.a.weight is small.b.weight
    assert (small.a.in_features, small.b.in_features, small.b.out_features) == (4, 4, 4)


def test_bare_parameters_and_tensors():
    model = Net(
        lambda m, x: m.b(m.a(x) * m.scale[:, None, None] + m.shift),
        a=conv(3, 6),
        b=conv(6, 2),
        scale=nn.Parameter(torch.randn(6)),
    )
    model.shift = torch.randn(1, 6, 1, 1)  # neither parameter nor buffer
    network = sec.trace(model, image())
    (group,) = network.groups
    assert {m.tensor for m in group.members} >= {"scale", "shift", "a.weight", "b.weight"}
    small = check_cut_of_everything(model, network, image())
    assert small.scale.shape == (4,)
    assert small.shift.shape == (1, 4, 1, 1)


def test_weights_computed_in_the_forward_pass():
    def standardise(m, x):
        w = m.a.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return m.b(F.conv2d(F.relu(m.first(x)), w, m.a.bias, padding=1))

    model, network = trace(standardise, first=conv(3, 4), a=conv(4, 6), b=conv(6, 2))
    assert network.group("a")
    check_cut_of_everything(model, network, image())


def test_functional_layers_need_no_modules():
    def forward(m, x):
        x = F.relu(F.conv2d(x, m.w1))
        return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), m.w2)

    model, network = trace(
        forward, w1=nn.Parameter(torch.randn(6, 3, 3, 3)), w2=nn.Parameter(torch.randn(2, 6))
    )
    assert [(g.name, len(g)) for g in network.groups] == [("w1", 6)]
    check_cut_of_everything(model, network, image())


def test_dictionaries_tuples_and_several_inputs():
    model = Net(
        lambda m, x, y: {"one": m.c(m.a(x) + m.b(y)), "two": [m.a(x).mean()]},
        a=conv(3, 4),
        b=conv(2, 4),
        c=conv(4, 2),
    )
    inputs = {"x": image(3), "y": image(2)}
    network = sec.trace(model, inputs)
    assert [len(group) for group in network.groups] == [4]
    small = sec.apply(model, network.cut({"a": [0]}), inputs, network=network)
    assert small.b.out_channels == 3


def test_numpy_inputs_and_other_dtypes():
    model = Net(lambda m, x: m.b(F.relu(m.a(x))), a=conv(3, 4), b=conv(4, 2)).double()
    inputs = image().numpy()
    network = sec.trace(model, inputs)
    small = sec.apply(model, network.cut({"a": [0]}), inputs, network=network)
    assert small.a.weight.dtype is torch.float64
    assert sec.report_of(small).max_difference < 1e-12
    half = Net(lambda m, x: m.b(F.relu(m.a(x))), a=conv(3, 4), b=conv(4, 2)).bfloat16()
    network = sec.trace(half, inputs)
    small = sec.apply(half, network.cut({"a": [0]}), inputs, network=network)
    assert small.b.weight.dtype is torch.bfloat16


def test_control_flow_and_in_place_operations():
    def forward(m, x):
        x = m.a(x)
        for layer in m.layers if x.shape[1] > 1 else ():
            x = F.relu_(layer(x)).add_(x)
        x[:, :, 0] = 0
        return m.b(x)

    model, network = trace(
        forward, a=conv(3, 4), layers=nn.ModuleList([conv(4, 4), conv(4, 4)]), b=conv(4, 2)
    )
    assert [(group.name, len(group)) for group in network.groups] == [("a", 4)]
    check_cut_of_everything(model, network, image())


class Keeps(nn.Module):
    """Keeps things as it runs, as models do with positions and caches."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.steps, self.cache, self.last = [1, 2], {"a": 0}, None
        self.table = {"a": 0}

    def forward(self, x):
        self.last = self.new = x
        self.steps[0] = self.cache["a"] = self.cache["b"] = self.table["a"] = 5
        self.steps.append(3)
        return self.b(self.a(x))


def test_what_a_forward_pass_keeps_is_put_back():
    model, x = Keeps(), torch.randn(2, 3)
    steps, cache, fast = model.steps, model.cache, torch.backends.mha.get_fastpath_enabled()
    small = sec.delete_channels(model, {"a": [0]}, x)
    assert (model.steps, model.cache, model.last) == ([1, 2], {"a": 0}, None)
    assert model.table == small.table == {"a": 0}
    assert model.steps is steps
    assert model.cache is cache
    assert not hasattr(model, "new")
    assert (small.steps, small.cache, small.last) == ([1, 2], {"a": 0}, None)
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_the_table_can_be_read():
    _, network = trace(
        lambda m, x: m.head(F.relu(m.norm(m.first(x))).mean((2, 3))),
        first=conv(3, 6),
        norm=nn.BatchNorm2d(6),
        head=nn.Linear(6, 2),
    )
    shown = str(network)
    row = next(line for line in shown.splitlines() if line.startswith("first "))
    assert "6" in row
    assert "first, norm, head" in row
    assert "it is the network's output" in shown


def test_a_forward_that_raises_is_reported_with_the_shapes():
    with pytest.raises(sec.ModelError, match=r"received example_inputs of \(1, 5, 8, 8\)|Received"):
        trace(lambda m, x: m.a(x), image(5), a=conv(3, 4))


def test_only_modules_are_traced():
    with pytest.raises(sec.ModelError, match="received str"):
        sec.trace("resnet18", image())
