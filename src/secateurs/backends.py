"""What a framework owes to the rest of the house, in one place.

A backend is the package ``secateurs.pytorch`` or ``secateurs.keras``: it holds these functions
under these names. The requirements:

- **The user's model is never changed.** Functions return a new one, or put back what they moved.
- **Everything that crosses this line is framework-free**: a ``Network``, a ``Cut``, NumPy arrays.
  Models, optimizers and losses are passed through unread.
- **The same names, the same keywords, the same errors** in both packages, so that every caller
  above serves both. ``tests/contract`` holds both to it.

Neither package is imported here before it is needed: a model can only be of a framework that its
user has imported already, and ``import secateurs`` stays free of both.
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
"""The name or place of an output of a model, or several of them."""


class Backend(Protocol):
    """A framework, as the rest of the house sees it. See the module's requirements."""

    @property
    def TaskLearner(self) -> Callable[..., Learner]:  # noqa: N802
        """The same for a task: (..., training, task, outputs=None)."""

    @property
    def Learner(self) -> Callable[..., Learner]:  # noqa: N802
        """(model, train, validation, test, training, outputs=None) -> a model in training."""

    def tasks_of(self, model: Any) -> Mapping[str, LearningTask]:
        """The ready tasks by name, as they are for this model."""

    def default_task(self, model: Any, data: Any = None) -> LearningTask | None:
        """What a model itself says that it is for, other than to tell classes."""

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
        """Make a cut: a new model, proven against the masked twin of the old one."""

    def delete_channels(
        self,
        model: Any,
        channels: Mapping[str, Sequence[int]],
        example_inputs: Any,
        *,
        outputs: Outputs | None = None,
    ) -> Any:
        """Remove these filters, and whatever is coupled to them."""

    def save(self, model: Any, path: str | Path) -> None:
        """Write a model's weights and the cut that leads to it."""

    def load(self, model: Any, path: str | Path, **options: bool) -> Any:
        """Read what ``save`` wrote into a freshly built dense model; a new, cut one."""

    def collect_statistics(
        self, network: Network, needs: Need, data: Any, *, loss: Loss | None, caller: str
    ) -> CalibrationStatistics:
        """All that criteria need of calibration data, in one pass over them."""

    def ablate_channels(self, network: Network, data: Any, **options: Any) -> Ablation:
        """What the loss does when each channel is removed, alone."""

    def evaluate_cut(
        self,
        network: Network,
        cut: Cut,
        images: Sequence[CalibrationBatch],
        recalibrate: Sequence[CalibrationBatch] = (),
        loss: Loss | None = None,
        task: LearningTask | None = None,
    ) -> tuple[NDArray[np.float64], float | None]:
        """(the loss of each image, share classified right or a task's metric) after a cut."""

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
        """Train a copy of a small model towards the dense one's outputs, without labels."""

    def runner(
        self, model: Any, example_inputs: Any, conditions: Conditions
    ) -> Callable[[], object]:
        """A callable that runs the model once under these conditions, and waits for the result."""

    def batch_size(self, example_inputs: Any, conditions: Conditions) -> int:
        """Examples that such a run takes."""

    def peak_memory(self, model: Any, example_inputs: Any) -> int:
        """Bytes of weights, inputs and activations that a pass holds at once."""

    def outputs(self, model: Any, example_inputs: Any) -> list[NDArray[Any]]:
        """What the model gives on these inputs, as for inference."""

    def input_arrays(self, model: Any, example_inputs: Any) -> list[NDArray[Any]]:
        """The inputs, in the order that the model takes them."""

    def write_file(self, model: Any, path: Path, example_inputs: Any, target: str) -> bool:
        """Write the model for a runtime; whether the number of examples is left open."""

    def run_file(
        self, model: Any, path: Path, example_inputs: Any, target: str
    ) -> list[NDArray[Any]]:
        """What a written file gives on these inputs, read back by its own runtime."""

    def default_training(self, model: Any, given: Training | None = None) -> Training:
        """How to train a model: as was asked for, and for the rest as it was trained itself."""


class Repairing(Protocol):
    """What repair takes of a framework: sums and copies; solvers are NumPy's.

    The package ``reconstruction`` inside a framework's own holds these functions.
    """

    def arrays(self, model: Any) -> Mapping[str, NDArray[Any]]:
        """Every tensor of a model, by the name that its network has for it."""

    def copy_of(self, model: Any) -> Any:
        """The same model, apart; with the evidence of its cut."""

    def working_copy(
        self, model: Any, example_inputs: Any, used: tuple[str, ...] | None = None
    ) -> tuple[Any, Any]:
        """(a copy that may be changed, the example inputs for it), in at least single precision.

        It gives the outputs that are used alone, by name; None for all.
        """

    def copy_weights_(self, source: Any, target: Any) -> None:
        """Let a model have another's values, in its own types."""

    def outputs(
        self, model: Any, batches: Sequence[CalibrationBatch]
    ) -> Iterator[list[NDArray[Any]]]:
        """What a model gives in evaluation, batch by batch."""

    def contractions_of(
        self,
        network: Network,
        images: CalibrationBatch,
        kind: str,
        seed: int,
        answers: int = 1,
        groups: Sequence[Group] | None = None,
    ) -> list[MeasuredContraction]:
        """The dense network's sums at each contraction that reads channels of these groups."""

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
        """How faithful the network is with some channels gone and some weights changed.

        With a loss, by how much it is higher with the images' labels; the kind is "loss" then.
        """

    def walk(
        self,
        network: Network,
        small: Any,
        alive: NDArray[np.bool_],
        fit: CalibrationBatch,
        held: CalibrationBatch,
        cut: Cut | None = None,
    ) -> Walked:
        """Refit a cut model's weights, in place, step by step with the dense one.

        Of blocks that went whole, by this cut, the dense one's steps are taken alone.
        """

    def skip_blocks(self, model: Any, blocks: Sequence[BlockCut]) -> Any:
        """The model without these blocks, around its very own weights."""

    def repair_without_images_(self, network: Network, small: Any, cut: Cut) -> list[str]:
        """Let channels stand in for others, by moments that are known without images.

        Returns the names of the weights that changed; none, where no moments are known.
        """

    def reestimate_moments(self, model: Any, batches: Sequence[CalibrationBatch]) -> Any:
        """A copy with batch normalisation's moments taken anew; None where there is none."""

    def unlike_calibration(
        self, model: Any, batches: Sequence[CalibrationBatch]
    ) -> tuple[float, str] | None:
        """How far images are from what batch normalisation saw in training, and where."""


def backend_of(model: Any) -> Backend:
    """The backend of this model's framework.

    Raises:
        ModelError: it is neither a PyTorch module nor a Keras 3 model.
    """
    return backend_named(framework_of(model))


def framework_of(model: Any) -> str:
    """'pytorch' or 'keras'.

    Raises:
        ModelError: it is neither a PyTorch module nor a Keras 3 model.
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


def backend_named(framework: str) -> Backend:
    """The backend of a framework that is called so; ``network.source.framework`` says it."""
    return cast(Backend, importlib.import_module(_PACKAGES[framework]))


def can_repair(framework: str) -> bool:
    """Whether a framework has what repair takes."""
    return framework in _REPAIRING


def repairing(framework: str) -> Repairing:
    """What repair takes of a framework.

    Raises:
        ModelError: the framework does not have it.
    """
    if not can_repair(framework):
        raise ModelError(
            f"repair: expected a model of {', '.join(_REPAIRING)}; received one of {framework}. "
            "Pass repair=False, and fine-tune the cut model."
        )
    return cast(Repairing, importlib.import_module(_REPAIRING[framework]))
