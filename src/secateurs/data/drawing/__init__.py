"""Drawing the pictures of vehicles."""

from secateurs.data.drawing.bodies import PROFILES, Finish, Painter, Pose, draw_end, draw_side
from secateurs.data.drawing.canvas import Canvas, hsv, mix
from secateurs.data.drawing.scenery import draw_foreground, draw_scenery

__all__ = [
    "PROFILES",
    "Canvas",
    "Finish",
    "Painter",
    "Pose",
    "draw_end",
    "draw_foreground",
    "draw_scenery",
    "draw_side",
    "hsv",
    "mix",
]
