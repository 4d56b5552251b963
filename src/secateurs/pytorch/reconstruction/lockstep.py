"""Refit a cut network by walking it and the dense one together, operation by operation.

At every contraction whose input or sum differs from the dense network's, the cut network's weights
are fitted to the dense network's result, and only then is the operation run. So each layer
compensates the errors that remain from all layers before it, and errors do not accumulate.

Of both networks, only values that a later step reads are kept, for all images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.peers import ALONE, Peers
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.errors import DataError, ModelError
from secateurs.pytorch.model.tensors import list_tensors
from secateurs.pytorch.reconstruction.contractions import NUMBERS_OF_PATCHES
from secateurs.pytorch.reconstruction.past_blocks import Detour, around_small, find_detour
from secateurs.pytorch.reconstruction.program import Piece, Pieces
from secateurs.pytorch.reconstruction.sites import Site, Sites
from secateurs.pytorch.reconstruction.sums import RunningMoments
from secateurs.pytorch.replay.tape import Ref, TensorSource
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.trace_model import source_of
from secateurs.pytorch.tracing.op_record import Axes, OpRecord
from secateurs.reconstruction.drawing import present_part
from secateurs.reconstruction.layers import Walked
from secateurs.reconstruction.long_kernels import KernelGeometry, SignalRows
from secateurs.reconstruction.refitting import (
    BYTES_OF_ROWS,
    Following,
    Gathered,
    images_that_fit,
    is_long,
)
from secateurs.reconstruction.walking import LockstepWalk, Pair

_Gathered = Gathered[RunningMoments]


def walk(
    network: Network,
    small: nn.Module,
    alive: NDArray[np.bool_],
    fit: CalibrationBatch,
    held: CalibrationBatch,
    cut: Cut | None = None,
    *,
    peers: Peers = ALONE,
) -> Walked:
    """Refit the weights of a cut model, in place, to the dense model's results.

    Args:
        network: network of the dense model; unchanged.
        small: the cut model, in eval mode; its weights change.
        alive: mask of the network's atoms that are kept, shape (atoms,).
        fit: images to fit.
        held: held-out images, for choices layer by layer.
        cut: cut of the network, where it removed whole blocks. Operands of the sums after them
            compensate the removed branches, as far as they can.
        peers: processes that walk together, each with its own images.

    Returns:
        The repairs, layer by layer, and the peak number of bytes of values held.

    Raises:
        ModelError: the two models do not run the same operations.
    """
    return _Walk(network, small, alive, fit, held, cut or Cut(), peers).walk()


class _Walk(LockstepWalk[Piece, Site]):
    def __init__(
        self,
        network: Network,
        small: nn.Module,
        alive: NDArray[np.bool_],
        fit: CalibrationBatch,
        held: CalibrationBatch,
        cut: Cut,
        peers: Peers,
    ) -> None:
        self.peers = peers
        source = source_of(network)
        self._operations = source.operations
        self._stays = network.solution.mark_kept(alive)
        self._detour = Detour()
        runs = small
        if cut.blocks:
            inputs = fit.rows(slice(0, 2)).images
            self._detour = find_detour(source.model, inputs, source.operations, cut.blocks)
            runs = around_small(_narrow(network, cut), small, cut.blocks)
        dense_pieces = Pieces(source.model, source.operations, fit)
        small_pieces = _in_step(runs, source.operations, fit)
        self._names = {id(leaf.tensor): leaf.name for leaf in list_tensors(small)}
        first = small_pieces.piece(fit.rows(slice(0, 1)))
        dims = [tensor.dim() for tensor in first.inputs]
        self.sites = Sites(small_pieces.steps, small_pieces.shapes, dims, set(self._names)).at
        last = max(self.sites, default=-1)
        each = dense_pieces.bytes_at_once(last) + small_pieces.bytes_at_once(last)
        fit, held = images_that_fit(fit, held, each)
        self._images = sum(peers.gather(len(fit) + len(held)))
        self.pairs = [
            Pair(dense_pieces.piece(part), small_pieces.piece(part), batch is held, number)
            for batch in (held, fit)
            for number, rows in enumerate(dense_pieces.sizes(len(batch)))
            for part in [batch.rows(rows)]
        ]
        self._kept: dict[int, torch.Tensor] = {}
        self.layers = []

    @torch.no_grad()
    def walk(self) -> Walked:
        """Take all steps, without gradients."""
        return super().walk()

    def is_left(self, number: int) -> bool:
        return number not in self._detour.left_out

    def do_small(self, piece: Piece, number: int) -> None:
        self._detour.take(piece, piece.steps[number])

    # -- values of both networks

    def _dense(self, piece: Piece, source: TensorSource) -> torch.Tensor:
        """A value of the dense network without its removed channels."""
        value: torch.Tensor = piece.find(source)
        for axis, units in self._axes(source).items():
            index = self._index(units)
            if len(index) < value.shape[axis]:
                value = value.index_select(axis, index.to(value.device))
        return value

    def _axes(self, source: TensorSource) -> Axes:
        if not isinstance(source, Ref):
            return {}
        outputs = self._operations[source.step].outputs
        return outputs[source.item][1] if source.item < len(outputs) else {}

    def _index(self, units: NDArray[np.int64]) -> torch.Tensor:
        if id(units) not in self._kept:  # ids are unique: records hold these arrays
            self._kept[id(units)] = torch.from_numpy(np.flatnonzero(self._stays[units]))
        return self._kept[id(units)]

    def _off(self, site: Site, pair: Pair[Piece]) -> torch.Tensor | None:
        """The error of the sum's other operand, if it is known already."""
        joined = site.joined
        if joined is None or (isinstance(joined, Ref) and joined not in pair.small.values):
            return None
        theirs, ours = self._dense(pair.dense, joined), pair.small.find(joined)
        return theirs - ours if theirs.shape == ours.shape else None

    def reads_other_values(self, site: Site, pair: Pair[Piece]) -> bool | None:
        ours, theirs = pair.small.find(site.source), self._dense(pair.dense, site.source)
        if ours.shape != theirs.shape:
            return None
        whole = pair.dense.find(site.source)
        return bool(whole.shape != theirs.shape or not torch.equal(ours, theirs))

    def is_off_at_the_sum(self, site: Site, pair: Pair[Piece]) -> bool:
        off = self._off(site, pair)
        return off is not None and bool(off.any())

    # -- least squares

    def matrix_of(self, site: Site) -> NDArray[np.float64]:
        return site.map.matrix()

    def name_of(self, site: Site) -> str:
        return self._names[id(site.map.weight)]

    def following(self, site: Site) -> Following:
        scale, shift = (one.detach().float().cpu().numpy() for one in (site.scale, site.shift))
        return Following(scale, shift)

    def relaxes(self, site: Site) -> bool:
        """Whether to exclude values that a ReLU cuts off; the rows for it must fit in memory."""
        plain = site.map.groups == 1 and site.map.norm is None
        rows = site.map.rows_per_image(self._images) * self._images
        small = min(rows, self._most_rows(site)) * site.map.inputs * 4 <= BYTES_OF_ROWS
        return site.rectified and plain and site.has_intercept and small

    def _most_rows(self, site: Site) -> int:
        first = self.pairs[0]
        given: torch.Tensor = first.dense.find(Ref(site.step))
        each = given.numel() // max(1, given.shape[site.map.channel]) // first.dense.images
        return each * self._images

    def is_long(self, site: Site) -> bool:
        return is_long(site.map.long_geometry(), site.map.inputs)

    def gather_signals(
        self, site: Site
    ) -> tuple[KernelGeometry, list[SignalRows], list[SignalRows]] | None:
        geometry = site.map.long_geometry()
        if geometry is None:
            return None
        parts: dict[bool, list[SignalRows]] = {False: [], True: []}
        for pair in self.pairs:
            read, wanted = pair.small.find(site.source), self._target(site, pair)
            parts[pair.held].append(
                SignalRows(*(one.float().cpu().numpy() for one in (read, wanted)))
            )
        return geometry, parts[False], parts[True]

    def gather(self, site: Site, *, sums: bool, keeps: bool) -> _Gathered:
        rows = site.map.rows_per_image(self._images)
        gathered = Gathered(RunningMoments(), RunningMoments())
        for pair in self.pairs:
            targets = [self._target(site, pair)]
            if keeps and site.joined is not None and self._off(site, pair) is not None:
                joined = pair.small.find(site.joined)
                targets.append(site.move_back(joined, targets[0], pair.small))
            self._add(site, gathered, pair, targets, rows, sums=sums, keeps=keeps)
        return gathered

    def _target(self, site: Site, pair: Pair[Piece]) -> torch.Tensor:
        """The dense network's result, plus the error of the sum after it."""
        target = self._dense(pair.dense, Ref(site.step))
        off = self._off(site, pair)
        if off is None:
            return target
        scale = site.scale.detach()
        scale = torch.where(scale.abs() < 1e-3, torch.inf, scale)
        back = site.move_back(off, target, pair.small)
        return target + back / site.along_channels(scale, target)

    def _add(
        self,
        site: Site,
        gathered: _Gathered,
        pair: Pair[Piece],
        targets: Sequence[torch.Tensor],
        rows: int,
        *,
        sums: bool,
        keeps: bool,
    ) -> None:
        """Add one pair's rows to the sums, or keep the rows themselves."""
        x: torch.Tensor = pair.small.find(site.source)
        weights = site.weigh_rows(pair.dense) if sums else None
        weighed = [] if weights is None else [weights]
        places = max(1, targets[0][:1].numel() // max(1, targets[0].shape[site.map.channel]))
        each = min(rows, places) * site.map.inputs * site.map.groups
        at_a_time = max(1, NUMBERS_OF_PATCHES // max(1, each))
        for start in range(0, len(x), at_a_time):
            part = slice(start, start + at_a_time)
            present = present_part(pair.small.present, part)
            seed = pair.number * 4099 + start
            everything = [t[part] for t in (*targets, *weighed)]
            u, tables = site.map.tables(x[part], everything, rows, seed, present)
            if sums:
                of_rows = tables.pop()[0, :, 0] if weighed else None
                (gathered.held if pair.held else gathered.fit).add(u, tables[0], of_rows)
            if keeps:
                kept = [u[0], *(table[0] for table in tables)]
                gathered.rows.append((pair.held, [one.cpu().numpy() for one in kept]))


def _narrow(network: Network, cut: Cut) -> nn.Module:
    """The dense model without removed channels, but with its blocks."""
    model = source_of(network).model
    if not cut.channels:
        return model
    narrower = network.cut({name: of.removed for name, of in cut.channels.items()})
    return cut_copy(model, narrower)


def _in_step(small: nn.Module, operations: Sequence[OpRecord], first: CalibrationBatch) -> Pieces:
    """The small model in pieces, if it runs the dense model's operations."""
    try:
        return Pieces(small, operations, first)
    except DataError as error:
        raise ModelError(
            "repair: expected two models with the same sequence of operations; the dense one has "
            f"{len(operations)}, and the small one has others in their place. Pass the dense "
            "model that the small one was cut from."
        ) from error
