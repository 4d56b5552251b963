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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from secateurs.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from secateurs.calibration.ablation import Ablation
    from secateurs.calibration.batches import CalibrationBatch
    from secateurs.calibration.needs import Need
    from secateurs.calibration.statistics import CalibrationStatistics
    from secateurs.channels.cut import Cut
    from secateurs.channels.network import Network
    from secateurs.settings.configuration import Training
    from secateurs.training.learner import Learner

_PACKAGES = {"pytorch": "secateurs.pytorch", "keras": "secateurs.keras"}

Loss = Callable[[Any, Any], Any]
"""(outputs, labels) -> one loss for each example, in the framework's own tensors."""


class Backend(Protocol):
    """A framework, as the rest of the house sees it. See the module's requirements."""

    @property
    def Learner(self) -> Callable[[Any, Any, Any, Any, Training], Learner]:  # noqa: N802
        """(model, train, validation, test, training) -> a model in training."""

    def trace(self, model: Any, example_inputs: Any) -> Network:
        """Find the channels of a model and everything that is coupled to them."""

    def apply(
        self,
        model: Any,
        cut: Cut,
        example_inputs: Any,
        *,
        network: Network | None = None,
        proof: bool = True,
    ) -> Any:
        """Make a cut: a new model, proven against the masked twin of the old one."""

    def delete_channels(
        self, model: Any, channels: Mapping[str, Sequence[int]], example_inputs: Any
    ) -> Any:
        """Remove these filters, and whatever is coupled to them."""

    def save(self, model: Any, path: str | Path) -> None:
        """Write a model's weights and the cut that leads to it."""

    def load(self, model: Any, path: str | Path) -> Any:
        """Read what ``save`` wrote into a freshly built dense model; a new, cut one."""

    def collect_statistics(
        self, network: Network, needs: Need, data: Any, *, loss: Loss | None, who: str
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
    ) -> tuple[NDArray[np.float64], float | None]:
        """(the loss of each image, share classified right or None) after a cut."""

    def default_training(self, model: Any) -> Training:
        """How to train a model of which nothing is said."""


def backend_of(model: Any) -> Backend:
    """The backend of this model's framework.

    Raises:
        ModelError: it is neither a PyTorch module nor a Keras 3 model.
    """
    keras, torch = sys.modules.get("keras"), sys.modules.get("torch")
    # Keras first: on the PyTorch backend its models are PyTorch modules too.
    if keras is not None and hasattr(keras, "Model") and isinstance(model, keras.Model):
        return backend_named("keras")
    if torch is not None and isinstance(model, torch.nn.Module):
        return backend_named("pytorch")
    raise ModelError(
        f"expected a torch.nn.Module or a keras.Model; received {type(model).__name__}. "
        "Pass the model itself, not its name, path or state."
    )


def backend_named(framework: str) -> Backend:
    """The backend of a framework that is called so; ``network.source.framework`` says it."""
    return cast(Backend, importlib.import_module(_PACKAGES[framework]))
