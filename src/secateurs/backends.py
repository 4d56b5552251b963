"""The interface that a framework package implements, in one place.

A backend is the package ``secateurs.pytorch`` or ``secateurs.keras``: it holds these functions
under these names. The requirements:

- **The user's model is never changed.** Functions return a new one, or restore what they moved.
- **Everything that crosses this interface is framework-free**: a ``Network``, a ``Cut``, NumPy
  arrays. Models, optimizers and losses are passed through opaquely.
- **The same names, the same keywords, the same errors** in both packages, so that every caller
  serves both. ``tests/contract`` checks both.

Neither package is imported here before it is needed: whoever holds a model has imported its
framework already, and ``import secateurs`` stays free of both.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from secateurs.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from secateurs.calibration.ablation import Ablation
    from secateurs.calibration.batches import CalibrationBatch
    from secateurs.calibration.needs import Need
    from secateurs.calibration.peers import Peers
    from secateurs.calibration.statistics import CalibrationStatistics
    from secateurs.channels.blocks import BlockCut
    from secateurs.channels.cut import Cut
    from secateurs.channels.network import Group, Network
    from secateurs.measurement.conditions import Conditions
    from secateurs.planning.error_curves import GroupTrial, MeasuredContraction
    from secateurs.reconstruction.fidelity import Fidelity
    from secateurs.reconstruction.layers import Walked
    from secateurs.settings.training import Training
    from secateurs.training.distillation import Distilled
    from secateurs.training.learner import Learner
    from secateurs.training.task import LearningTask

_PACKAGES = {"pytorch": "secateurs.pytorch", "keras": "secateurs.keras"}
_REPAIRING = {
    "pytorch": "secateurs.pytorch.reconstruction",
    "keras": "secateurs.keras.reconstruction",
}

Loss = Callable[[Any, Any], Any]
"""(outputs, labels) -> one loss for each example, in the framework's own tensors."""

Outputs = str | int | Sequence[str | int]
"""The name or position of an output of a model, or several of them."""


