"""tiny-clip adapted to pairs without labels: who teaches, what is shown, what stays."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fusionkit_standard.datasets import Scenes
from fusionkit_standard.tiny_clip import TinyClip, adapting

from fusionkit.errors import BadRequest
from fusionkit.protocols import Pair


def test_an_adapted_copy_has_learned_and_the_start_and_all_it_says_of_texts_stay(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(adapting, "BATCH", 6)
    start = TinyClip(precision="float32")
    before = {name: value.clone() for name, value in start.towers.state_dict().items()}
    pairs = [Pair(p.name, p.visible, p.infrared) for p in Scenes(count=3, size=(48, 64))]
    said = []
    adapted = start.adapt(pairs, steps=2, say=said.append)
    after = start.towers.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    changed = {
        name for name, value in adapted.towers.state_dict().items()
        if not torch.equal(value, before[name])
    }  # fmt: skip
    assert changed and all(name.startswith("image.") for name in changed)
    assert not any(p.requires_grad for p in adapted.parameters()) and "3 pairs" in said[0]

    adapted.save(tmp_path / "own" / "encoder.safetensors")
    again = TinyClip(tmp_path / "own" / "encoder.safetensors", precision="float32")
    assert again.tokenizer.vocabulary == start.tokenizer.vocabulary
    maps = [e.heatmap(["the car"], pairs[0].infrared[None]) for e in (start, adapted, again)]
    assert (maps[1] - maps[2]).abs().max() < 0.02 < 50 * (maps[1] - maps[0]).abs().max()
    with pytest.raises(BadRequest, match="no pair"):
        start.adapt([])


def test_the_picture_that_tells_more_is_believed_more():
    generator = torch.Generator().manual_seed(0)
    visible, infrared = 3 * torch.randn(2, 1, 4000, generator=generator)
    wanted = (2 * infrared - 1).sigmoid()
    belief = adapting._fitted(torch.stack([visible, infrared]), wanted)[0]
    assert belief == pytest.approx([0, 2, -1], abs=0.05)


def test_a_class_keeps_its_share_of_the_maps():
    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(2)) * 3 - 2
    shares = torch.tensor([0.01, 0.2, 0.7])
    shifted = logits + adapting._shift(logits, shares)[:, None]
    assert shifted.sigmoid().mean(1) == pytest.approx(shares, abs=1e-4)


def test_a_view_and_its_target_are_cut_and_mirrored_alike():
    pattern = F.interpolate(
        torch.rand(1, 1, 5, 7, generator=torch.Generator().manual_seed(1)), (80, 112)
    )[0]
    target = F.avg_pool2d(pattern, 4).expand(12, -1, -1)
    lessons = [adapting.Lesson(pattern.expand(3, -1, -1), pattern, target)] * 16
    image, wanted = adapting.views(lessons, 96, np.random.default_rng(0))
    assert image.shape[-1] == 4 * wanted.shape[-1] and image.shape[:2] == (16, 3)
    shown = F.avg_pool2d(image.mean(1, keepdim=True), 4)[:, 0].flatten(1).numpy()
    alike = [np.corrcoef(a, b)[0, 1] for a, b in zip(shown, wanted[:, 0].flatten(1), strict=True)]
    assert np.median(alike) > 0.95
    mirrored = [
        np.corrcoef(a, b)[0, 1]
        for a, b in zip(shown, wanted[:, 0].flip(-1).flatten(1), strict=True)
    ]
    assert np.median(mirrored) < 0.5


def test_a_window_lies_in_the_picture_whatever_the_sizes():
    rng = np.random.default_rng(0)
    for _ in range(500):
        full, size = rng.integers(16, 700, 2), rng.integers(16, 300, 2)
        top, bottom, left, right = adapting._window(full, size, rng)
        assert 0 <= top < bottom < 1 + 1e-9 and 0 <= left < right < 1 + 1e-9
