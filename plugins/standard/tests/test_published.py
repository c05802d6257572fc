"""Published sets in their authors' layouts, built small; the real files are not at hand."""

import json

import numpy as np
import pytest
import torch
from fusionkit_standard.datasets import RELEASE, RoadScene, Tno
from fusionkit_standard.published import PUBLISHED, Fmb, Llvip, M3fd, Mfnet, Msrs, read_voc
from PIL import Image

from fusionkit.errors import BadRequest

SIZE = (12, 16)


def save(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file)


def put(ir, vi, name, suffix=".png", seed=0):
    rng = np.random.default_rng([seed, len(name)])
    save(ir / f"{name}{suffix}", rng.integers(0, 256, SIZE, dtype=np.uint8))
    save(vi / f"{name}{suffix}", rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))


def voc(file, *boxes):
    file.parent.mkdir(parents=True, exist_ok=True)
    items = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for label, x0, y0, x1, y1 in boxes
    )
    file.write_text(f"<annotation>{items}</annotation>")


@pytest.mark.parametrize("known", PUBLISHED)
def test_a_set_that_is_not_there_says_where_to_get_it(known, tmp_path):
    with pytest.raises(BadRequest) as caught:
        known(tmp_path / "nowhere")
    assert known.source in str(caught.value) and known.layout in str(caught.value)
    assert ("--download" in str(caught.value)) == bool(known.downloads)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRequest, match="holds no"):
        known(tmp_path / "empty")


@pytest.mark.parametrize(
    ("known", "folders", "labels"),
    [
        (Msrs, ("ir", "vi"), ("Segmentation_labels", {1: "car", 2: "person", 3: "bicycle"})),
        (Fmb, ("Infrared", "Visible"), ("Label", {1: "road", 8: "person", 14: "pole"})),
    ],
)
def test_labels_become_masks_and_splits_stay_apart(tmp_path, known, folders, labels):
    folder, classes = labels
    for split, names in {"train": ("00004N", "00055D"), "test": ("00071D",)}.items():
        for name in names:
            put(*(tmp_path / split / side for side in folders), name)
            values = np.zeros(SIZE, np.uint8)
            for column, number in enumerate(classes):
                values[:4, column] = number
            values[5, 5] = 99  # what no class stands for
            save(tmp_path / split / folder / f"{name}.png", values)
    save(tmp_path / "detection" / "ir" / "1.png", np.zeros(SIZE, np.uint8))  # as MSRS has it
    assert known(tmp_path).names == ["00004N", "00055D"]
    assert known(tmp_path, split="test").names == ["00071D"]
    assert len(known(tmp_path, split="all", count=2)) == 2
    pair = known(tmp_path, split="all")[2]
    assert set(pair.masks) == set(classes.values())
    assert all(mask.sum() == 4 and mask.shape == (1, *SIZE) for mask in pair.masks.values())
    assert known(tmp_path, size=(6, 8))[0].masks["person"].shape == (1, 6, 8)
    with pytest.raises(BadRequest, match=r"no split 'tst'\. Did you mean 'test'"):
        known(tmp_path, split="tst")
    save(tmp_path / "train" / folder / "00004N.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(BadRequest, match=r"00004N\.png has the shape \(3, 3\)"):
        known(tmp_path)[0]


def test_llvip_brings_boxes_of_persons(tmp_path):
    for split, name in (("train", "010001"), ("train", "010002"), ("test", "190001")):
        put(tmp_path / "infrared" / split, tmp_path / "visible" / split, name, ".jpg")
    voc(tmp_path / "Annotations" / "010001.xml", ("person", 1, 1, 4, 6), ("person", 5, 2, 16, 12))
    first, second = Llvip(tmp_path)
    assert [t.label for t in first.things] == ["person"] * 2
    assert first.things[0].box == (0, 0, 4, 6) and first.things[1].box == (4, 1, 16, 12)
    assert second.things == ()
    assert Llvip(tmp_path, size=(6, 8))[0].things[1].box == (2, 0.5, 8, 6)
    (tmp_path / "Annotations" / "010002.xml").write_text("<annotation><object>")
    with pytest.raises(BadRequest, match="no VOC file"):
        Llvip(tmp_path)[1]


def test_m3fd_is_read_by_part_from_above_or_from_the_part_itself(tmp_path):
    for number in range(5):
        put(tmp_path / "M3FD_Fusion" / "Ir", tmp_path / "M3FD_Fusion" / "Vis", f"{number:05d}")
    detection = tmp_path / "M3FD_Detection"
    put(detection / "Ir", detection / "Vis", "00007")
    voc(detection / "Annotation" / "00007.xml", ("People", 1, 1, 3, 3), ("Car", 4, 4, 9, 9))
    assert len(M3fd(tmp_path, split="all")) == 5
    assert M3fd(tmp_path, split="test").names == ["00004"]
    boxed = M3fd(tmp_path, split="all", part="detection")[0]
    assert [t.label for t in boxed.things] == ["person", "car"]
    assert M3fd(detection, split="all").names == ["00007"]
    assert M3fd(detection, split="all", part="detection").names == ["00007"]
    with pytest.raises(BadRequest, match="no part 'all'"):
        M3fd(tmp_path, part="all")
    with pytest.raises(BadRequest, match="holds no M3FD_Fusion"):
        M3fd(detection, part="fusion")


def test_mfnet_takes_the_fourth_channel_for_infrared(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*SIZE, 4), dtype=np.uint8)
    for name in ("00001D", "00002N", "00003D"):
        save(tmp_path / "images" / f"{name}.png", pixels)
        save(tmp_path / "labels" / f"{name}.png", np.full(SIZE, 2, np.uint8))
    for file, names in {"train": "00001D\n00003D\n", "val": "00002N\n", "test": ""}.items():
        (tmp_path / f"{file}.txt").write_text(names)
    pair = Mfnet(tmp_path)[1]
    assert pair.name == "00003D" and set(pair.masks) == {"person"}
    assert torch.equal((pair.infrared[0] * 255).round(), torch.from_numpy(pixels[..., 3]).float())
    assert torch.equal(
        (pair.visible * 255).round(), torch.from_numpy(pixels[..., :3]).permute(2, 0, 1).float()
    )
    assert Mfnet(tmp_path, split="validation").names == ["00002N"]
    assert len(Mfnet(tmp_path, split="all")) == 3
    save(tmp_path / "images" / "00001D.png", pixels[..., :3])
    with pytest.raises(BadRequest, match="four channels"):
        Mfnet(tmp_path)[0]
    (tmp_path / "train.txt").write_text("00009D\n")
    with pytest.raises(BadRequest, match=r"00009D\.png: no such file"):
        Mfnet(tmp_path)


