"""Report of a cut's fidelity after each step, measured on held-out calibration images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from secateurs import formatting
from secateurs.formatting import percent
from secateurs.reconstruction.fidelity import MEASURES, Fidelity
from secateurs.reconstruction.layers import LayerRepair


@dataclass(frozen=True, slots=True)
class Stage:
    """One step towards the small model.

    Attributes:
        name: name such as 'dropped', 'repaired' or 'distilled'.
        fidelity: fidelity to the dense model after the step.
        seconds: duration of the step.
    """

    name: str
    fidelity: Fidelity
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FidelityReport:
    """Fidelity of a cut model to the dense one, step by step.

    Attributes:
        stages: the steps, in order.
        kept: name of the stage whose weights the model has: the most faithful.
        images: number of calibration images in total.
        layers: results of least squares, layer by layer.
        seconds: duration of what is computed once for any budget: orders and curves.
        peak_bytes: peak size of the values that the repair held at once.
        second_domain: fidelity on images of a second domain, if any were given.
        last_layers: layers whose results were compared, where values decide on the shapes of the
            model's outputs (a detector's boxes); otherwise none, and the outputs were compared.
    """

    stages: tuple[Stage, ...]
    kept: str
    images: int
    layers: tuple[LayerRepair, ...] = ()
    seconds: float = 0.0
    peak_bytes: int = 0
    second_domain: Fidelity | None = None
    last_layers: tuple[str, ...] = ()

    @property
    def fidelity(self) -> Fidelity:
        """Fidelity of the model as it is."""
        return self[self.kept]

    def __getitem__(self, stage: str) -> Fidelity:
        return next(one.fidelity for one in self.stages if one.name == stage)

    def __contains__(self, stage: object) -> bool:
        return any(one.name == stage for one in self.stages)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def with_stage(self, stage: Stage, *, keeps: bool) -> FidelityReport:
        """Add a step, whose weights the model has (``keeps``) or not."""
        return replace(self, stages=(*self.stages, stage), kept=stage.name if keeps else self.kept)

    @property
    def trust(self) -> str:
        """How reliable the figures are, in a sentence."""
        judged = self.fidelity.images
        text = (
            f"Evaluated on {judged} of {self.images} calibration images, which were held out: "
            f"accurate to about {self.fidelity.error:.2g}"
        )
        if self.second_domain is None:
            return (
                f"{text}. No data of a second domain were given, so nothing is known about other "
                "domains."
            )
        return f"{text}. On the second domain: {self.second_domain}."

    def __str__(self) -> str:
        kind = MEASURES.get(self.fidelity.kind, "KL to dense")
        rows = [
            (
                f"{stage.name}{' *' if stage.name == self.kept else ''}",
                f"{stage.fidelity.distance:.4g}",
                "-" if stage.fidelity.agreement is None else percent(stage.fidelity.agreement),
                f"{stage.seconds:.1f}",
            )
            for stage in self.stages
        ]
        table = formatting.table(("step", kind, "agree", "seconds"), rows, (1, 2, 3))
        once = f"Ranking and curves took {self.seconds:.1f} s. " if self.seconds else ""
        return f"{table}\n\n* is kept. {once}{self.trust}{self._comparison}"

    @property
    def _comparison(self) -> str:
        if not self.last_layers:
            return ""
        return (
            " Compared were not the model's outputs, whose number depends on values, but what they "
            f"are chosen from: the results of {', '.join(self.last_layers)}."
        )
