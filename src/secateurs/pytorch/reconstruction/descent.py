"""Refits of convolutions over long kernels without the products of all their inputs.

A kernel of 64 taps over 128 channels has 8,192 inputs, and a matrix of their products takes a
minute. Mixing channels in their place, the same for every tap, takes no time and understates what
the other taps can make up for: a cut then looks several times as dear as it is. Conjugate gradients
need the convolution and its transpose alone: each step is one pass forward and one back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from secateurs.pytorch.reconstruction.sites import Site
from secateurs.pytorch.tracing.op_call import Call

STEPS = 8
"""Few, because stopping early does what a ridge would."""

RIDGE = 1e-4
MACS = 6e10
"""What a refit may take: some two seconds of one core. Layers that need more mix channels."""

LEAST_TAPS = 16
"""Of a kernel: a mixing of channels has one unknown where a refit of all taps has so many."""

MOST_IN_SPECTRA = 2**25
"""Numbers in products of spectra: half a gigabyte."""

LEAST_IMAGES = 64
ROWS_AN_INPUT = 2
"""Places of the result that are wanted for each input of a patch, if images give that many."""


@dataclass(eq=False, slots=True)
class Descent:
    """One convolution, what it reads, and how to fit it without some of its channels.

    Attributes:
        site: the convolution.
        call: its operation; what it reads may be a source.
        images: to fit, at most.
        names: id of a tensor -> its name.
        values: what it reads, images along axis 0, piece by piece.
    """

    site: Site
    call: Call
    images: int
    names: Mapping[int, str]
    values: list[torch.Tensor] = field(default_factory=list)
    _known: dict[bytes, Mapping[str, NDArray[np.floating]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        site: Site,
        call: Call,
        shape: torch.Size,
        images: int,
        names: Mapping[int, str],
    ) -> Descent | None:
        """For a plain convolution; None for anything else, or where it would take too long.

        Args:
            site: the convolution.
            call: its operation, with its own weight.
            shape: of what it gives, images along axis 0.
            images: that could be fitted.
            names: id of a tensor -> its name.
        """
        geometry = site.map.geometry
        if geometry is None or geometry.transposed or geometry.groups > 1:
            return None
        if site.map.taps < LEAST_TAPS:
            return None
        places = int(np.prod(shape[2:]))
        wanted = max(LEAST_IMAGES, -(-ROWS_AN_INPUT * site.map.inputs // places))
        macs = 2 * STEPS * places * site.map.weight.numel()
        affordable = int(MACS / macs)
        if min(wanted, images) > affordable:
            return None
        return cls(site, call, min(images, affordable), names)

    def add(self, x: torch.Tensor) -> None:
        """Some more of what it reads; what is beyond ``images`` is left."""
        room = self.images - sum(len(value) for value in self.values)
        if room > 0:
            self.values.append(x[:room].detach().float())

    def ablate(self, gone: NDArray[np.int64]) -> Mapping[str, NDArray[np.floating]]:
        """Tensor name -> its values once these channels are gone and the rest is refitted."""
        key = gone.tobytes()
        if key not in self._known:
            self._known[key] = self._refit(gone)
        return self._known[key]

    @torch.no_grad()
    def spectra(self) -> tuple[NDArray[np.complex128], NDArray[np.complex128]] | None:
        """(mean products of spectra, spectra of the kernels); None where they are too many.

        Shapes (frequencies, channels, channels) and (frequencies, channels, outputs).
        """
        geometry = self.site.map.geometry
        if geometry is None or any(step > 1 for step in geometry.dilation):
            return None
        lengths = [
            max(size, taps)
            for size, taps in zip(self.values[0].shape[2:], geometry.kernel, strict=True)
        ]
        axes = tuple(range(2, 2 + len(lengths)))
        weight = self.site.map.weight.detach().double()
        kernels = torch.fft.rfftn(weight, lengths, axes).conj().flatten(2).permute(2, 1, 0)
        if len(kernels) * weight.shape[1] ** 2 > MOST_IN_SPECTRA:
            return None
        count = sum(map(len, self.values))
        sums = torch.stack([value.double().sum((0, *axes)) for value in self.values])
        mean = sums.sum(0) / (count * self.values[0][0, 0].numel())
        total = torch.zeros(len(kernels), weight.shape[1], weight.shape[1], dtype=kernels.dtype)
        for value in self.values:
            centred = value.double() - _second(mean, value)
            found = torch.fft.rfftn(centred, lengths, axes).flatten(2).permute(2, 0, 1)
            total += (found.mH @ found).cpu()
        twice = torch.full((lengths[-1] // 2 + 1,), 2.0, dtype=torch.float64)
        twice[0] = 1.0
        if lengths[-1] % 2 == 0:
            twice[-1] = 1.0
        share = twice.repeat(len(kernels) // len(twice)) / (count * float(np.prod(lengths)) ** 2)
        return (total * share[:, None, None]).numpy(), kernels.resolve_conj().cpu().numpy()

    @torch.no_grad()
    def _refit(self, gone: NDArray[np.int64]) -> Mapping[str, NDArray[np.floating]]:
        weight = self.site.map.weight.detach().float()
        stays = np.ones(weight.shape[1], bool)
        stays[gone] = False
        kept = torch.from_numpy(np.flatnonzero(stays)).to(weight.device)
        fitted, change = self._descend(weight, kept)
        whole = torch.zeros_like(weight)
        whole[:, kept] = fitted
        found = {self._name(self.site.map.weight): whole.to(self.site.map.weight.dtype)}
        if (bias := self.site.bias) is not None:
            found[self._name(bias)] = bias + change.to(bias.dtype)
        elif (mean := self.site.mean) is not None:
            found[self._name(mean)] = mean - change.to(mean.dtype)
        return {name: tensor.detach().cpu().numpy() for name, tensor in found.items()}

    def _name(self, tensor: torch.Tensor) -> str:
        return self.names[id(tensor)]

    def _descend(
        self, weight: torch.Tensor, kept: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(weights of the channels kept, change of each output's mean), by conjugate gradients.

        Each output has a step length of its own: they are problems of their own.
        """
        z = weight[:, kept].clone()
        inputs = [value[:, kept] for value in self.values]
        present = [self._contract(x, z) for x in inputs]
        wrong = [
            self._contract(value, weight) - now
            for value, now in zip(self.values, present, strict=True)
        ]
        count = sum(one.numel() // one.shape[1] for one in wrong)
        squares = sum(float(x.square().sum()) for x in inputs)
        numbers = max(1, sum(x.numel() for x in inputs))
        ridge = RIDGE * count * squares / numbers
        residual = self._centre(wrong)
        start = z.clone()
        gradient = self._back(inputs, residual, z)
        direction, size = gradient.clone(), _per_output(gradient)
        for _ in range(STEPS):
            given = [self._contract(x, direction) for x in inputs]
            moved = self._centre(given)
            curvature = sum(_over_places(one.square()) for one in moved)
            curvature = curvature + ridge * _per_output(direction)
            length = size / curvature.clamp_min(1e-30)
            z = z + direction * _first(length, z)
            for one, step in zip(residual, moved, strict=True):
                one.sub_(step * _second(length, step))
            gradient = self._back(inputs, residual, z) - ridge * (z - start)
            new = _per_output(gradient)
            direction = gradient + direction * _first(new / size.clamp_min(1e-30), z)
            size = new
        if not self.site.has_intercept:
            return z, torch.zeros(len(z), device=z.device)
        left = [
            self._contract(value, weight) - self._contract(x, z)
            for value, x in zip(self.values, inputs, strict=True)
        ]
        return z, sum(map(_over_places, left), torch.zeros(len(z), device=z.device)) / count

    def _contract(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return self.call.with_arguments(input=x, weight=weight, bias=None).run_one()

    def _back(
        self, inputs: list[torch.Tensor], given: list[torch.Tensor], like: torch.Tensor
    ) -> torch.Tensor:
        """The transpose of ``_given`` in its weight."""
        total = torch.zeros_like(like)
        for x, one in zip(inputs, given, strict=True):
            with torch.enable_grad():
                weight = torch.zeros_like(like, requires_grad=True)
                result = self._contract(x, weight)
            total += torch.autograd.grad(result, weight, one)[0]
        return total

    def _centre(self, parts: list[torch.Tensor]) -> list[torch.Tensor]:
        """Less the mean of each output over all images and places, where there is an intercept."""
        if not self.site.has_intercept:
            return [part.clone() for part in parts]
        count = sum(part.numel() // part.shape[1] for part in parts)
        mean = torch.stack([_over_places(part) for part in parts]).sum(0) / count
        return [part - _second(mean, part) for part in parts]


def _per_output(weight: torch.Tensor) -> torch.Tensor:
    return weight.square().flatten(1).sum(1)


def _over_places(value: torch.Tensor) -> torch.Tensor:
    return value.transpose(0, 1).flatten(1).sum(1)


def _first(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return vector.reshape(-1, *[1] * (like.dim() - 1))


def _second(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return vector.reshape(1, -1, *[1] * (like.dim() - 2))
