"""Sums over the dense network at every contraction that reads channels, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.peers import ALONE, Peers
from secateurs.channels.network import Group, Network
from secateurs.planning.error_curves import MeasuredContraction
from secateurs.pytorch.model.tensors import check_gradients_exist, list_tensors
from secateurs.pytorch.reconstruction.contractions import NUMBERS_OF_PATCHES
from secateurs.pytorch.reconstruction.output_stream import as_arrays
from secateurs.pytorch.reconstruction.program import Piece, Pieces, play
from secateurs.pytorch.reconstruction.sites import Site, Sites
from secateurs.pytorch.reconstruction.sums import RunningMoments
from secateurs.pytorch.replay.tape import Ref, Step
from secateurs.pytorch.statistics.gates import autograd
from secateurs.pytorch.trace_model import source_of
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.reconstruction.contraction_sums import (
    Reading,
    contraction_of,
    draw_slopes,
    images_with_slopes,
    mean_slopes,
    random_of,
)
from secateurs.reconstruction.drawing import present_part
from secateurs.reconstruction.long_kernels import LongKernel


@dataclass(eq=False, slots=True)
class _Reader:
    """A contraction that reads channels, and its sums so far."""

    site: Site
    reading: Reading
    sums: RunningMoments = field(default_factory=RunningMoments)
    slopes: torch.Tensor | None = None
    sloped: int = 0
    long: LongKernel | None = None


def contractions_of(
    network: Network,
    images: CalibrationBatch,
    kind: str,
    seed: int,
    answers: int = 1,
    groups: Sequence[Group] | None = None,
    *,
    peers: Peers = ALONE,
) -> list[MeasuredContraction]:
    """Sums for channel orders and error curves, of each contraction that reads channels.

    Args:
        network: network of the dense model, in eval mode; it comes back unchanged.
        images: images to sum over.
        kind: kind of its outputs: 'categorical', 'bernoulli' or 'relative'.
        seed: seed of the random answers by which outputs are weighted.
        answers: number of answers that each image gives.
        groups: groups whose readers are summed; None takes all.
        peers: processes to sum over, each with its own images.

    Raises:
        ModelError: the call is inside ``inference_mode``.
    """
    check_gradients_exist("pruning with calibration data")
    source = source_of(network)
    pieces = Pieces(source.model, source.operations, images)
    readers = _readers(network, pieces, images, network.groups if groups is None else groups)
    random, everywhere = random_of(seed, peers), sum(peers.gather(len(images)))
    sloped = images_with_slopes(network, _examples(network), everywhere, answers, peers)
    for start, rows in enumerate(pieces.sizes(len(images))):
        piece = pieces.piece(images.rows(rows))
        wanted = _rows_wanted(readers, everywhere)
        _add(readers, piece, wanted, start, kind, random if rows.start < sloped else None)
    return [_contraction(reader, source.tensors, peers) for reader in readers.values()]


def _examples(network: Network) -> int:
    first = next(iter(iterate_tensors(source_of(network).example_inputs)), None)
    return 1 if first is None or first.dim() == 0 else len(first)


def _readers(
    network: Network, pieces: Pieces, images: CalibrationBatch, groups: Sequence[Group]
) -> dict[int, _Reader]:
    """Index of an operation -> the contraction there, where it reads channels of these groups."""
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
        reading = Reading.of(network, units, site.map.inputs, groups)
        if reading is not None:
            readers[number] = _Reader(site, reading)
            if reading.mixes and reading.fold is None:
                readers[number].long = _long_kernel(pieces, site, len(images))
    return readers


def _long_kernel(pieces: Pieces, site: Site, images: int) -> LongKernel | None:
    geometry = site.map.long_geometry()
    if geometry is None or not isinstance(site.source, Ref):
        return None
    x_shape, y_shape = (pieces.shapes[ref] for ref in (site.source, Ref(site.step)))
    return LongKernel.of(geometry, x_shape, y_shape, images)


def _rows_wanted(readers: Mapping[int, _Reader], images: int) -> dict[int, int]:
    return {number: reader.site.map.rows_per_image(images) for number, reader in readers.items()}


def _add(
    readers: Mapping[int, _Reader],
    piece: Piece,
    rows: Mapping[int, int],
    seed: int,
    kind: str,
    random: np.random.Generator | None,
) -> None:
    """Add one piece's patches, and its gradients if there is a random generator for answers."""
    made: dict[int, torch.Tensor] = {}
    # Gradients through in-place writes in the middle of a pass are not reliable.
    weighs = random is not None and not any(step.mutates for step in piece.steps)

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

    if random is None or not weighs:
        with torch.no_grad():
            play(piece, change)
        return
    with autograd():
        result = play(piece, change)
        slopes = _slopes(result, list(made.values()), kind, random)
    for number, slope in zip(made, slopes, strict=True):
        reader = readers[number]
        if slope is not None:
            along = slope.movedim(reader.site.map.channel, -1).flatten(0, -2)
            squares = along.double().square().sum(0)
            reader.slopes = squares if reader.slopes is None else reader.slopes + squares
            reader.sloped += piece.images


