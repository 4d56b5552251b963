"""Rules for torchvision's operations; torchvision need not be installed."""

from __future__ import annotations

from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.rules.contraction import convolve, weight_name
from secateurs.pytorch.tracing.rules.registry import rule
from secateurs.pytorch.tracing.tracer import Tracer


@rule("torchvision::deform_conv2d")
def deformable_convolution(tracer: Tracer, call: Call) -> object:
    """A convolution that samples at positions moved by ``offset``, weighted by ``mask``.

    Offsets and weights belong to the taps of the kernel, so their channels are frozen. So are those
    of the input where groups of channels have offsets of their own.
    """
    x, weight = call["input"], call["weight"]
    layer = "a deformable convolution"
    tracer.freeze_known(x, f"{layer} runs along this axis", (2, 3))
    for name in ("offset", "mask"):
        tracer.freeze_known(call[name], f"sampling positions of {layer}", range(call[name].dim()))
    if call["offset_groups"] > 1:
        tracer.freeze_known(x, f"groups of channels with their own offsets in {layer}", (1,))
    output = convolve(tracer, call, call.run_one())
    sides = {"in_channels": (x, 1), "out_channels": (output, 1)}
    for attribute, (tensor, axis) in sides.items():
        units = tracer.labels(tensor).axes.get(axis)
        if units is not None:
            tracer.counts[weight_name(tracer, weight) or tracer.layer, attribute] = units
    return output


@rule("torchvision::roi_align", "torchvision::roi_pool")
def regions(tracer: Tracer, call: Call) -> object:
    """Regions of an image, each resampled to one size; channels are carried."""
    x = call["input"]
    tracer.freeze_known(x, f"{call.name} samples regions along this axis", (0, 2, 3))
    tracer.freeze_known(call["rois"], f"regions for {call.name}", (0, 1))
    output = call.run()
    for tensor in iterate_tensors(output):
        tracer.put(tensor, {1: tracer.axes(x).get(1)})
    return output
