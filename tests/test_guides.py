"""Guides are drawn once, kept beside the pairs, and looked up by pair and prompt."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fusionkit import cli
from fusionkit.batch import Batch
from fusionkit.data import crop, resize
from fusionkit.errors import BadRequest
from fusionkit.guides import GuideCache, MapFolder, add_guides, enlarge
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


# ------------------------------------------------------------------------------- kept on disk


def drawn(root, pairs, prompts=PROMPTS, guide=None, facts=None):
    folder = MapFolder(root, facts or {"name": "deep"})
    return folder, folder.draw(guide or Deep(), pairs, prompts)


def test_maps_of_a_data_set_are_drawn_once_and_read_by_name_and_prompt(tmp_path):
    pairs = tiny_pairs(3, 32)
    assert drawn(tmp_path, pairs)[1] == 9
    folder = MapFolder(tmp_path)
    assert folder.maps == ("deep",)
    found = folder.read("pair-1", "bb", pairs[1].visible, pairs[1].infrared)["deep"]
    assert found.shape == (3, 2, 2) and found[:2, 0, 0].tolist() == [2, 4]
    assert float(found[2, 0, 0]) == pytest.approx(float(pairs[1].visible.mean()), abs=1e-3)


def test_a_stopped_call_goes_on_and_new_prompts_are_added(tmp_path):
    pairs = tiny_pairs(3, 32)
    assert drawn(tmp_path, pairs[:2], PROMPTS[:2])[1] == 4
    assert drawn(tmp_path, pairs, PROMPTS[:2])[1] == 2
    folder, asked = drawn(tmp_path, pairs)
    assert asked == 3
    assert drawn(tmp_path, pairs)[1] == 0
    found = [folder.read("pair-0", p, pairs[0].visible, pairs[0].infrared) for p in PROMPTS]
    assert [float(maps["deep"][0, 0, 0]) for maps in found] == [1, 2, 4]


def test_a_call_that_dies_leaves_whole_files(tmp_path):
    class Dies(Deep):
        def __call__(self, batch):
            if batch.names == ("pair-1",):
                raise KeyboardInterrupt
            return super().__call__(batch)

    pairs = tiny_pairs(2, 32)
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path, pairs, guide=Dies())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["maps.json", "pair-0.npz"]
    assert drawn(tmp_path, pairs)[1] == len(PROMPTS)


def test_maps_of_other_pictures_guides_and_prompts_are_refused(tmp_path):
    (pair,) = tiny_pairs(1, 48)
    folder, _ = drawn(tmp_path, [pair])
    half = resize(pair, 24, 24)
    assert folder.read("pair-0", "a", half.visible, half.infrared)
    part = crop(pair, 0, 0, 24, 24)
    with pytest.raises(BadRequest, match="a crop"):
        folder.read("pair-0", "a", part.visible, part.infrared)
    with pytest.raises(BadRequest, match="a crop"):
        drawn(tmp_path, [part], ["new"])
    with pytest.raises(BadRequest, match="no map of pair 'pair-0' for 'x'; it was asked 'a'"):
        folder.read("pair-0", "x", pair.visible, pair.infrared)
    with pytest.raises(BadRequest, match="no maps of pair 'other'"):
        folder.read("other", "a", pair.visible, pair.infrared)
    with pytest.raises(BadRequest, match="choose another folder"):
        MapFolder(tmp_path, {"name": "deep", "options": {"depth": 2}})
    (tmp_path / "pair-0.npz").write_bytes(b"PK")
    with pytest.raises(BadRequest, match="damaged"):
        folder.read("pair-0", "a", pair.visible, pair.infrared)


def test_the_command_draws_a_data_set_and_goes_on(tmp_path, capsys):
    words = ["guides", "heatmap", "-o", str(tmp_path / "maps"), "--dataset", "scenes", "--count"]
    words += ["2", "--image-size", "32", "--text", "the car", "--text", "the person"]
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == 0 and "heatmap" in capsys.readouterr().out
    with np.load(tmp_path / "maps" / "scene-000001.npz") as kept:
        assert kept["map:heatmap"].shape == (2, 1, 8, 8)
    with pytest.raises(SystemExit) as left:
        cli.main([*words, "--encoder", "other"])
    assert left.value.code == 2