class Backend(Protocol):
    """A framework. See the module's docstring for the requirements."""

    @property
    def TaskLearner(self) -> Callable[..., Learner]:  # noqa: N802
        """Like ``Learner`` for a task: (..., training, task, outputs=None)."""

    @property
    def Learner(self) -> Callable[..., Learner]:  # noqa: N802
        """(model, train, validation, test, training, outputs=None) -> a ``Learner``."""

    def tasks_of(self, model: Any) -> Mapping[str, LearningTask]:
        """The built-in tasks by name, for this model."""

    def default_task(self, model: Any, data: Any = None) -> LearningTask | None:
        """The task that the model itself implies; None for classification."""

    def trace(self, model: Any, example_inputs: Any, *, outputs: Outputs | None = None) -> Network:
        """Find the channels of a model and everything that is coupled to them."""

    def apply(
        self,
        model: Any,
        cut: Cut,
        example_inputs: Any,
        *,
        optimizer: Any = None,
        network: Network | None = None,
        proof: bool | Literal["independent"] = True,
        outputs: Outputs | None = None,
    ) -> Any:
        """Apply a cut: a new model, proven against the masked twin of the dense one."""

    def delete_channels(
        self,
        model: Any,
        channels: Mapping[str, Sequence[int]],
        example_inputs: Any,
        *,
        outputs: Outputs | None = None,
    ) -> Any:
        """Remove the given filters and everything coupled to them."""

    def save(self, model: Any, path: str | Path) -> None:
        """Write a model's weights together with the cut that made it."""

    def load(self, model: Any, path: str | Path, **options: bool) -> Any:
        """Load what ``save`` wrote into a freshly built dense model; returns a new, cut one.

        A ``.keras`` file holds the whole model: Keras's package loads it without one (None).
        """

    def collect_statistics(
        self, network: Network, needs: Need, data: Any, *, loss: Loss | None, caller: str
    ) -> CalibrationStatistics:
        """Collect everything that criteria need of calibration data, in one pass."""

    def ablate_channels(self, network: Network, data: Any, **options: Any) -> Ablation:
        """Measure how the loss changes when each channel alone is removed."""

    def evaluate_cut(
        self,
        network: Network,
        cut: Cut,
        images: Sequence[CalibrationBatch],
        recalibrate: Sequence[CalibrationBatch] = (),
        loss: Loss | None = None,
        task: LearningTask | None = None,
    ) -> tuple[NDArray[np.float64], float | None]:
        """(loss of each image, accuracy or a task's metric) of the network after a cut."""

    def distil(
        self,
        small: Any,
        dense: Any,
        images: Sequence[CalibrationBatch],
        *,
        steps: int | None = None,
        seconds: float | None = None,
        held_out: Sequence[CalibrationBatch],
        seed: int = 0,
        **options: Any,
    ) -> Distilled:
        """Train a copy of a small model to match the dense one's outputs, without labels."""

    def runner(
        self, model: Any, example_inputs: Any, conditions: Conditions
    ) -> Callable[[], object]:
        """A callable that runs the model once under these conditions and synchronises."""

    def batch_size(self, example_inputs: Any, conditions: Conditions) -> int:
        """Number of examples in such a run."""

    def peak_memory(self, model: Any, example_inputs: Any) -> int:
        """Bytes of weights, inputs and activations that a forward pass holds at its peak."""

    def outputs(self, model: Any, example_inputs: Any) -> list[NDArray[Any]]:
        """Outputs of the model on these inputs, in inference mode."""

    def next_scores(self, model: Any) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
        """A function of tokens (texts, places), each call one more, to scores of the next."""

    def has_channels_last(self, model: Any, shape: tuple[int, int, int]) -> bool:
        """Whether the model takes images of shape (C, H, W) with their channels last."""

    def input_arrays(self, model: Any, example_inputs: Any) -> list[NDArray[Any]]:
        """The inputs as arrays, in the order in which the model takes them."""

    def write_file(self, model: Any, path: Path, example_inputs: Any, target: str) -> bool:
        """Write the model for a runtime. Returns whether the batch size is dynamic."""

    def run_file(
        self, model: Any, path: Path, example_inputs: Any, target: str
    ) -> list[NDArray[Any]]:
        """Outputs of a written file on these inputs, run by its own runtime."""

    def default_training(self, model: Any, given: Training | None = None) -> Training:
        """Training settings of a model: those given, and for the rest its own compilation's."""


