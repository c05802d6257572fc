"""Synthetic street scenes: aligned visible-infrared pairs with maps, boxes and texts.

Everything is computed from a number; nothing is downloaded and nothing here imports torch.
"""

from .painter import CLASSES
from .pool import render_many
from .realism import realism
from .scene import Scene, Thing, render
from .texts import SYNONYMS

__all__ = ["CLASSES", "SYNONYMS", "Scene", "Thing", "realism", "render", "render_many"]
