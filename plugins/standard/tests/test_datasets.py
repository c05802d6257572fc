"""Data sets: folders, the two real sets (where their files are), generated scenes."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from fusionkit_standard import datasets
from fusionkit_standard.datasets import BOXES, Folder, RoadScene, Scenes, Tno
from fusionkit_standard.scenes import render
from PIL import Image

from fusionkit.data import collate, find_data, read_boxes
from fusionkit.errors import BadRequest
from fusionkit.protocols import Dataset

KINDS = {"ir", "vi", "ir_unique", "vi_unique", "common", "fused"}
LABELS = ["person", "car", "truck", "bus", "bicycle"]


def put(root, name, suffix=".png", height=6, width=8):
    rng = np.random.default_rng(len(name))
    for side, shape in (("ir", (height, width)), ("vi", (height, width, 3))):
        (root / side).mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(values).save(root / side / f"{name}{suffix}")


def real(known):
    """The class, where its files are on this machine; else the test is skipped."""
    if find_data(known.folder) is None:
        pytest.skip(f"{known.folder} is not on this machine (see FUSIONKIT_DATA)")
    return known


# ---------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("known", [Folder, RoadScene, Tno, Scenes])
def test_a_data_set_says_how_it_is_laid_out_where_it_is_from_and_on_what_terms(known):
    assert known.layout
    assert known.licence
    assert known.source


def test_a_data_set_fits_the_protocol(tmp_path):
    put(tmp_path, "a")
    for pairs in (Folder(tmp_path, split="all"), Scenes(count=1, size=32)):
        assert isinstance(pairs, Dataset)


# ---------------------------------------------------------------------------- folder


def test_a_folder_of_ones_own_is_split_and_counted(tmp_path):
    for number in range(10):
        put(tmp_path, str(number))
    assert len(Folder(tmp_path, split="train")) == 8
    assert Folder(tmp_path, split="test").names == ["4", "9"]
    assert Folder(tmp_path, split="all", count=3, seed=7).names == ["0", "1", "2"]
    assert Folder(root=None, ir=tmp_path / "ir", vi=tmp_path / "vi", split="all").names[0] == "0"


def test_a_folder_without_a_place_says_what_it_expects():
    with pytest.raises(BadRequest, match=r"'folder' needs root.*ir/ and vi/"):
        Folder()


# ---------------------------------------------------------------------------- real sets


@pytest.mark.parametrize("known", [RoadScene, Tno])
def test_a_real_set_that_is_not_there_says_where_to_get_it(known, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "find_data", lambda name: None)
    with pytest.raises(BadRequest) as caught:
        known()
    message = str(caught.value)
    for part in (f"$FUSIONKIT_DATA/{known.folder}", known.source, known.licence, known.layout):
        assert part in message
    with pytest.raises(BadRequest, match="nothing at"):
        known(tmp_path / "nowhere")


def test_roadscene_takes_its_split_from_the_files_and_boxes_from_the_package(tmp_path):
    for name in ("FLIR_00211", "FLIR_06974", "FLIR_00006"):
        put(tmp_path, name, ".jpg", 301, 496)
    (tmp_path / "train.txt").write_text("FLIR_00006\n")
    (tmp_path / "test.txt").write_text("FLIR_06974\nFLIR_00211\n")
    test = RoadScene(tmp_path, split="test")
    assert test.names == ["FLIR_06974", "FLIR_00211"]
    assert test[0].things == ()
    assert "FLIR_06974" in test.boxes  # looked at, and nothing there
    assert {thing.label for thing in test[1].things} == {"car"}
    (train,) = RoadScene(tmp_path, split="train")
    assert train.name not in test.boxes


def test_boxes_shrink_with_the_picture(tmp_path):
    put(tmp_path, "FLIR_00211", ".jpg", 300, 496)
    pairs = [RoadScene(tmp_path, split="all", size=size)[0] for size in (None, 150)]
    assert pairs[1].infrared.shape == (1, 150, 248)
    for large, small in zip(pairs[0].things, pairs[1].things, strict=True):
        assert np.allclose(np.array(large.box) / 2, small.box)


def test_tno_divides_by_place_unless_the_folder_says_otherwise(tmp_path):
    for number in range(1, 26):
        put(tmp_path, f"{number:02d}")
    train, test = (set(Tno(tmp_path, split=split).names) for split in ("train", "test"))
    assert (len(train), len(test)) == (15, 10)
    assert not train & test
    for group in ({"02", "23"}, {"03", "04"}, {"19", "20"}, {"01", "22"}, {"12", "13", "15", "16"}):
        assert group <= train or group <= test
    assert len(Tno(tmp_path, split="all")) == 25
    assert Tno(tmp_path, split="test", count=3).names == ["02", "03", "04"]
    (tmp_path / "test.txt").write_text("07\n")
    assert Tno(tmp_path, split="test").names == ["07"]


def test_the_real_roadscene_is_whole():
    train, test = (real(RoadScene)(split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (171, 50)
    assert not set(train.names) & set(test.names)
    pair = test[0]
    assert pair.visible.shape[0] == 3
    assert pair.visible.shape[1:] == pair.infrared.shape[1:]
    assert set(pair.texts) == KINDS
    assert set(test.names) <= set(test.boxes)


def test_the_real_tno_is_whole():
    pairs = real(Tno)(split="all", size=128)
    assert len(pairs) == 25
    assert all(set(pair.texts) == KINDS and min(pair.infrared.shape[1:]) == 128 for pair in pairs)
    assert set(pairs.names) == set(pairs.boxes)


@pytest.mark.parametrize("known", [RoadScene, Tno])
def test_boxes_lie_inside_the_real_pictures(known):
    for pair in real(known)(split="test"):
        height, width = pair.infrared.shape[1:]
        for thing in pair.things:
            x0, y0, x1, y1 = thing.box
            assert 0 <= x0 < x1 <= width, (pair.name, thing)
            assert 0 <= y0 < y1 <= height, (pair.name, thing)


def test_persons_are_warmer_than_the_rest_of_the_real_pictures():
    """Boxes shifted or scaled wrongly would lose this."""
    warmer = []
    for known in (RoadScene, Tno):
        for pair in real(known)(split="test", size=128):
            inside = torch.zeros_like(pair.infrared, dtype=torch.bool)
            for thing in pair.things:
                if thing.label == "person":
                    x0, y0, x1, y1 = (round(value) for value in thing.box)
                    inside[:, y0:y1, x0:x1] = True
            if inside.any():
                warmer.append(bool(pair.infrared[inside].mean() > pair.infrared[~inside].mean()))
    assert len(warmer) == 43
    assert np.mean(warmer) > 0.9


# ---------------------------------------------------------------------------- boxes


def test_the_boxes_say_who_drew_them_how_and_by_which_rules():
    content = json.loads(BOXES.read_text())
    assert "by eye" in content["made"]
    assert content["labels"] == LABELS
    assert content["rules"]


def test_every_boxed_pair_was_looked_at_for_every_label():
    content = json.loads(BOXES.read_text())
    for section in ("roadscene", "tno"):
        for name, labels in content[section].items():
            assert list(labels) == LABELS, name
    assert len(content["roadscene"]) == 50
    assert len(content["tno"]) == 25


def test_there_are_enough_persons_cars_and_pairs_without_either():
    pairs = {**read_boxes(BOXES, "roadscene"), **read_boxes(BOXES, "tno")}
    with_label = Counter(label for things in pairs.values() for label in {t.label for t in things})
    assert with_label["person"] >= 40
    assert with_label["car"] >= 40
    assert sum(not things for things in pairs.values()) >= 15


# ---------------------------------------------------------------------------- scenes


def test_a_scene_becomes_a_pair_with_masks_depth_boxes_and_texts():
    pairs = Scenes(count=2, size=64)
    scene, pair = render(1, 64), pairs[1]
    assert pair.name == scene.name == pairs.names[1]
    assert torch.equal(pair.visible * 255, torch.from_numpy(scene.visible).permute(2, 0, 1).float())
    assert torch.equal(pair.infrared[0] * 255, torch.from_numpy(scene.infrared).float())
    for label, mask in pair.masks.items():
        assert mask.shape == (1, 64, 64)
        assert torch.equal(mask[0].bool(), torch.from_numpy(scene.mask(label)))
    assert sum(mask.sum() for mask in pair.masks.values()) == 64 * 64
    torch.testing.assert_close(pair.depth[0], torch.from_numpy(scene.depth), rtol=1e-3, atol=1e-3)
    assert [t.label for t in pair.things] == [t.label for t in scene.things]
    assert [t.box for t in pair.things] == [t.box for t in scene.things]
    assert pair.texts["caption"] == scene.captions[0]
    assert pair.texts["dense"] == scene.dense


def test_scenes_of_one_split_make_a_batch():
    batch = collate(Scenes(count=3, size=(32, 48))[:])
    assert batch.visible.shape == (3, 3, 32, 48)
    assert batch.guides["depth"].shape == (3, 1, 32, 48)


def test_splits_and_seeds_hold_different_scenes():
    splits = [set(Scenes(split=s, count=100).numbers) for s in ("train", "test", "validation")]
    assert not splits[0] & splits[1] | splits[0] & splits[2] | splits[1] & splits[2]
    assert min(splits[1]) == 100_000
    first, second = (set(Scenes(count=100, seed=seed).numbers) for seed in (0, 1))
    assert not first & second
    far = Scenes(split="train", count=90_000, seed=1).numbers
    assert max(far) < 100_000
    assert len(set(far)) == 90_000


def test_the_default_counts_are_those_of_the_default_experiment():
    assert len(Scenes()) == 512
    assert len(Scenes(split="test")) == 64


def test_nothing_is_rendered_before_a_pair_is_asked_for_and_nothing_twice(monkeypatch):
    asked = []

    def counting(numbers, size, workers):
        asked.append(list(numbers))
        return [render(number, size) for number in numbers]

    monkeypatch.setattr(datasets, "render_many", counting)
    pairs = Scenes(count=6, size=32, workers=1)
    assert asked == []
    pairs[2]
    assert asked == [[2]]
    assert len(list(pairs)) == 6
    assert asked[1:] == [[0, 1, 3, 4, 5]]
    pairs.prepare()
    pairs[-1]
    assert len(asked) == 2


def test_the_cache_holds_what_was_rendered_and_survives_damage(tmp_path, monkeypatch):
    before = Scenes(count=2, size=32, cache=tmp_path)[:]
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 2
    files[1].write_bytes(b"half a file")
    asked = []

    def counting(numbers, size, workers):
        asked.extend(numbers)
        return [render(number, size) for number in numbers]

    monkeypatch.setattr(datasets, "render_many", counting)
    after = Scenes(count=2, size=32, cache=tmp_path)[:]
    assert asked == [1]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old.visible, new.visible)
        assert torch.equal(old.depth, new.depth)
        assert old.things == new.things
        assert old.texts == new.texts


def test_the_thermal_picture_comes_as_temperature_when_asked():
    shown = Scenes(count=1, size=48, workers=1)[0]
    measured = Scenes(count=1, size=48, workers=1, thermal="radiometric")[0]
    assert torch.equal(shown.visible, measured.visible)
    celsius = measured.infrared * 120 - 40
    assert celsius.min() >= -40 and celsius.max() < 80 and celsius.std() > 1
    assert len(measured.infrared.unique()) > 1.5 * len(shown.infrared.unique())
    # Gain control keeps warm warm: the two rank the pixels alike.
    ranks = torch.stack([p.infrared.flatten().argsort().argsort() for p in (shown, measured)])
    assert torch.corrcoef(ranks.float())[0, 1] > 0.8
    with pytest.raises(BadRequest, match="radiometric"):
        Scenes(thermal="raw")


@pytest.mark.parametrize(
    "wrong", [{"split": "all"}, {"count": 0}, {"count": 100_001}, {"size": 8}, {"seed": -1}]
)
def test_impossible_scenes_are_refused(wrong):
    with pytest.raises(BadRequest):
        Scenes(**wrong)
