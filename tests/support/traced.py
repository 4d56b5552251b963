"""Small networks around one operation, traced, with a cut of everything in them."""

import torch
from torch import nn
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


def conv(i, o, k=3, **kwargs):
    return nn.Conv2d(i, o, k, padding=k // 2, **kwargs)


def image(channels=3, size=8, batch=1):
    return torch.randn(batch, channels, size, size)


def trace(forward, *inputs, **layers):
    model = Net(forward, **layers)
    return model, sec.trace(model, inputs if inputs else image())


def groups_of(network):
    """Group name -> (channels, {(tensor, axis): indices of that axis for each channel})."""
    return {
        group.name: (len(group), {(m.tensor, m.axis): m.each for m in group.members})
        for group in network.groups
    }


def check_cut_of_everything(model, network, inputs):
    """Cut a third of every group; the proof is inside ``apply``."""
    cut = network.cut({g.name: range(max(1, len(g) // 3)) for g in network.groups if len(g) > 1})
    small = sec.apply(model, cut, inputs, network=network)
    assert sum(p.numel() for p in small.parameters()) == cut.after.params < cut.before.params
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(*inputs) if isinstance(inputs, tuple) else small(inputs)
    assert counter.get_total_flops() == 2 * cut.after.macs
    return small
