"""`tiny-clip`: sentences and pictures in one space, weights included.

``tokenizer`` words to numbers, ``towers`` the architecture, ``encoder`` what a run uses,
``training`` how the weights came about.
"""

from fusionkit_standard.tiny_clip.encoder import TinyClip

__all__ = ["TinyClip"]
