"""Image files of a single colour."""

from pathlib import Path

from PIL import Image

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def save(path: Path, colour: object, size: tuple[int, int] = (20, 14), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
