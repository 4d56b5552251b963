"""What tracing finds, for every kind of coupling: channels worked out by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import secateurs as sec


class Net(nn.Module):
    """Layers by name and a forward given as a function, so that each test reads in one place."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            if isinstance(layer, nn.Parameter):
                self.register_parameter(name, layer)
            else:
                setattr(self, name, layer)
        self._forward = forward

    def forward(self, *args, **kwargs):
        return self._forward(self, *args, **kwargs)


def groups_of(network):
    """Group name -> (channels, {(tensor, axis): indices of that axis for each channel})."""
    return {
        group.name: (len(group), {(m.tensor, m.axis): m.each for m in group.members})
        for group in network.groups
    }


def trace(forward, *inputs, **layers):
    model = Net(forward, **layers)
    return model, sec.trace(model, inputs if inputs else image())


def image(channels=3, size=8, batch=1):
    return torch.randn(batch, channels, size, size)


def conv(i, o, k=3, **kwargs):
    return nn.Conv2d(i, o, k, padding=k // 2, **kwargs)


def check_cut_of_everything(model, network, inputs):
    """Cut a third of every group; the proof is inside ``apply``."""
    cut = network.cut({g.name: range(max(1, len(g) // 3)) for g in network.groups if len(g) > 1})
    small = sec.apply(model, cut, inputs, network=network)
    assert sum(p.numel() for p in small.parameters()) == cut.after.params < cut.before.params
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(*inputs) if isinstance(inputs, tuple) else small(inputs)
    assert counter.get_total_flops() == 2 * cut.after.macs
    return small


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
    assert reasons["first (input)"] == ("meets the network's input",)
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


def test_concatenation_keeps_its_parts_apart():
    model, network = trace(
        lambda m, x: m.head(torch.cat([m.a(x), m.b(x)], 1).mean((2, 3))),
        a=conv(3, 4),
        b=conv(3, 6),
        head=nn.Linear(10, 2),
    )
    __, b = network.groups
    head = next(m for m in b.members if m.tensor == "head.weight")
    assert network.positions(b, head).ravel().tolist() == [4, 5, 6, 7, 8, 9]
    check_cut_of_everything(model, network, image())


def test_flatten_gives_each_channel_all_its_positions():
    _, network = trace(
        lambda m, x: m.head(F.adaptive_avg_pool2d(m.a(x), 2).flatten(1)),
        a=conv(3, 4),
        head=nn.Linear(16, 2),
    )
    (group,) = network.groups
    head = next(m for m in group.members if m.tensor == "head.weight")
    assert head.each == 4
    assert network.positions(group, head).tolist() == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [12, 13, 14, 15],
    ]


def test_a_grouped_convolution_offers_groups_and_channels_inside():
    model, network = trace(
        lambda m, x: m.head(m.grouped(m.a(x)).mean((2, 3))),
        a=conv(3, 8),
        grouped=conv(8, 12, groups=4),
        head=nn.Linear(12, 2),
    )
    found = groups_of(network)
    assert found["a/4x2"][0] == 4  # four groups, two inputs and three filters each
    assert found["a/4x2"][1]["grouped.weight", 0] == 3
    assert found["a/2x4"][0] == 2  # two inputs in each group, four groups
    assert found["a/2x4"][1]["grouped.weight", 1] == 1
    assert found["grouped/3x4"][0] == 3
    small = check_cut_of_everything(model, network, image())
    assert (small.grouped.groups, small.grouped.in_channels, small.grouped.out_channels) == (
        3,
        3,
        6,
    )
    assert small.grouped.weight.shape == (6, 1, 3, 3)


def test_a_depthwise_convolution_belongs_to_its_input():
    model, network = trace(
        lambda m, x: m.b(m.depthwise(m.a(x))),
        a=conv(3, 6),
        depthwise=conv(6, 6, groups=6),
        b=conv(6, 2),
    )
    (group,) = network.groups
    assert {m.tensor for m in group.members} == {
        "a.weight",
        "a.bias",
        "depthwise.weight",
        "depthwise.bias",
        "b.weight",
    }
    small = check_cut_of_everything(model, network, image())
    assert (small.depthwise.groups, small.depthwise.in_channels) == (4, 4)


def test_a_depthwise_multiplier():
    model, network = trace(
        lambda m, x: m.b(m.depthwise(m.a(x))),
        a=conv(3, 6),
        depthwise=conv(6, 12, groups=6),
        b=conv(12, 2),
    )
    assert {name: count for name, (count, _) in groups_of(network).items()} == {
        "a": 6,
        "depthwise/2x6": 2,
    }
    check_cut_of_everything(model, network, image())


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_transposed_convolutions(groups):
    model, network = trace(
        lambda m, x: m.b(m.up(m.a(x))),
        a=conv(3, 6),
        up=nn.ConvTranspose2d(6, 6, 2, stride=2, groups=groups),
        b=conv(6, 2),
    )
    assert network.groups
    check_cut_of_everything(model, network, image())


@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_of_sequences_and_volumes(rank):
    kind = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
    norm = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[rank]
    model, network = trace(
        lambda m, x: m.b(F.relu(m.norm(m.a(x)))),
        torch.randn(1, 3, *[6] * rank),
        a=kind(3, 6, 3),
        norm=norm(6),
        b=kind(6, 2, 1),
    )
    assert [len(group) for group in network.groups] == [6]
    check_cut_of_everything(model, network, (torch.randn(1, 3, *[6] * rank),))


def test_group_norm_is_exact_by_whole_groups_and_said_to_be_inexact_inside():
    model, network = trace(
        lambda m, x: m.b(F.relu(m.norm(m.a(x)))),
        a=conv(3, 8),
        norm=nn.GroupNorm(4, 8),
        b=conv(8, 2),
    )
    groups, inside = network.group("a/4x2"), network.group("a/2x4")
    assert groups.inexact == ()
    assert inside.inexact == ("group_norm over channels in norm",)
    whole = sec.apply(model, network.cut({"a/4x2": [1]}), image(), network=network)
    assert (whole.norm.num_groups, whole.norm.num_channels) == (3, 6)
    assert sec.report_of(whole).proof.inexact == ()
    part = sec.apply(model, network.cut({"a/2x4": [1]}), image(), network=network)
    assert (part.norm.num_groups, part.norm.num_channels) == (4, 4)
    assert sec.report_of(part).proof.inexact == ("group_norm over channels in norm",)


def test_layer_norm_is_followed_and_said_to_be_inexact():
    model, network = trace(
        lambda m, x: m.head(m.norm(m.a(x))),
        torch.randn(2, 5, 4),
        a=nn.Linear(4, 6),
        norm=nn.LayerNorm(6),
        head=nn.Linear(6, 2),
    )
    assert network.group("a").inexact == ("layer_norm over channels in norm",)
    small = check_cut_of_everything(model, network, (torch.randn(2, 5, 4),))
    assert small.norm.normalized_shape == (4,)


@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm_is_exact(affine):
    model, network = trace(
        lambda m, x: m.b(m.norm(m.a(x))),
        a=conv(3, 6),
        norm=nn.InstanceNorm2d(6, affine=affine),
        b=conv(6, 2),
    )
    assert [group.inexact for group in network.groups] == [()]
    check_cut_of_everything(model, network, image())


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


@pytest.mark.parametrize("as_module", [True, False])
def test_channel_shuffle_keeps_rows_and_offers_columns(as_module):
    shuffle = nn.ChannelShuffle(2)

    def by_hand(x):
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)

    model, network = trace(
        lambda m, x: m.b(shuffle(m.a(x)) if as_module else by_hand(m.a(x))),
        a=conv(3, 8),
        b=conv(8, 2),
    )
    # The 2 is baked in, so pairs of channels go: one of each row.
    assert {name: count for name, (count, _) in groups_of(network).items()} == {"a/4x2": 4}
    check_cut_of_everything(model, network, image())


def test_pixel_shuffle_and_back():
    model, network = trace(
        lambda m, x: m.c(F.pixel_unshuffle(m.b(F.pixel_shuffle(m.a(x), 2)), 2)),
        a=conv(3, 24),
        b=conv(6, 5),
        c=conv(20, 2),
    )
    assert {name: count for name, (count, _) in groups_of(network).items()} == {"a/6x4": 6, "b": 5}
    check_cut_of_everything(model, network, image())


def test_squeeze_and_excitation():
    model, network = trace(
        lambda m, x: m.b(
            m.a(x) * torch.sigmoid(m.up(F.relu(m.down(F.adaptive_avg_pool2d(m.a(x), 1)))))
        ),
        a=conv(3, 8),
        down=conv(8, 3, 1),
        up=conv(3, 8, 1),
        b=conv(8, 2),
    )
    assert {name: count for name, (count, _) in groups_of(network).items()} == {"a": 8, "down": 3}
    check_cut_of_everything(model, network, image())


@pytest.mark.parametrize("how", ["chunk", "split", "sections", "glu", "slices"])
def test_halves_of_a_gate_lose_the_same_channels(how):
    def halves(x):
        if how == "chunk":
            return x.chunk(2, 1)
        if how == "split":
            return x.split(x.shape[1] // 2, 1)
        if how == "sections":
            return torch.tensor_split(x, 2, 1)
        return x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]

    def forward(m, x):
        if how == "glu":
            return m.b(F.glu(m.a(x), 1))
        value, gate = halves(m.a(x))
        return m.b(value * gate.sigmoid())

    model, network = trace(forward, a=conv(3, 8), b=conv(4, 2))
    assert {name: count for name, (count, _) in groups_of(network).items()} == {"a/4x2": 4}
    check_cut_of_everything(model, network, image())


def test_unequal_parts_of_fixed_size_are_frozen_with_the_line():
    def forward(m, x):
        left, right = torch.split(m.a(x), [2, 6], 1)
        return m.b(left) + m.c(right)

    model, network = trace(forward, a=conv(3, 8), b=conv(2, 2), c=conv(6, 2))
    assert network.groups == ()
    reasons = [reason for frozen in network.frozen for reason in frozen.reasons]
    assert any("baked in at" in reason and "test_trace_model.py" in reason for reason in reasons)
    del model


def test_a_number_in_a_view_freezes_what_it_counts():
    def forward(m, x):
        y = m.a(x)
        return m.head(y.view(-1, 8, 64).mean(2)) + m.head2(F.relu(m.b(x)).mean((2, 3)))

    model, network = trace(
        forward, a=conv(3, 8), b=conv(3, 5), head=nn.Linear(8, 2), head2=nn.Linear(5, 2)
    )
    assert [group.name for group in network.groups] == ["b"]
    why = next(frozen.reasons for frozen in network.frozen if frozen.name == "a")
    assert "the number 8 is baked in at" in why[0]
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
    def standardised(m, x):
        w = m.a.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return m.b(F.conv2d(F.relu(m.first(x)), w, m.a.bias, padding=1))

    model, network = trace(standardised, first=conv(3, 4), a=conv(4, 6), b=conv(6, 2))
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


@pytest.mark.parametrize(
    "multiply",
    [
        lambda x, w: x @ w.t(),
        lambda x, w: torch.mm(x, w.t()),
        lambda x, w: torch.addmm(torch.zeros(w.shape[0]), x, w.t()),
        lambda x, w: torch.einsum("bi,oi->bo", x, w),
        lambda x, w: (w @ x.t()).t(),
        lambda x, w: torch.matmul(x[:, None], w.t())[:, 0],
        lambda x, w: torch.bmm(x[:, None], w.t().expand(x.shape[0], -1, -1))[:, 0],
    ],
)
def test_matrix_products_of_every_kind(multiply):
    model, network = trace(
        lambda m, x: F.linear(F.relu(multiply(F.relu(m.a(x)), m.w)), m.out),
        torch.randn(4, 3),
        a=nn.Linear(3, 5),
        w=nn.Parameter(torch.randn(6, 5)),
        out=nn.Parameter(torch.randn(2, 6)),
    )
    assert sorted(len(group) for group in network.groups) == [5, 6]
    check_cut_of_everything(model, network, (torch.randn(4, 3),))


@pytest.mark.read_without_weights
def test_a_sum_over_channels_ignores_what_is_removed():
    model, network = trace(
        lambda m, x: m.b(m.a(x) * m.c(x).square().sum(1, keepdim=True)),
        a=conv(3, 4),
        c=conv(3, 6),
        b=conv(4, 2),
    )
    assert network.group("c").inexact == ()
    check_cut_of_everything(model, network, image())


def test_a_mean_over_channels_is_said_to_be_inexact():
    _, network = trace(
        lambda m, x: m.b(m.a(x) * m.c(x).mean(1, keepdim=True)),
        a=conv(3, 4),
        c=conv(3, 6),
        b=conv(4, 2),
    )
    assert "mean over channels" in network.group("c").inexact[0]
    assert network.group("a").inexact == ()


def test_unknown_operations_freeze_what_they_touch():
    def forward(m, x):
        odd = torch.histc(m.a(x), 4)
        return m.b(m.a(x)) * odd.mean() + m.c(F.relu(m.d(x)))

    _, network = trace(forward, a=conv(3, 4), b=conv(4, 2), c=conv(5, 2), d=conv(3, 5))
    assert [group.name for group in network.groups] == ["d"]
    why = next(frozen.reasons for frozen in network.frozen if frozen.name == "a")
    assert "aten::histc" in why[0]
    assert "test_trace_model.py" in why[0]


def test_softmax_over_channels_freezes_them():
    _, network = trace(lambda m, x: m.b(m.a(x).softmax(1)), a=conv(3, 4), b=conv(4, 2))
    assert network.groups == ()


def test_positions_are_not_channels():
    model = Net(
        lambda m, x: m.b(m.a(x) + m.positions),
        a=nn.Linear(3, 6),
        b=nn.Linear(6, 2),
        positions=nn.Parameter(torch.randn(1, 5, 6)),
    )
    inputs = torch.randn(2, 5, 3)
    network = sec.trace(model, inputs)
    (group,) = network.groups
    assert {(m.tensor, m.axis) for m in group.members if m.tensor == "positions"} == {
        ("positions", 2)
    }
    small = check_cut_of_everything(model, network, inputs)
    assert small.positions.shape == (1, 5, 4)


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
