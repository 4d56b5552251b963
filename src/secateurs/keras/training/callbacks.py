"""Pruning during ``fit``, as far as Keras allows it, and progress in Keras's style.

Keras compiles a training step for tensors of fixed shapes and builds the optimizer for fixed
variables, so no layer can change its size before ``fit`` ends. Channels can be silenced, however:
the weights that read them are held at zero, which trains exactly what the cut model would train,
but not faster. After ``fit``, ``prune`` applies the cut. ``secateurs.iterate`` is a loop in which
training gets faster from round to round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import takes_as_annotated
from secateurs.calibration.racing import Scope
from secateurs.channels.cut import Cut
from secateurs.channels.network import Group, Network
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.scoring import score
from secateurs.errors import CutError, ModelError, SecateursError
from secateurs.keras.cutting import apply
from secateurs.keras.internals import Layer, Variable, average_of, say, sync_
from secateurs.keras.model.tensors import ModelTensor, path_of
from secateurs.keras.proof.masked_twin import Kept
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.trace_model import TracedModel, source_of, trace
from secateurs.planning.planner import plan
from secateurs.study.history import Record
from secateurs.training.callbacks import Watcher


class PruneOnSchedule(keras.callbacks.Callback):  # type: ignore[misc]
    """Callback that silences channels while ``fit`` runs; ``prune()`` then returns the cut model.

    Attributes:
        cut: channels silenced so far.
        skipped: groups that are not silenced, because something other than weights reads them.
    """

    @takes_as_annotated(SecateursError)
    def __init__(
        self,
        schedule: Mapping[int, float],
        criterion: str | Callable[[GroupData], NDArray[np.floating]] = "l1_mean",
        data: object = None,
        *,
        example_inputs: object = None,
        scope: Scope = "group",
        floor: float = 0.1,
        skip: Sequence[str | Layer] = (),
        seed: int = 0,
    ) -> None:
        """Set the schedule and how channels are ranked.

        Args:
            schedule: number of completed epochs -> fraction of the dense model's channels that are
                silent from then on, such as {1: 0.1, 2: 0.2, 3: 0.3}; fractions must increase.
            criterion: criterion that ranks the channels, evaluated anew at each step.
            data: calibration data, for criteria that need it.
            example_inputs: as for ``secateurs.trace``.
            scope: as for ``secateurs.plan``.
            floor: as for ``secateurs.plan``.
            skip: as for ``secateurs.plan``.
            seed: seed of stochastic criteria.

        Raises:
            SecateursError: the fractions do not increase, or are not between 0 and 1.
        """
        super().__init__()
        self._schedule = dict(sorted(schedule.items()))
        shares = [0.0, *self._schedule.values(), 1.0]
        if not self._schedule or any(b <= a for a, b in pairwise(shares)):
            raise SecateursError(
                "PruneOnSchedule: expected shares between 0 and 1 that rise from epoch to epoch, "
                f"such as {{1: 0.1, 2: 0.2}}; received {dict(schedule)}"
            )
        self._criterion, self._data, self._seed = criterion, data, seed
        self._example_inputs = example_inputs
        self._scope: Scope = scope
        self._floor = floor
        self._skip = tuple(skip)
        self._network: Network | None = None
        self._share = 0.0
        self._is_first_epoch = False
        self._constraints: dict[int, tuple[Variable, keras.constraints.Constraint | None]] = {}
        self.cut = Cut()
        self.skipped: list[str] = []

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Trace the model and find the groups that can be silenced."""
        del logs
        self._is_first_epoch = True
        self._network = network = trace(self.model, self._example_inputs)
        self.skipped = [
            group.name for group in network.groups if not _can_be_silenced(network, group)
        ]
        if len(self.skipped) == len(network.groups):
            raise ModelError(
                f"{self.model.name}: expected channels that only layers' weights read; received "
                "none such. Use secateurs.prune between two calls of fit."
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """At the first epoch of a resumed ``fit``, silence the channels that are due by then.

        This is done here, and not in ``on_train_begin``, because ``BackupAndRestore`` has restored
        the weights by now, whatever its position in the list of callbacks.
        """
        del logs
        if self._is_first_epoch and self._network is not None:
            past = [share for done, share in self._schedule.items() if done <= epoch]
            if self.cut or past:
                self._silence_share_(self._network, max(self._share, *past, 0.0))
        self._is_first_epoch = False

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Silence the channels that are due, and log the fraction of silent channels."""
        share = self._schedule.get(epoch + 1, 0.0)
        if self._network is not None and share > self._share:
            self._silence_share_(self._network, share)
        if self._network is not None and logs is not None:
            logs["silent_channels"] = self._silent_share(self._network)

    def _silence_share_(self, network: Network, share: float) -> None:
        """Silence this fraction of the channels from now on; silent channels stay silent."""
        sync_(self.model)
        if share > self._share:
            self.cut, self._share = self._plan(network, share), share
        self._silence_(network)
        # The compiled training step lacks the new constraints.
        self.model.make_train_function(force=True)
        if (self.params or {}).get("verbose"):
            say(f"\nPruneOnSchedule: {self._describe(network)}")

    def _silent_share(self, network: Network) -> float:
        return self.cut.removed_channels / sum(len(group) for group in network.groups)

    def _describe(self, network: Network) -> str:
        total = sum(len(group) for group in network.groups)
        params, left = network.params(), network.params(self.cut)
        return (
            f"{self.cut.removed_channels} of {total} channels are silent; without them "
            f"{left:,} of {params:,} parameters stay"
        )

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Remove the constraints; the weights are left at zero where they read silent channels."""
        del logs
        for variable, constraint in self._constraints.values():
            if average_of(self.model.optimizer, variable) is not None:
                # ``fit`` has just assigned the average, which was taken before the constraint.
                variable.assign(variable.constraint.silence(variable.value))
            variable.constraint = constraint
        self._constraints.clear()

    def prune(self, example_inputs: object = None) -> keras.Model:
        """Return the cut model, proven, with the optimizer's state sliced along.

        Args:
            example_inputs: inputs both models are run on for the proof.

        Raises:
            SecateursError: no channel has been silenced yet.
            CutError: weights of silent channels were changed since, for example by EarlyStopping
                with ``restore_best_weights``.
        """
        if not self.cut:
            raise SecateursError(
                "PruneOnSchedule: expected a model in which channels are silent; received one in "
                f"which none are. Fit it for at least {min(self._schedule)} epochs with "
                "callbacks=[callback], then call callback.prune()."
            )
        network = trace(self.model, example_inputs)
        _check_silent(network, self.cut)
        return apply(self.model, self.cut, example_inputs, network=network)

    pruned = prune  # earlier name, kept for compatibility

    def _plan(self, network: Network, share: float) -> Cut:
        found = score(network, self._criterion, data=self._data, seed=self._seed)
        scores = dict(found)
        silent = {name: list(gone.removed) for name, gone in self.cut.channels.items()}
        for name, channels in (silent or _find_silent(network)).items():
            scores[name] = scores[name].copy()
            scores[name][channels] = -np.inf  # silent channels stay silent
        skip = (*(path_of(self.model, layer) for layer in self._skip), *self.skipped)
        return plan(network, scores, amount=share, skip=skip, scope=self._scope, floor=self._floor)

    def _silence_(self, network: Network) -> None:
        alive = network.alive(network.removed_by(self.cut))
        for leaf, mask in silencing(network, alive):
            variable = leaf.variable
            _, constraint = self._constraints.setdefault(
                id(variable), (variable, variable.constraint)
            )
            variable.constraint = Silent(mask, constraint)
            variable.assign(leaf.variable.value * keras.ops.cast(mask, variable.dtype))
            average = average_of(self.model.optimizer, variable)
            if average is not None:  # assigned to the weight at the end of fit
                average.assign(average.value * keras.ops.cast(mask, average.dtype))


class Silent(keras.constraints.Constraint):  # type: ignore[misc]
    """Constraint that holds a weight at zero where it reads silent channels."""

    def __init__(
        self, mask: NDArray[np.float32], constraint: keras.constraints.Constraint | None
    ) -> None:
        """Set the mask and the constraint it is added to.

        Args:
            mask: mask of the weight's shape: 0 where the weight is held at zero, else 1.
            constraint: the user's constraint, applied as well; or None.
        """
        self._mask = mask
        self._constraint = constraint

    def __call__(self, w: BackendTensor) -> BackendTensor:
        """Return the constrained weight."""
        return self.silence(w if self._constraint is None else self._constraint(w))

    def silence(self, held: BackendTensor) -> BackendTensor:
        """Return the values with zeros where the mask is 0."""
        mask = keras.ops.convert_to_tensor(self._mask)
        silent: BackendTensor = held * keras.ops.cast(mask, held.dtype)
        return silent


def silencing(
    network: Network, alive: NDArray[np.bool_]
) -> list[tuple[ModelTensor, NDArray[np.float32]]]:
    """List (weight, mask: 0 where it reads a removed channel, else 1) of the weights that do."""
    kept = Kept(network.solution.mark_kept(alive))
    masks: dict[str, tuple[ModelTensor, NDArray[np.float32]]] = {}
    for (name, axis), leaf in source_of(network).read.items():
        units = leaf.axes.get(axis)
        if units is not None and not kept.stays[units].all():
            stays = kept.along_axis(units, len(leaf.shape), axis).astype(np.float32)
            known = masks[name][1] if name in masks else np.ones(leaf.shape, np.float32)
            masks[name] = (leaf, known * stays)
    return list(masks.values())


def _find_silent(network: Network) -> dict[str, list[int]]:
    """Map groups to channels whose readers are all zero: those an interrupted ``fit`` silenced."""
    atoms = network.solution.atoms
    is_read, has_nonzero = np.zeros((2, network.solution.count), bool)
    for (_, axis), leaf in source_of(network).read.items():
        units = leaf.axes.get(axis)
        if units is not None:
            others = tuple(other for other in range(len(leaf.shape)) if other != axis)
            is_read[atoms[units]] = True
            has_nonzero[atoms[units[np.any(leaf.array() != 0, others)]]] = True
    silent = is_read & ~has_nonzero
    return {
        group.name: np.flatnonzero(silent[group.channels]).tolist()
        for group in network.groups
        if silent[group.channels].any()
    }


def _check_silent(network: Network, cut: Cut) -> None:
    """Raise if a weight that reads silent channels is not zero: the cut would change the model."""
    for leaf, mask in silencing(network, network.alive(network.removed_by(cut))):
        nonzero = int(np.count_nonzero(leaf.array()[mask == 0]))
        if nonzero:
            raise CutError(
                f"{leaf.name}: expected zero weights where silent channels are read; {nonzero} of "
                f"{int((mask == 0).sum())} weights are not. Something has changed them since, "
                "such as EarlyStopping(restore_best_weights=True) or ModelCheckpoint: continue "
                "from the last weights, or make the cut anyway and fine-tune: "
                "secateurs.apply(model, callback.cut)"
            )


def _can_be_silenced(network: Network, group: Group) -> bool:
    """Return whether zeroing weights is equivalent to removing the group's channels."""
    source = network.source
    atoms = network.solution.atoms
    touched = [mixing.units for mixing in network.mixings]
    if isinstance(source, TracedModel):
        touched += [mask.units for operation in source.operations for mask in operation.masks]
    return not any(np.isin(atoms[units], group.channels).any() for units in touched)


class Progress(Watcher):
    """Watcher that shows ``secateurs.iterate`` like Keras shows ``fit``: ``watcher=Progress()``."""

    def __init__(self) -> None:
        self._bars: list[keras.utils.Progbar | None] = []

    def begin(self, stage: str, batches: int, done: int = 0) -> None:
        """Start a progress bar; nested stages have none."""
        if self._bars:
            self._bars.append(None)
            return
        say(f"{stage[:1].upper()}{stage[1:]}")
        self._bars.append(keras.utils.Progbar(batches))
        self._done = done

    def tick(self) -> None:
        """Count one batch."""
        if len(self._bars) == 1 and (bar := self._bars[0]) is not None:
            self._done += 1
            bar.update(self._done)

    def end(self) -> None:
        """Finish the bar."""
        bar = self._bars.pop()
        if bar is not None and self._done < (bar.target or 0):
            bar.update(self._done, finalize=True)

    def recorded(self, record: Record) -> None:
        """Print a line for each cut and each evaluation."""
        known = {
            key: record[key]
            for key in ("round", "channels", "params", "macs", "accuracy", "loss", "reason")
            if record.get(key) is not None
        }
        values = " - ".join(
            f"{key}: {value:.4f}" if isinstance(value, float) else f"{key}: {value}"
            for key, value in known.items()
        )
        say(f"{record['kind']} - {values}")