class Repairing(Protocol):
    """What repair needs of a framework: sums and copies; solvers use NumPy.

    The package ``reconstruction`` inside each framework's package holds these functions.
    """

    def arrays(self, model: Any) -> Mapping[str, NDArray[Any]]:
        """Every tensor of a model, by its name in the network."""

    def copy_of(self, model: Any) -> Any:
        """A copy of the model, with the evidence of its cut."""

    def working_copy(
        self,
        model: Any,
        example_inputs: Any,
        used: tuple[str, ...] | None = None,
        *,
        is_by_values: bool = False,
    ) -> tuple[Any, Any]:
        """(a copy that may be changed, the example inputs for it), in single precision or better.

        The copy returns only the outputs named in ``used``; None for all. Of a model whose outputs'
        shapes are decided by values (``is_by_values``), it may return the results of its last
        layers before that.
        """

    def last_layers_of(self, model: Any) -> tuple[str, ...]:
        """Names of the layers whose results a working copy returns; none if the model's outputs."""

    def first_example(self, model: Any, data: Any) -> tuple[Any, Any] | None:
        """(example inputs, the data) for a model that takes images in lists; None for others."""

    def read_images(self, network: Network, data: Any, caller: str) -> list[CalibrationBatch]:
        """Checked calibration batches of the form that the working copy takes, in memory."""

    def copy_weights_(self, source: Any, target: Any) -> None:
        """Copy one model's values into another, cast to its own types."""

    def outputs(
        self, model: Any, batches: Sequence[CalibrationBatch]
    ) -> Iterator[list[NDArray[Any]]]:
        """Outputs of a model in evaluation mode, batch by batch."""

    def contractions_of(
        self,
        network: Network,
        images: CalibrationBatch,
        kind: str,
        seed: int,
        answers: int = 1,
        groups: Sequence[Group] | None = None,
        *,
        peers: Peers = ...,
    ) -> list[MeasuredContraction]:
        """The dense network's sums at each contraction that reads channels of these groups.

        They are over the images of all ``peers``, each of which passes its own.
        """

    def judge_trials(
        self,
        network: Network,
        images: CalibrationBatch,
        trials: Sequence[GroupTrial],
        kind: str,
        tick: Callable[[], None] = ...,
        *,
        loss: Loss | None = None,
    ) -> list[Fidelity]:
        """Fidelity of the network with some channels removed and some weights changed.

        With a loss, the increase of that loss on the images' labels; the kind is "loss" then.
        """

    def walk(
        self,
        network: Network,
        small: Any,
        alive: NDArray[np.bool_],
        fit: CalibrationBatch,
        held: CalibrationBatch,
        cut: Cut | None = None,
        *,
        peers: Peers = ...,
    ) -> Walked:
        """Refit a cut model's weights in place, step by step with the dense model.

        For blocks that this cut removes whole, only the dense model's steps are run. Weights are
        fitted to the images of all ``peers``, each of which passes its own.
        """

    def skip_blocks(self, model: Any, blocks: Sequence[BlockCut]) -> Any:
        """The model without these blocks, sharing its weights with the given one."""

    def repair_without_images_(self, network: Network, small: Any, cut: Cut) -> list[str]:
        """Let kept channels stand in for removed ones, using moments known without images.

        Returns the names of the weights that changed; none where no moments are known.
        """

    def reestimate_moments(self, model: Any, batches: Sequence[CalibrationBatch]) -> Any:
        """A copy with batch normalisation's moments estimated anew; None if it has none."""

    def unlike_calibration(
        self, model: Any, batches: Sequence[CalibrationBatch]
    ) -> tuple[float, str] | None:
        """How far images are from what batch normalisation saw in training, and in which layer."""


def backend_of(model: Any) -> Backend:
    """The backend of a model's framework.

    Raises:
        ModelError: the model is neither a PyTorch module nor a Keras 3 model.
    """
    return backend_named(framework_of(model))


def framework_of(model: Any) -> str:
    """'pytorch' or 'keras'.

    Raises:
        ModelError: the model is neither a PyTorch module nor a Keras 3 model.
    """
    keras, torch = sys.modules.get("keras"), sys.modules.get("torch")
    # Keras first: on the PyTorch backend its models are PyTorch modules too.
    if keras is not None and hasattr(keras, "Model") and isinstance(model, keras.Model):
        return "keras"
    if torch is not None and isinstance(model, torch.nn.Module):
        return "pytorch"
    raise ModelError(
        f"expected a torch.nn.Module or a keras.Model; received {type(model).__name__}. "
        "Pass the model itself, not its name, path or state."
    )


def is_model(value: Any) -> bool:
    """Whether a value is a model of a framework that has a backend."""
    try:
        return bool(framework_of(value))
    except ModelError:
        return False


def backend_named(framework: str) -> Backend:
    """The backend of a framework by its name, such as ``network.source.framework``."""
    return cast(Backend, importlib.import_module(_PACKAGES[framework]))


def can_repair(framework: str) -> bool:
    """Whether a framework implements ``Repairing``."""
    return framework in _REPAIRING


def repairing(framework: str) -> Repairing:
    """The part of a framework that repair needs.

    Raises:
        ModelError: the framework does not implement it.
    """
    if not can_repair(framework):
        raise ModelError(
            f"repair: expected a model of {', '.join(_REPAIRING)}; received one of {framework}. "
            "Pass repair=False, and fine-tune the cut model."
        )
    return cast(Repairing, importlib.import_module(_REPAIRING[framework]))
