"""The dense network's own sums at every contraction that reads channels, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.least_squares import Moments
from secateurs.calibration.statistics import channel_index
from secateurs.channels.equations import Ids
from secateurs.channels.network import Network
from secateurs.planning.error_curves import Contraction
from secateurs.pytorch.model.tensors import list_tensors
from secateurs.pytorch.reconstruction.contractions import NUMBERS_OF_PATCHES
from secateurs.pytorch.reconstruction.descent import Descent
from secateurs.pytorch.reconstruction.program import Piece, Pieces, play
from secateurs.pytorch.reconstruction.sites import Site, Sites
from secateurs.pytorch.reconstruction.sums import RunningMoments
from secateurs.pytorch.replay.tape import Ref, Step
from secateurs.pytorch.statistics.gates import autograd
from secateurs.pytorch.trace_model import source_of
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.reconstruction.fidelity import are_probabilities

MOST_INPUTS = 1152
"""Beyond, channels are mixed: the same for every tap."""

MOST_CHANNELS = 4096

MACS_OF_SLOPES = 2e11
"""What the derivatives that weigh outputs may take, past the pass that sums take anyway: some ten
seconds of one core. A mean of squares needs fewer images than a covariance of patches."""

LEAST_WITH_SLOPES = 32


@dataclass(eq=False, slots=True)
class _Reader:
    """A site that reads channels, and its sums so far."""

    site: Site
    units: Ids
    mixes: bool
    fold: Ids | None
    sums: RunningMoments = field(default_factory=RunningMoments)
    slopes: torch.Tensor | None = None
    sloped: int = 0
    descent: Descent | None = None


def contractions_of(
    network: Network, images: CalibrationBatch, kind: str, seed: int
) -> list[Contraction]:
    """The sums that orders and curves need, of each contraction that reads channels.

    Args:
        network: of the dense model, in eval mode; it comes back as it was.
        images: to sum over.
        kind: of its outputs: 'categorical', 'bernoulli' or 'relative'.
        seed: of the answers that are drawn to weigh outputs by.
    """
    source = source_of(network)
    pieces = Pieces(source.model, source.operations, images)
    readers = _readers(network, pieces, images)
    generator = torch.Generator().manual_seed(seed)
    sloped = _images_with_slopes(network, images)
    for start, rows in enumerate(pieces.sizes(len(images))):
        piece = pieces.piece(images.rows(rows))
        wanted = _rows_wanted(readers, len(images))
        _add(readers, piece, wanted, start, kind, generator if rows.start < sloped else None)
    return [_contraction(reader, source.tensors) for reader in readers.values()]


def _images_with_slopes(network: Network, images: CalibrationBatch) -> int:
    """How many images outputs are weighed by: a pass back takes as much as two forward."""
    first = next(iter(iterate_tensors(source_of(network).example_inputs)), None)
    batch = 1 if first is None or first.dim() == 0 else len(first)
    affordable = int(MACS_OF_SLOPES * batch / (2 * max(1, network.macs())))
    return min(len(images), max(LEAST_WITH_SLOPES, affordable))


def _readers(network: Network, pieces: Pieces, images: CalibrationBatch) -> dict[int, _Reader]:
    source = source_of(network)
    names = {id(leaf.tensor) for leaf in list_tensors(source.model)}
    dims = [tensor.dim() for tensor in pieces.piece(images.rows(slice(0, 1))).inputs]
    sites = Sites(pieces.steps, pieces.shapes, dims, names, norms=False)
    readers = {}
    for number, site in sites.at.items():
        units = next((m.units for m in source.operations[number].masks if m.operand == 0), None)
        if source.operations[number].name.endswith("addmm"):
            units = next((m.units for m in source.operations[number].masks), None)
        if units is None or site.map.groups != 1:
            continue
        mixes = site.map.inputs > MOST_INPUTS
        fold = _fold(network, units) if len(units) > MOST_CHANNELS else None
        if len(units) <= MOST_CHANNELS or fold is not None:
            readers[number] = _Reader(site, units, mixes, fold)
            if mixes and fold is None:
                readers[number].descent = _descent(network, pieces, site, len(images))
    return readers


def _descent(network: Network, pieces: Pieces, site: Site, images: int) -> Descent | None:
    source = source_of(network)
    step = pieces.steps[site.step]
    call = Call(step.function, step.arguments, step.keywords)
    names = {id(tensor): name for name, tensor in source.tensors.items()}
    return Descent.of(site, call, pieces.shapes[Ref(site.step)], images, names)


def _fold(network: Network, units: Ids) -> Ids | None:
    """The axis as channels by positions, where it is all of one group."""
    for group in network.groups:
        part = channel_index(network, group, units)
        if len(part) == len(units) and (rows := part.rows) is not None and rows.shape[1] > 1:
            return rows
    return None


def _rows_wanted(readers: Mapping[int, _Reader], images: int) -> dict[int, int]:
    return {number: reader.site.map.rows_per_image(images) for number, reader in readers.items()}


def _add(
    readers: Mapping[int, _Reader],
    piece: Piece,
    rows: Mapping[int, int],
    seed: int,
    kind: str,
    generator: torch.Generator | None,
) -> None:
    """One piece's patches, and its slopes where there is a generator to draw answers by."""
    made: dict[int, torch.Tensor] = {}
    # What is written into in the middle of a pass has no derivative that could be trusted.
    weighs = generator is not None and not any(step.mutates for step in piece.steps)

    def change(step: Step, call: Call) -> object:
        output = call.function(*call.arguments, **call.keywords)
        reader = readers.get(step.number)
        if reader is not None:
            if weighs and not output.requires_grad:
                output.requires_grad_()
            made[step.number] = output
            with torch.no_grad():
                _sum_patches(reader, piece, output.detach(), rows[step.number], seed)
        return output

    if generator is None or not weighs:
        with torch.no_grad():
            play(piece, change)
        return
    with autograd():
        result = play(piece, change)
        slopes = _slopes(result, list(made.values()), kind, generator)
    for number, slope in zip(made, slopes, strict=True):
        reader = readers[number]
        if slope is not None:
            along = slope.movedim(reader.site.map.channel, -1).flatten(0, -2)
            squares = along.double().square().sum(0)
            reader.slopes = squares if reader.slopes is None else reader.slopes + squares
            reader.sloped += piece.images


