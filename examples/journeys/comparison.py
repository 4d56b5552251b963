"""A researcher holds a criterion of her own against others: budgets, rounds, repair, LaTeX."""

from pathlib import Path

import numpy as np

import secateurs as sec
from secateurs import data, models


def farthest_from_the_median(group):
    """Filters near the geometric median of their layer go first (He et al. 2019, in short)."""
    weights = group.filters[0]
    return np.linalg.norm(weights - np.median(weights, axis=0), axis=1)


def main() -> None:
    """Compare three criteria over two budgets in MACs, reached in two rounds each."""
    digits = data.load("digits", size=8, limit=600)

    def build(seed: int):
        del seed
        return models.vanilla_cnn(10, in_channels=1, size=8, width=8, hidden=16)

    results = sec.compare(
        build,
        digits.train,
        digits.validation,
        digits.test,
        strategies=("l1", farthest_from_the_median, "random"),
        amounts=(0.3, 0.6),
        unit="macs",
        seeds=2,
        rounds=2,
        repair=True,
        rewind="learning-rate",
        training=sec.Training(batches=150, fine_tune_batches=15, batch_size=50, optimizer="adamw",
                              learning_rate=0.02),
        directory="comparison",
    )  # fmt: skip
    print(results)
    print(Path("comparison/summary.tex").read_text())


if __name__ == "__main__":
    main()
