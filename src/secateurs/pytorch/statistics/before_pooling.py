"""Find the activations that pooled values come from, on a tape."""

from __future__ import annotations

from collections.abc import Sequence

from secateurs.calibration.before_pooling import Activation, Effect, Origins, activations_read
from secateurs.channels.equations import Ids, Solution
from secateurs.pytorch.replay.tape import Operand, Ref, Step, Tape
from secateurs.pytorch.tracing.op_call import Call
from secateurs.pytorch.tracing.op_record import OpRecord

POOLING = ("pool", "upsample", "_pad", "aten.pad", "batch_norm")
"""Parts of the names of operations that pool, resample, pad, or shift and scale channels."""

REDUCING = frozenset({"aten.mean", "aten.amax", "aten.max", "aten.sum"})
"""Operations that pool over whole axes; with two operands, a maximum is an activation."""

MOVING = (
    "view view_as reshape flatten unflatten squeeze unsqueeze permute transpose t mT mH numpy_T "
    "clone contiguous ravel dropout "
    "feature_dropout alias detach expand _unsafe_view movedim moveaxis swapaxes flip roll repeat "
    "repeat_interleave pixel_shuffle pixel_unshuffle channel_shuffle select slice narrow split "
    "split_with_sizes chunk tensor_split unbind index_select unfold as_strided _to_copy to"
)
"""Operations whose results hold the values of their operand."""

EFFECTS = {
    **{f"aten.{name}": Effect.MOVES for name in MOVING.split()},
    **{f"aten.{name}": Effect.JOINS for name in ("cat", "stack", "concat", "hstack")},
    **{f"aten.{name}": Effect.ADDS for name in ("add", "sub")},
    **{f"aten.{name}": Effect.CHOOSES for name in ("maximum", "minimum", "max", "min")},
    **{f"aten.{name}": Effect.SCALES for name in ("mul", "div")},
}
"""Effects by name; in-place operations are looked up without their underscore."""


def effect_of(name: str, operands: int) -> Effect:
    """The effect of an operation of this name on its operands' values."""
    if any(part in name for part in POOLING) or (name in REDUCING and operands == 1):
        return Effect.POOLS
    return EFFECTS.get(name, Effect.ACTS)


class Pooled:
    """The activations that every value of a run was pooled from."""

    def __init__(self, tape: Tape, operations: Sequence[OpRecord], solution: Solution) -> None:
        self._operations = operations
        self._solution = solution
        self._origins = Origins()
        self._steps: dict[int, Step] = {step.number: step for step in tape.steps}
        live = tape.depending_on_inputs()
        for step in tape.steps:
            keys = [operand if operand in live else None for operand in step.operands]
            results = [Ref(step.number, item) for item in range(step.results)]
            name = operations[step.number].name.removesuffix("_")
            effect = effect_of(name, len(keys))
            if self._is_depthwise(step):
                effect = Effect.POOLS
            self._origins.follow(step.number, effect, keys, results)

    def _is_depthwise(self, step: Step) -> bool:
        """Whether it is a convolution that makes of each channel one, as a weighted pool does."""
        groups = Call(step.function, step.arguments, step.keywords).get("groups", 1)
        if groups == 1 or not isinstance(step.operands[0], Ref):
            return False
        read = self._operations[step.operands[0].step].outputs[step.operands[0].item][0]
        made = self._operations[step.number].outputs[0][0]
        return bool(read[1] == made[1] == groups)

    def activations_of(self, read: Operand, units: Ids) -> tuple[Activation, ...]:
        """The activations that the values read at a source are pooled from, if they are pooled."""
        origins = []
        for origin in self._origins.of(read):
            source = self._steps[origin.step].operands[origin.operand]
            if isinstance(source, Ref):
                origins.append((origin, self._operations[source.step].outputs[source.item][1]))
        return activations_read(self._solution, units, origins) if origins else ()