def _sum_patches(reader: _Reader, piece: Piece, y: torch.Tensor, rows: int, seed: int) -> None:
    x: torch.Tensor = piece.find(reader.site.source).detach()
    if reader.descent is not None:
        reader.descent.add(x)
    if reader.mixes:
        axis = 1 if reader.site.map.geometry is not None else x.dim() - 1
        values = x.movedim(axis, -1).reshape(-1, x.shape[axis])
        if reader.fold is not None:
            values = values[:, torch.from_numpy(reader.fold.T.ravel())]
            values = values.reshape(-1, len(reader.fold))
        reader.sums.add(values[None].float(), values.new_zeros(1, len(values), 0).float())
        return
    places = max(1, y[:1].numel() // max(1, y.shape[reader.site.map.channel]))
    at_a_time = max(1, NUMBERS_OF_PATCHES // (min(rows, places) * reader.site.map.inputs))
    for start in range(0, len(x), at_a_time):
        part = slice(start, start + at_a_time)
        u, (t,) = reader.site.map.tables(x[part], [y[part]], rows, seed * 4099 + start)
        reader.sums.add(u, t)


def _slopes(
    result: Sequence[torch.Tensor],
    made: Sequence[torch.Tensor],
    kind: str,
    generator: torch.Generator,
) -> Sequence[torch.Tensor | None]:
    """The derivative of the outputs' loss, with answers drawn from the model's own.

    Squared and averaged over what is drawn, it is the Gauss-Newton weight of each value.
    """
    if not made:
        return []
    loss = _drawn_loss(result, kind, generator)
    if not loss.requires_grad:
        return [None] * len(made)
    return torch.autograd.grad(loss, made, allow_unused=True)


def _drawn_loss(
    result: Sequence[torch.Tensor], kind: str, generator: torch.Generator
) -> torch.Tensor:
    if kind == "categorical":
        scores = result[0].float()
        scores = scores.movedim(1, -1) if scores.dim() > 3 else scores
        logs = (
            scores.log()
            if are_probabilities(scores.detach().cpu().numpy())
            else scores.log_softmax(-1)
        )
        flat = logs.flatten(0, -2)
        chances = flat.detach().exp().cpu()
        drawn = torch.multinomial(chances, 1, generator=generator).to(flat.device)
        return -flat.gather(1, drawn).sum()
    if kind == "bernoulli":
        scores = result[0].float()
        if bool(((scores >= 0) & (scores <= 1)).all()):  # probabilities already
            scores = scores.clamp(1e-6, 1 - 1e-6).logit()
        drawn = torch.bernoulli(scores.detach().sigmoid().cpu(), generator=generator)
        bce = torch.nn.functional.binary_cross_entropy_with_logits
        return bce(scores, drawn.to(scores.device), reduction="sum")
    total = result[0].new_zeros(()).float()
    for one in result:
        size = one.detach().float().square().mean().sqrt().clamp_min(1e-12)
        signs = torch.randint(0, 2, one.shape, generator=generator) * 2.0 - 1
        total = total + (one.float() * signs.to(one.device)).sum() / (size * one[0].numel() ** 0.5)
    return total


def _contraction(reader: _Reader, tensors: Mapping[str, torch.Tensor]) -> Contraction:
    site = reader.site
    names = {id(tensor): name for name, tensor in tensors.items()}
    moments = reader.sums.moments()
    matrix = site.map.matrix()
    if reader.mixes:
        matrix = _by_channel(matrix, site.map.taps, reader.fold)
        given = moments.uu @ matrix
        moments = Moments(
            moments.rows,
            moments.mean_u,
            np.einsum("gi,gio->go", moments.mean_u, matrix),
            moments.uu,
            given,
            np.einsum("gio,gio->go", matrix, given),
        )
    elif not site.has_intercept:
        moments = moments.about_zero()
    outputs = site.importance.size
    slopes = reader.slopes
    importance = np.ones(outputs) if slopes is None else slopes.cpu().numpy() / reader.sloped
    fold = reader.fold
    taps = fold.shape[1] if fold is not None else site.map.taps
    return Contraction(
        names[id(site.map.weight)],
        reader.units,
        taps,
        moments,
        matrix,
        importance,
        _Packing(site, names, reader.mixes, taps, fold),
        reader.mixes,
        fold,
        None if reader.descent is None else reader.descent.ablate,
        None if reader.descent is None else reader.descent.spectra(),
    )


def _by_channel(matrix: NDArray[np.float64], taps: int, fold: Ids | None) -> NDArray[np.float64]:
    """(1, channels * taps, outputs) as (1, channels, taps * outputs)."""
    if fold is not None:
        folded: NDArray[np.float64] = matrix[0][fold].reshape(1, len(fold), -1)
        return folded
    return matrix.reshape(1, matrix.shape[1] // taps, -1)


@dataclass(frozen=True, eq=False, slots=True)
class _Packing:
    """From a matrix and a change of the mean output to tensors with the model's names."""

    site: Site
    names: Mapping[int, str]
    mixes: bool
    taps: int
    fold: Ids | None

    def __call__(
        self, matrix: NDArray[np.float64], missing: NDArray[np.float64]
    ) -> Mapping[str, NDArray[np.floating]]:
        site = self.site
        if self.mixes:
            missing = missing.reshape(self.taps, -1).sum(axis=0)
            matrix = self._by_input(matrix)
        changed = {self.names[id(site.map.weight)]: _array(site.map.weight_from(matrix))}
        if site.bias is not None:
            changed[self.names[id(site.bias)]] = _array(site.bias) + missing.astype(np.float32)
        elif site.mean is not None:
            changed[self.names[id(site.mean)]] = _array(site.mean) - missing.astype(np.float32)
        return changed

    def _by_input(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.fold is None:
            return matrix.reshape(1, matrix.shape[1] * self.taps, -1)
        spread = matrix.reshape(*self.fold.shape, -1)
        found = np.zeros((1, self.fold.size, spread.shape[-1]))
        found[0, self.fold] = spread
        return found


def _array(tensor: torch.Tensor) -> NDArray[np.floating]:
    found: NDArray[np.floating] = tensor.detach().cpu().numpy()
    return found