def _sum_patches(reader: _Reader, piece: Piece, y: torch.Tensor, rows: int, seed: int) -> None:
    """Add the patches that a contraction reads in one piece; ``y`` is its result."""
    x: torch.Tensor = piece.find(reader.site.source).detach()
    if reader.long is not None:
        reader.long.add(x.float().cpu().numpy())
    if reader.reading.mixes:
        axis = 1 if reader.site.map.geometry is not None else x.dim() - 1
        values = x.movedim(axis, -1).reshape(-1, x.shape[axis])
        present = piece.present.get(len(values) // len(x))
        if present is not None:
            values = values[torch.from_numpy(np.flatnonzero(present)).to(x.device)]
        if (fold := reader.reading.fold) is not None:
            values = values[:, torch.from_numpy(fold.T.ravel())].reshape(-1, len(fold))
        reader.sums.add(values[None].float(), values.new_zeros(1, len(values), 0).float())
        return
    places = max(1, y[:1].numel() // max(1, y.shape[reader.site.map.channel]))
    at_a_time = max(1, NUMBERS_OF_PATCHES // (min(rows, places) * reader.site.map.inputs))
    counted = y.narrow(reader.site.map.channel, 0, 1)  # one channel: outputs follow from weights
    for start in range(0, len(x), at_a_time):
        part = slice(start, start + at_a_time)
        present_rows = present_part(piece.present, part)
        u, (t,) = reader.site.map.tables(
            x[part], [counted[part]], rows, seed * 4099 + start, present_rows
        )
        reader.sums.add(u, t[..., :0])


def _slopes(
    result: Sequence[torch.Tensor],
    made: Sequence[torch.Tensor],
    kind: str,
    random: np.random.Generator,
) -> Sequence[torch.Tensor | None]:
    """Gradients of the loss with respect to results of contractions, with random answers."""
    drawn = draw_slopes(as_arrays(result), kind, random)
    pairs = [
        (one, torch.from_numpy(slope).to(one.device, one.dtype))
        for one, slope in zip(result, drawn, strict=True)
        if one.requires_grad
    ]
    if not made or not pairs:
        return [None] * len(made)
    outputs, slopes = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, made, slopes, allow_unused=True)


def _contraction(
    reader: _Reader, tensors: Mapping[str, torch.Tensor], peers: Peers
) -> MeasuredContraction:
    site = reader.site
    names = {id(tensor): name for name, tensor in tensors.items()}
    slopes = None if reader.slopes is None else reader.slopes.cpu().numpy()
    importance = mean_slopes(slopes, reader.sloped, site.importance.size, peers)
    return contraction_of(
        _Weights(site, names),
        reader.reading,
        reader.sums.moments().total_over(peers),
        importance,
        long=reader.long,
    )


@dataclass(frozen=True, eq=False, slots=True)
class _Weights:
    """A site's weights, as planning needs them."""

    site: Site
    names: Mapping[int, str]

    @property
    def weight(self) -> str:
        return self.names[id(self.site.map.weight)]

    @property
    def taps(self) -> int:
        return self.site.map.taps

    @property
    def has_intercept(self) -> bool:
        return self.site.has_intercept

    def matrix(self) -> NDArray[np.float64]:
        return self.site.map.matrix()

    def tensors(
        self, matrix: NDArray[np.float64], missing: NDArray[np.float64]
    ) -> Mapping[str, NDArray[np.floating]]:
        site = self.site
        changed = {self.weight: _array(site.map.weight_from(matrix))}
        if site.bias is not None:
            changed[self.names[id(site.bias)]] = _array(site.bias) + missing.astype(np.float32)
        elif site.mean is not None:
            changed[self.names[id(site.mean)]] = _array(site.mean) - missing.astype(np.float32)
        return changed


def _array(tensor: torch.Tensor) -> NDArray[np.floating]:
    found: NDArray[np.floating] = tensor.detach().cpu().numpy()
    return found
