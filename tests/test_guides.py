"""Guides are drawn once, kept beside the pairs, and looked up by pair and prompt."""

from dataclasses import replace

import pytest
import torch

from fusionkit.batch import Batch
from fusionkit.guides import GuideCache, add_guides, enlarge
from fusionkit.testing import tiny_pairs

PROMPTS = ("a", "bb", "cccc")


class Grid:
    """Draws the length of each prompt at a grid of its own, many prompts at once."""

    maps = ("grid",)

    def grid(self, batch, prompts):
        lengths = torch.tensor([len(p) for p in prompts], dtype=torch.float32)
        return {"grid": lengths[None, :, None, None].expand(len(batch), -1, 4, 4)}


class Deep:
    """Three channels per prompt: its length, the same doubled, and the brightness of the pair."""

    maps = ("deep",)
    calls = 0

    def __call__(self, batch):
        self.calls += 1
        lengths = torch.tensor([float(len(p)) for p in batch.prompts])
        channels = torch.stack([lengths, 2 * lengths, batch.visible.mean((1, 2, 3))], 1)
        return {"deep": channels[..., None, None].expand(-1, -1, 2, 2)}


def test_a_map_is_found_by_pair_and_prompt():
    cache = GuideCache({"grid": Grid()}, tiny_pairs(3), PROMPTS)
    assert cache
    found = cache(2, ["cccc", "a"])["grid"]
    assert found.shape == (2, 1, 4, 4) and found.dtype == torch.float32
    assert found[:, 0, 0, 0].tolist() == [4, 1]


def test_guides_of_several_channels_keep_prompts_and_channels_apart():
    pairs, guide = tiny_pairs(2), Deep()
    found = GuideCache({"deep": guide}, pairs, PROMPTS)(1, ["bb", "cccc"])["deep"]
    assert found.shape == (2, 3, 2, 2)
    assert found[:, :2, 0, 0].tolist() == [[2, 4], [4, 8]]
    brightness = float(pairs[1].visible.mean())
    assert found[0, 2, 0, 0].item() == pytest.approx(brightness, abs=1e-3)
    assert guide.calls == len(PROMPTS)


def test_pairs_of_several_sizes_are_drawn_size_by_size():
    pairs = [*tiny_pairs(2, 32), *tiny_pairs(1, 48), *tiny_pairs(1, 32)]
    cache = GuideCache({"deep": Deep()}, pairs, PROMPTS)
    brightness = [float(cache(i, ["a"])["deep"][0, 2, 0, 0]) for i in range(4)]
    assert brightness == pytest.approx([float(p.visible.mean()) for p in pairs], abs=1e-3)


def test_without_guides_there_is_nothing_to_look_up():
    assert not GuideCache({}, tiny_pairs(2), PROMPTS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_maps_drawn_on_a_gpu_are_kept_with_the_pairs():
    class OnGpu(Grid):
        def grid(self, batch, prompts):
            return {name: maps.cuda() for name, maps in super().grid(batch, prompts).items()}

    assert GuideCache({"grid": OnGpu()}, tiny_pairs(1), PROMPTS)(0, ["a"])["grid"].is_cpu


def test_a_map_that_the_batch_has_is_not_drawn_again():
    (pair,) = tiny_pairs(1)
    given = torch.zeros(1, 3, 2, 2)
    batch = Batch(
        visible=pair.visible[None], infrared=pair.infrared[None], prompts=("a",),
        guides={"deep": given},
    )  # fmt: skip
    guide = Deep()
    assert add_guides(batch, {"deep": guide}).guides["deep"] is given
    assert guide.calls == 0
    drawn = add_guides(replace(batch, guides={}), {"deep": guide}).guides["deep"]
    assert drawn.shape == (1, 3, 2, 2) and guide.calls == 1


def test_enlarging_keeps_channels_and_leaves_the_right_size_alone():
    maps = torch.rand(2, 3, 4, 4)
    assert enlarge(maps, (8, 6)).shape == (2, 3, 8, 6)
    assert enlarge(maps, (4, 4)) is maps
