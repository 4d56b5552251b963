"""Sites: the places in a model's pass where weights can be refitted, and what follows them.

A contraction may be followed by a batch normalisation, a constant factor for each channel, moves of
axes, a sum and a ReLU. The contraction can compensate an error of the sum's other operand; values
that a ReLU sets to zero need not be fitted; and the running mean of a batch normalisation can hold
an intercept where the contraction has no bias.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from secateurs.pytorch.reconstruction.contractions import NORMS, Map, map_of, norm_of
from secateurs.pytorch.reconstruction.program import Piece, call_of, readers_of
from secateurs.pytorch.replay.tape import Input, Ref, Slot, Step, TensorSource
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call
from secateurs.reconstruction.positions import Division, weigh_positions

MOVES = {
    aten.view,
    aten.reshape,
    aten._unsafe_view,
    aten.transpose,
    aten.permute,
    aten.unsqueeze,
    aten.squeeze,
    aten.flatten,
    aten.contiguous,
    aten.clone,
    aten.t,
}
IDENTITIES = {aten.dropout, aten.dropout_, aten.feature_dropout}
SUMS = {aten.add, aten.add_}
RELUS = {aten.relu, aten.relu_}
POSITION_NORMS = {
    aten.layer_norm: Division.DEVIATION,
    aten.rms_norm: Division.ROOT_MEAN_SQUARE,
}
COPIES = {aten._to_copy, aten.to, aten.clone}


@dataclass(eq=False, slots=True)
class Site:
    """One linear map whose weights can be refitted.

    Attributes:
        step: index of its operation.
        map: the map as matrix and patches.
        source: source of its input.
        bias: its own bias, or None.
        mean: running mean of the batch normalisation after it, or None; holds the intercept where
            there is no bias.
        scale: factor on each output before the sum, shape (outputs,).
        shift: term added to each output after that, shape (outputs,).
        joined: the other operand of the sum after it, or None.
        moves: steps that move axes before the sum.
        rectified: whether a ReLU comes next, and nothing else reads its input.
        normalised: whether batch normalisation follows.
        beyond: factor on each output by the batch normalisation after that ReLU; errors are
            weighted by it.
        division: what a normalisation of each position of the sum (the result, where there is no
            sum) divides by.
    """

    step: int
    map: Map
    source: TensorSource
    bias: torch.Tensor | None
    mean: torch.Tensor | None = None
    scale: torch.Tensor = field(default_factory=lambda: torch.ones(()))
    shift: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    joined: TensorSource | None = None
    moves: list[Step] = field(default_factory=list)
    rectified: bool = False
    normalised: bool = False
    beyond: torch.Tensor = field(default_factory=lambda: torch.ones(()))
    division: Division = Division.NONE

    @property
    def has_intercept(self) -> bool:
        """Whether there is a bias or a running mean to hold an intercept."""
        return self.bias is not None or self.mean is not None

    @property
    def importance(self) -> NDArray[np.float64]:
        """Weight of each output's error, by the factors that follow it; shape (groups, outputs)."""
        factor = self.scale.detach().double() * self.beyond.detach().double()
        squares = factor.square().expand(self._outputs())
        numbers: NDArray[np.float64] = squares.reshape(self.map.groups, -1).cpu().numpy()
        return numbers

    def _outputs(self) -> int:
        weight = self.map.weight
        geometry = self.map.geometry
        if self.map.norm is not None:
            return len(weight)
        if geometry is None:
            return weight.shape[1 if self.map.columns else 0]
        return weight.shape[1] * geometry.groups if geometry.transposed else len(weight)

    @torch.no_grad()
    def write_(self, matrix: NDArray[np.float64], intercept: NDArray[np.float64]) -> None:
        """Set the weights, and the intercept if there is a place for it."""
        self.map.weight.copy_(self.map.weight_from(matrix))
        flat = torch.from_numpy(np.ascontiguousarray(intercept.reshape(-1)))
        if self.bias is not None:
            self.bias.copy_(flat.to(self.bias.device, self.bias.dtype))
        elif self.mean is not None:
            present = self.mean.double().cpu()
            self.mean.copy_((present - flat).to(self.mean.device, self.mean.dtype))

    def move(self, value: torch.Tensor, piece: Piece) -> torch.Tensor:
        """A value in the result's shape, with its axes moved to their order at the sum."""
        for step in self.moves:
            present = value

            def find(source: Slot, present: torch.Tensor = present) -> object:
                return present if isinstance(source, Ref) else piece.find(source)

            call = call_of(piece.steps[step.number], find)
            value = call.function(*call.arguments, **call.keywords)
        return value

    def move_back(self, value: torch.Tensor, like: torch.Tensor, piece: Piece) -> torch.Tensor:
        """The reverse: a value in its order at the sum, in the shape of the result (``like``)."""
        if not self.moves:
            return value
        index = torch.arange(like.numel(), device=like.device).reshape(like.shape)
        places = self.move(index, piece).reshape(-1)
        found = torch.empty_like(value.reshape(-1))
        found[places] = value.reshape(-1)
        return found.reshape(like.shape)

    def weigh_rows(self, piece: Piece) -> torch.Tensor | None:
        """Weigh the error at each position, in the result's shape with one channel.

        Args:
            piece: pass of the dense network, up to this site.

        Returns:
            The weights (see ``weigh_positions``); None where no normalisation follows, or what is
            added is not known yet.
        """
        joined = self.joined
        known = not isinstance(joined, Ref) or joined in piece.values
        if self.division is Division.NONE or not known or (joined is None and self.moves):
            return None
        y: torch.Tensor = piece.find(Ref(self.step))
        total = self.move(y, piece)
        if joined is not None:
            total = total + piece.find(joined)
        weights = torch.from_numpy(weigh_positions(total.float().cpu().numpy(), self.division))
        spread = weights.to(y.device).expand_as(total)
        return self.move_back(spread, y, piece).narrow(self.map.channel, 0, 1)

    def along_channels(self, vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """A vector over outputs, in a shape that broadcasts against the result."""
        if vector.dim() == 0:
            return vector
        shape = [1] * like.dim()
        shape[self.map.channel] = -1
        return vector.reshape(shape)


class Sites:
    """Every site of a model's pass.

    Args:
        steps: steps of the pass.
        shapes: shape of each value, for any number of images.
        input_dims: number of axes of each of the model's inputs.
        weights: ids of the model's tensors; those that a single operation reads may change.
        norms: whether normalisations without a preceding contraction are sites too.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        shapes: Mapping[Ref, torch.Size],
        input_dims: Sequence[int],
        weights: set[int],
        *,
        norms: bool = True,
    ) -> None:
        self._steps = steps
        self._shapes = shapes
        self._input_dims = input_dims
        self._readers = readers_of(steps)
        uses = Counter(
            id(t) for step in steps for t in step.operands if isinstance(t, torch.Tensor)
        )
        self._own = {tensor for tensor in weights if uses[tensor] == 1}
        self.at: dict[int, Site] = {}
        behind: set[int] = set()
        for step in steps:
            site = self._site(step)
            if site is None and norms and step.number not in behind:
                site = self._norm_site(step)
            if site is not None:
                self.at[step.number] = site
                self._follow(site, behind)

    def _site(self, step: Step) -> Site | None:
        call = Call(step.function, step.arguments, step.keywords)
        operands = step.operands
        place = 1 if call.packet is aten.addmm else 0
        source = operands[place] if len(operands) > place else None
        if not isinstance(source, Ref | Input) or not self._weights_are_own(call):
            return None
        found = map_of(call, self._dims(source))
        if found is None or id(found.weight) not in self._own:
            return None
        bias = operands[0] if place else call.get("bias")
        if bias is not None and (not isinstance(bias, torch.Tensor) or id(bias) not in self._own):
            return None
        return Site(step.number, found, source, bias)

    @staticmethod
    def _weights_are_own(call: Call) -> bool:
        if call.packet in (aten.mm, aten.matmul):
            return isinstance(call.arguments[1], torch.Tensor)
        if call.packet is aten.addmm:
            return isinstance(call.arguments[2], torch.Tensor)
        return isinstance(call.named.get("weight"), torch.Tensor)

    def _norm_site(self, step: Step) -> Site | None:
        call = Call(step.function, step.arguments, step.keywords)
        if call.packet not in NORMS or not isinstance(call.arguments[0], Ref | Input):
            return None
        found = norm_of(call)
        if found is None or id(found.weight) not in self._own:
            return None
        bias = call.get("bias")
        if bias is not None and (not isinstance(bias, torch.Tensor) or id(bias) not in self._own):
            return None
        channel = found.channel if found.channel >= 0 else self._dims(call.arguments[0]) - 1
        found = Map(found.weight, channel, norm=found.norm)
        return Site(step.number, found, call.arguments[0], bias)

    def _dims(self, source: TensorSource) -> int:
        if isinstance(source, Ref):
            return len(self._shapes[source])
        return self._input_dims[source.number]

    def _follow(self, site: Site, behind: set[int]) -> None:
        """Note what follows a site, up to the next step that mixes channels."""
        ref = self._follow_chain(site, behind)
        if ref is None:
            return
        self._note_division(site, ref)
        if site.joined is None:
            site.moves.clear()

    def _follow_chain(self, site: Site, behind: set[int]) -> TensorSource | None:
        """Follow a result as long as a single operation reads it; None if a ReLU ends it."""
        ref: TensorSource = Ref(site.step)
        while len(readers := self._readers.get(ref, [])) == 1:
            step = readers[0]
            packet = step.function.overloadpacket
            if packet is aten.batch_norm and self._through_norm(site, step):
                behind.add(step.number)
            elif packet in SUMS and self._through_sum(site, step, ref):
                pass
            elif packet in RELUS:
                site.rectified = not site.moves
                if site.rectified and not site.normalised:
                    site.beyond = self._scale_beyond(Ref(step.number))
                return None
            elif packet in MOVES and site.joined is None and len(step.reads) == 1:
                site.moves.append(step)
            elif packet not in IDENTITIES:
                break
            ref = Ref(step.number)
        return ref

    def _note_division(self, site: Site, ref: TensorSource) -> None:
        if site.map.geometry is None and site.map.norm is None and not site.normalised:
            site.division = self._division_of(ref)

    def _division_of(self, ref: TensorSource) -> Division:
        """What a normalisation over the last axis that reads a value divides by."""
        dims = self._dims(ref) if isinstance(ref, Ref | Input) else 0
        found = Division.NONE
        for step in self._readers.get(ref, ()):
            call = Call(step.function, step.arguments, step.keywords)
            if call.packet in POSITION_NORMS and len(call["normalized_shape"]) == 1:
                found = POSITION_NORMS[call.packet]
            elif call.packet in COPIES:
                found = self._division_of(Ref(step.number))
            elif self._is_square(call) and self._is_averaged(Ref(step.number), dims):
                found = Division.ROOT_MEAN_SQUARE
            if found is not Division.NONE:
                break
        return found

    @staticmethod
    def _is_square(call: Call) -> bool:
        if call.packet is aten.pow:
            exponent = call.get("exponent")
            return isinstance(exponent, (int, float)) and exponent == 2
        if call.packet is aten.mul:
            return bool(call["self"] == call["other"])
        return call.packet is aten.square

    def _is_averaged(self, ref: Ref, dims: int) -> bool:
        """Whether a mean over the last of so many axes reads a value."""
        calls = (Call(s.function, s.arguments, s.keywords) for s in self._readers.get(ref, ()))
        return any(
            call.packet is aten.mean and call.get("dim") in ([-1], [dims - 1]) for call in calls
        )

    def _scale_beyond(self, ref: Ref) -> torch.Tensor:
        """Scale of a batch normalisation that alone reads a value; one if there is none."""
        readers = self._readers.get(ref, [])
        if len(readers) != 1 or readers[0].function.overloadpacket is not aten.batch_norm:
            return torch.ones(())
        step = readers[0]
        call = Call(step.function, step.arguments, step.keywords)
        found = _scale_of(call)
        return torch.ones(()) if found is None else found

    def _through_norm(self, site: Site, step: Step) -> bool:
        """Note a batch normalisation directly after a site: a scale and a shift."""
        call = Call(step.function, step.arguments, step.keywords)
        mean, scale = call.get("running_mean"), _scale_of(call)
        if site.normalised or site.joined is not None or site.moves or site.map.norm is not None:
            return False
        if not isinstance(mean, torch.Tensor) or scale is None:
            return False
        bias = call.get("bias")
        site.scale = scale
        site.shift = (0 if bias is None else bias.detach()) - mean * scale
        site.mean = mean if id(mean) in self._own else None
        site.normalised = True
        return True

    @staticmethod
    def _through_sum(site: Site, step: Step, ref: TensorSource) -> bool:
        if site.joined is not None or len(set(step.reads)) != 2 or len(step.operands) != 2:
            return False
        call = Call(step.function, step.arguments, step.keywords)
        if call.get("alpha", 1) != 1:
            return False
        site.joined = next(source for source in step.reads if source != ref)
        return True


def _scale_of(call: Call) -> torch.Tensor | None:
    """The scale of a batch normalisation; None where it keeps no variance."""
    variance = call.get("running_var")
    if not isinstance(variance, torch.Tensor):
        return None
    scale = torch.rsqrt(variance.detach() + call["eps"])
    weight = call.get("weight")
    return scale if weight is None else scale * weight.detach()
