"""What can go of kimm's image models, one small member of each family.

    python benchmarks/coverage_kimm.py                   # all; the table in docs/coverage.md
    python benchmarks/coverage_kimm.py RepVGGA0          # some, printed
    KERAS_BACKEND=tensorflow python benchmarks/coverage_kimm.py                # all, printed

Each has random weights, and half of the channels of every group go by the L1 norm, proven. It wants
``pip install kimm``, which needs no more than Keras.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import kimm
import numpy as np

import secateurs as sec
from support.keras_coverage import cut_half
from support.tables import markdown, put

PAGE = Path(__file__).parent.parent / "docs" / "coverage.md"
MARK = "coverage-kimm"
ENOUGH = 0.4
SIDE = 64
SIDES = {
    "InceptionV3": 96,
    "Xception": 96,
    "VGG11": 224,
    "GhostNetV3W050": 224,
    "VisionTransformerTiny16": 224,
}
"""Of the images, in pixels, where 64 are too few."""
MEMBERS = (
    *("ConvMixer736D32", "ConvNeXtAtto", "DenseNet121", "EfficientNetB0", "EfficientNetLiteB0"),
    *("EfficientNetV2B0", "GhostNetW050", "GhostNetV2W100", "GhostNetV3W050", "HGNetTiny"),
    *("HGNetV2B0", "InceptionNeXtTiny", "InceptionV3", "LCNet035", "MobileNetV2W050"),
    *("MobileNetV3W050Small", "MobileOneS0", "MobileViTXXS", "MobileViTV2W050", "RegNetX002"),
    *("RegNetY002", "RepVGGA0", "ResNet18", "TinyNetE", "VGG11", "VisionTransformerTiny16"),
    "Xception",
)
COLUMNS = ("model", "parameters", "gone", "processor seconds", "what stays where little goes")


def row(name: str) -> tuple[list[str], float]:
    """The line of the table, and the share that went."""
    side = SIDES.get(name, SIDE)
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = getattr(kimm.models, name)(input_shape=[side, side, 3], weights=None)
    images = np.random.default_rng(0).standard_normal((1, side, side, 3)).astype(np.float32)
    half = cut_half(model, images)
    shown = half.stays if half.gone < ENOUGH else ""
    cells = f"{half.parameters:,}", f"{half.gone:.0%}", f"{half.seconds:.1f}", shown
    return [name, *cells], half.gone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=MEMBERS)
    names = parser.parse_args().names
    lines, shares = [], []
    for name in names:
        try:
            line, gone = row(name)
        except sec.SecateursError as error:
            line, gone = [name, "", "refused", "", str(error)[:200]], 0.0
        print("  ".join(line), flush=True)
        lines.append(line)
        shares.append(gone)
    backend = keras.backend.backend()
    enough = sum(share >= ENOUGH for share in shares)
    head = (
        f"On {backend}'s backend {enough} of {len(names)} lose at least {ENOUGH:.0%} of their "
        "parameters; all cuts were proven."
    )
    print(head)
    if names == MEMBERS and backend == "torch":
        put(PAGE, MARK, f"{head}\n\n{markdown(COLUMNS, lines)}")


if __name__ == "__main__":
    main()
