"""Rules for fake quantisation: values are rounded to the steps of a scale, per tensor or channel.

The channels of the values, the scales, the zero points and an observer's running ranges are equal,
as in batch normalisation. An active observer takes the range over all values, so it mixes channels.
"""

from __future__ import annotations

import torch

from secateurs.channels.network import Role
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import Place
from secateurs.pytorch.tracing.rules.registry import packets, rule
from secateurs.pytorch.tracing.tracer import Tracer

KEPT = ("scale", "zero_point", "running_min", "running_max")
"""Arguments with one element for each channel, or one for all of them."""


@rule(
    *packets(
        "fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask "
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams "
        "_fake_quantize_learnable_per_tensor_affine _fake_quantize_learnable_per_channel_affine "
        "_fused_moving_avg_obs_fq_helper"
    )
)
def fake_quantise(tracer: Tracer, call: Call) -> object:
    """``round(x / scale + zero) ...``, and a mask of the values within the range."""
    x: torch.Tensor = call["self"]
    output = call.run()
    is_observer = "observer_on" in call.named
    axis = call.get("ch_axis" if is_observer else "axis", 0)
    if not is_observer or call.get("per_row_fake_quant", False):
        for name in KEPT:
            kept = call.get(name)
            if isinstance(kept, torch.Tensor) and kept.numel() > 1:
                tracer.unify([Place(x, axis), Place(kept, 0)])
                tracer.play(Place(kept, 0), Role.OTHER)
    axes = dict(tracer.axes(x))
    if is_observer and _is_on(call["observer_on"]):
        each = axis if call.get("per_row_fake_quant", False) else None
        tracer.mixes(call, [units for at, units in axes.items() if at != each])
    for result in iterate_tensors(output):
        tracer.put(result, axes)
    return output


def _is_on(switch: torch.Tensor) -> bool:
    """Whether a switch of one element is on; one on the meta device counts as on."""
    return switch.is_meta or bool(switch.any())