def test_the_release_of_roadscene_is_divided_like_the_folder(tmp_path):
    for name in ("FLIR_00211", "FLIR_06974", "FLIR_00006"):
        put(tmp_path / "cropinfrared", tmp_path / "crop_LR_visible", name, ".jpg")
        put(tmp_path / "infrared", tmp_path / "crop_HR_visible", name, ".jpg")  # not aligned
    assert RoadScene(tmp_path).names == ["FLIR_00006"]
    assert RoadScene(tmp_path, split="test").names == ["FLIR_00211", "FLIR_06974"]
    assert len(RoadScene(tmp_path, split="all")) == 3
    assert RoadScene(tmp_path, split="test")[0].things


def test_the_release_of_tno_is_read_by_its_table_without_pairs_that_do_not_fit(tmp_path):
    table = json.loads(RELEASE.read_text())["pairs"]
    assert len(table) == len({ir for ir, _ in table.values()}) == 55
    for name, (ir, vi) in table.items():
        size = (6, 6) if name == "tank" else SIZE
        save(tmp_path / ir, np.full(size, 9, np.uint8))
        save(tmp_path / vi, np.full(SIZE, 7, np.uint8))
    with pytest.warns(UserWarning, match="1 of 55 pairs are left out"):
        pairs = Tno(tmp_path, split="all")
    assert len(pairs) == 54 and pairs[0].visible.shape == (3, *SIZE)
    test = set(Tno(tmp_path, split="test").names)
    assert len(test) == 11


def test_a_box_of_voc_counts_from_one_with_its_end_included(tmp_path):
    voc(tmp_path / "a.xml", ("Lamp", 1, 1, 16, 12))
    (thing,) = read_voc(tmp_path / "a.xml", {})
    assert thing.box == (0, 0, 16, 12) and thing.label == "lamp"
