import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from support.traced import check_cut_of_everything, conv, groups_of, image, trace


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
    assert any("hard-coded at" in reason and "test_movement.py" in reason for reason in reasons)
    del model


@pytest.mark.parametrize("pieces", [lambda x: torch.tensor_split(x, 4, 1), lambda x: x.hsplit(4)])
def test_pieces_in_another_order_stay_equal(pieces):
    """However many there are: where a length cannot be divided, the first pieces are longer."""
    model, network = trace(
        lambda m, x: m.b(torch.cat(pieces(m.a(x))[::-1], 1)), a=conv(3, 16), b=conv(16, 2)
    )
    assert {name: count for name, (count, _) in groups_of(network).items()} == {"a/4x4": 4}
    check_cut_of_everything(model, network, image())


class SharedKeys(nn.Module):
    """Six query heads of width 4 that share the keys of two, repeated in one of several ways."""

    def __init__(self, way):
        super().__init__()
        self.way, self.width, self.copies = way, 4, 3
        self.q, self.k, self.v = (nn.Linear(5, heads * 4) for heads in (6, 2, 2))
        self.o = nn.Linear(24, 5)

    def repeat(self, x):
        n, heads, length, width = x.shape
        if self.way == "interleaved":
            return x.repeat_interleave(self.copies, dim=1)
        if self.way == "expanded":
            x = x[:, :, None].expand(n, heads, self.copies, length, width)
            return x.reshape(n, heads * self.copies, length, width)
        return x.unsqueeze(2).repeat(1, 1, self.copies, 1, 1).flatten(1, 2)

    def forward(self, x):
        q, k, v = (
            part(x).view(len(x), x.shape[1], -1, self.width).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, self.repeat(k), self.repeat(v))
        return self.o(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("way", ["interleaved", "expanded", "repeated"])
def test_one_of_the_query_heads_that_share_keys_can_go(way):
    torch.manual_seed(0)
    model, x = SharedKeys(way).eval(), torch.randn(2, 3, 5)
    network = sec.trace(model, x)
    assert {group.name: len(group) for group in network.groups} == {
        "q.key_value_groups": 2,
        "q.heads_per_group": 3,
        "q.head_width": 4,
    }
    cut = network.cut({"q.heads_per_group": [1]})
    small = sec.apply(model, cut, x, network=network, proof="independent")
    assert small.copies == 2
    kept = [position for head in (0, 2, 3, 5) for position in range(4 * head, 4 * head + 4)]
    by_hand = SharedKeys(way).eval()
    by_hand.copies = 2
    by_hand.q, by_hand.o = nn.Linear(5, 16), nn.Linear(16, 5)
    by_hand.k, by_hand.v = model.k, model.v
    with torch.no_grad():
        by_hand.q.weight.copy_(model.q.weight[kept])
        by_hand.q.bias.copy_(model.q.bias[kept])
        by_hand.o.weight.copy_(model.o.weight[:, kept])
        by_hand.o.bias.copy_(model.o.bias)
        torch.testing.assert_close(small(x), by_hand(x), atol=1e-6, rtol=0)


def test_as_many_copies_as_heads_of_the_keys_go_with_their_head():
    """A number in the code may be either, so that all copies of a head are one."""

    class Square(SharedKeys):
        def __init__(self):
            super().__init__("expanded")
            self.copies = 2
            self.q, self.o = nn.Linear(5, 16), nn.Linear(16, 5)

    network = sec.trace(Square().eval(), torch.randn(2, 3, 5))
    assert {group.name: len(group) for group in network.groups} == {"q.heads": 2, "q.head_width": 4}
