"""Pairs from disk, on small pictures made here; the pictures nobody wants to meet included."""

import errno
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fusionkit import data
from fusionkit.data import (
    CannotWrite,
    FolderPairs,
    MissingFile,
    check_pairs,
    collate,
    crop,
    flip,
    glance,
    match_pairs,
    pad_to_multiple,
    read_boxes,
    read_image,
    resize,
    resize_shorter,
    write_image,
)
from fusionkit.errors import BadRequest
from fusionkit.protocols import Pair, Thing


def save(path, values, mode=None, **options):
    """An array as a picture file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = values if isinstance(values, Image.Image) else Image.fromarray(np.asarray(values))
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def grey(height=6, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def colour(height=6, width=8, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path):
    """Three pairs under ir/ and vi/, infrared as PNG, visible as BMP."""
    for name in ("a2", "a10", "b"):
        save(tmp_path / "ir" / f"{name}.png", grey(seed=len(name)))
        save(tmp_path / "vi" / f"{name}.bmp", colour(seed=len(name)))
    return tmp_path


# ---------------------------------------------------------------------------- reading


def test_eight_bits_are_divided_by_255(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 51, 255]], np.uint8))
    torch.testing.assert_close(read_image(path), torch.tensor([[[0.0, 0.2, 1.0]]]))


def test_a_colour_picture_read_as_one_channel_is_its_luma(tmp_path):
    path = save(tmp_path / "a.png", np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8))
    torch.testing.assert_close(read_image(path, 1), torch.tensor([[[0.299, 0.587, 0.114]]]))


def test_grey_stored_as_colour_keeps_its_values_exactly(tmp_path):
    values = grey()
    path = save(tmp_path / "a.png", np.stack([values] * 3, -1))
    stored = save(tmp_path / "b.png", values)
    assert torch.equal(read_image(path, 1), read_image(stored, 1))


def test_a_grey_picture_read_with_three_channels_is_repeated(tmp_path):
    image = read_image(save(tmp_path / "a.png", grey()), 3)
    assert image.shape == (3, 6, 8)
    assert torch.equal(image[0], image[2])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_keep_their_range(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", np.array([[0, 13107, 65535]], np.uint16))
    image = read_image(path)
    torch.testing.assert_close(image, torch.tensor([[[0.0, 0.2, 1.0]]]))
    near = save(tmp_path / f"b.{suffix}", np.array([[30000, 30001]], np.uint16))
    assert read_image(near).unique().numel() == 2


def test_big_endian_sixteen_bits_are_read(tmp_path):
    path = tmp_path / "a.tif"
    picture = Image.frombytes("I;16B", (2, 1), np.array([[256, 65535]], ">u2").tobytes())
    picture.save(path)
    torch.testing.assert_close(read_image(path), torch.tensor([[[256 / 65535, 1.0]]]))


def test_raw_thermal_counts_are_stretched_on_request(tmp_path):
    path = save(tmp_path / "a.png", np.array([[7000, 8000, 9000]], np.uint16))
    torch.testing.assert_close(read_image(path, scale="minmax"), torch.tensor([[[0, 0.5, 1]]]))
    torch.testing.assert_close(
        read_image(path, scale=16000), torch.tensor([[[0.4375, 0.5, 0.5625]]])
    )
    assert read_image(path, scale=8000).max() == 1


def test_a_constant_picture_stretched_is_black_not_nan(tmp_path):
    path = save(tmp_path / "a.png", np.full((2, 2), 9, np.uint8))
    assert torch.equal(read_image(path, scale="minmax"), torch.zeros(1, 2, 2))


def test_a_float_picture_in_range_is_read_as_it_is(tmp_path):
    path = save(tmp_path / "a.tif", np.array([[0.0, 0.25, 1.0]], np.float32))
    assert torch.equal(read_image(path), torch.tensor([[[0.0, 0.25, 1.0]]]))


def test_a_float_picture_out_of_range_asks_what_is_white(tmp_path):
    path = save(tmp_path / "a.tif", np.array([[280.0, 310.0]], np.float32))
    with pytest.raises(BadRequest, match=r"a\.tif holds values from 280 to 310.*minmax"):
        read_image(path)
    assert read_image(path, scale="minmax").tolist() == [[[0.0, 1.0]]]


def test_integers_of_32_bits_ask_what_is_white(tmp_path):
    path = save(tmp_path / "a.tif", np.array([[5, 70000]], np.int32))
    with pytest.raises(BadRequest, match="does not say which of them is white"):
        read_image(path)
    assert read_image(path, scale=140000)[0, 0, 1] == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("scale", ["full", "minmax", 2.0])
def test_values_that_are_no_numbers_are_refused(tmp_path, bad, scale):
    path = save(tmp_path / "a.tif", np.array([[0.0, bad]], np.float32))
    with pytest.raises(BadRequest, match=r"a\.tif holds 1 values that are not numbers"):
        read_image(path, scale=scale)


def test_transparency_is_dropped_and_the_stored_colour_kept(tmp_path):
    values = np.zeros((1, 2, 4), np.uint8)
    values[0, :, 0], values[0, :, 3] = 255, (0, 255)
    image = read_image(save(tmp_path / "a.png", values))
    assert image[:, 0, 0].tolist() == image[:, 0, 1].tolist() == [1, 0, 0]


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr", "LAB"])
def test_other_colour_modes_become_rgb(tmp_path, mode):
    flat = Image.new("RGB", (4, 4), (255, 0, 0)).convert("RGB")
    if mode == "LAB":
        from PIL import ImageCms

        change = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        )
        flat = ImageCms.applyTransform(flat, change)
        path = save(tmp_path / "a.tif", flat)
    else:
        path = save(tmp_path / ("a.png" if mode == "P" else "a.tif"), flat, mode)
    image = read_image(path)
    torch.testing.assert_close(image.mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]), atol=0.02, rtol=0)


@pytest.mark.parametrize("mode", ["1", "LA"])
def test_one_bit_and_grey_with_alpha_become_grey(tmp_path, mode):
    path = save(tmp_path / "a.png", np.array([[0, 255]], np.uint8), mode)
    assert read_image(path).tolist() == [[[0.0, 1.0]]]


def test_the_orientation_written_by_the_camera_is_applied(tmp_path):
    values = grey(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to view
    path = save(tmp_path / "a.png", values, exif=exif)
    expected = torch.from_numpy(np.rot90(values, -1).copy()).float() / 255
    assert torch.equal(read_image(path)[0], expected)


def test_orientation_is_applied_to_sixteen_bits_too(tmp_path):
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 10000
    exif = Image.Exif()
    exif[0x0112] = 3
    image = read_image(save(tmp_path / "a.png", values, exif=exif))
    torch.testing.assert_close(
        image[0], torch.from_numpy(values[::-1, ::-1].astype(np.float32) / 65535)
    )


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png: no such file"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(MissingFile):
        read_image(tmp_path / "nowhere.png")


def test_an_empty_file_says_so(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    with pytest.raises(BadRequest, match=r"a\.png is empty \(0 bytes\)"):
        read_image(path)


def test_a_folder_in_place_of_a_file_says_so(tmp_path):
    with pytest.raises(BadRequest, match="is a folder"):
        read_image(tmp_path)


def test_text_called_png_is_recognised(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("hello, not a picture")
    with pytest.raises(BadRequest, match=r"a\.png is not a picture.*it is text.*hello"):
        read_image(path)


def test_a_large_file_pointer_names_the_command_that_helps(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(BadRequest, match="git lfs pull"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_file_cut_short_says_so(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", colour(64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadRequest, match=rf"a\.{suffix}"):
        read_image(path)


def test_a_file_with_damaged_bytes_says_so(tmp_path):
    path = save(tmp_path / "a.png", colour(64, 64))
    content = bytearray(path.read_bytes())
    content[100:200] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(BadRequest, match=r"a\.png is damaged or cut short"):
        read_image(path)


@pytest.mark.parametrize("wrong", ["stretch", 0, -3, True])
def test_an_unknown_scale_is_refused(tmp_path, wrong):
    path = save(tmp_path / "a.png", grey())
    with pytest.raises(BadRequest, match="scale="):
        read_image(path, scale=wrong)


def test_two_channels_cannot_be_asked_for(tmp_path):
    with pytest.raises(BadRequest, match="channels=2"):
        read_image(tmp_path / "a.png", 2)


def test_the_pages_of_a_file_after_the_first_are_left_alone(tmp_path):
    first, second = Image.fromarray(grey(seed=3)), Image.fromarray(grey(seed=4))
    path = tmp_path / "a.tif"
    first.save(path, save_all=True, append_images=[second])
    assert torch.equal(read_image(path)[0] * 255, torch.from_numpy(grey(seed=3)).float())


# ---------------------------------------------------------------------------- writing


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_is_read_back(tmp_path, suffix, channels):
    image = torch.rand(channels, 5, 7, generator=torch.Generator().manual_seed(0))
    path = write_image(tmp_path / "new" / f"bild-ä{suffix}", image)
    torch.testing.assert_close(read_image(path), image, atol=0.5 / 255 + 1e-6, rtol=0)


def test_a_jpeg_is_close(tmp_path):
    image = torch.full((3, 16, 16), 0.5)
    torch.testing.assert_close(
        read_image(write_image(tmp_path / "a.jpg", image)), image, atol=0.01, rtol=0
    )


def test_values_outside_the_range_are_clipped_and_rounded_half_up(tmp_path):
    path = write_image(tmp_path / "a.png", torch.tensor([[[-1.0, 0.5, 2.0]]]))
    assert np.asarray(Image.open(path)).tolist() == [[0, 128, 255]]


def test_a_batch_of_one_is_written(tmp_path):
    assert read_image(write_image(tmp_path / "a.png", torch.zeros(1, 3, 4, 5))).shape == (3, 4, 5)


@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5), (2, 3, 4, 5)])
def test_other_shapes_are_refused(tmp_path, shape):
    with pytest.raises(BadRequest, match="a picture is"):
        write_image(tmp_path / "a.png", torch.zeros(shape))


def test_an_unknown_suffix_lists_the_known_ones(tmp_path):
    with pytest.raises(BadRequest, match=r"'\.xyz'; use one of \.png"):
        write_image(tmp_path / "a.xyz", torch.zeros(1, 4, 5))


def test_a_picture_with_nan_is_not_written(tmp_path):
    with pytest.raises(BadRequest, match="not numbers"):
        write_image(tmp_path / "a.png", torch.full((1, 2, 2), torch.nan))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match=r"cannot write .*a\.png .*choose a folder"):
        write_image(tmp_path / "file" / "a.png", torch.zeros(1, 2, 2))


def test_a_full_disk_leaves_neither_half_a_file_nor_the_loss_of_the_old_one(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.png", torch.ones(1, 2, 2))

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(CannotWrite, match="No space left on device"):
        write_image(path, torch.zeros(1, 2, 2))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert read_image(path).min() == 1


# ---------------------------------------------------------------------------- matching


def test_files_match_by_name_across_suffixes_in_natural_order(root):
    pairs = match_pairs(root / "ir", root / "vi")
    assert [p.name for p in pairs] == ["a2", "a10", "b"]
    assert pairs[0].ir.name == "a2.png"
    assert pairs[0].vi.name == "a2.bmp"


@pytest.mark.parametrize(
    ("ir", "vi"),
    [
        ("ir", "vi"),
        ("infrared", "visible"),
        ("Inf", "Vis"),
        ("thermal", "rgb"),
        ("day/LWIR", "day/RGB"),
        ("infrared/train", "visible/train"),
        ("train/ir", "train/vi"),
    ],
)
def test_a_root_is_understood_whatever_the_sub_folders_are_called(tmp_path, ir, vi):
    save(tmp_path / ir / "x.png", grey())
    save(tmp_path / vi / "x.jpg", colour())
    (pair,) = match_pairs(tmp_path)
    assert (pair.name, pair.ir.suffix, pair.vi.suffix) == ("x", ".png", ".jpg")


def test_equal_names_in_several_sub_folders_are_told_apart(tmp_path):
    for place in ("set0", "set1"):
        save(tmp_path / place / "ir" / "1.png", grey())
        save(tmp_path / place / "vi" / "1.png", colour())
    assert [p.name for p in match_pairs(tmp_path)] == ["set0/1", "set1/1"]


def test_sub_folders_may_differ_where_names_are_unique(tmp_path):
    save(tmp_path / "ir" / "night" / "x.png", grey())
    save(tmp_path / "vi" / "x.png", colour())
    assert [p.name for p in match_pairs(tmp_path / "ir", tmp_path / "vi")] == ["x"]


@pytest.mark.parametrize(
    ("ir", "vi"), [("IR7", "VIS7"), ("7_thermal", "7_rgb"), ("ir-7", "vi-7"), ("7ir", "7vi")]
)
def test_modality_marks_in_names_are_ignored_where_no_names_are_equal(tmp_path, ir, vi):
    save(tmp_path / "a" / f"{ir}.png", grey())
    save(tmp_path / "b" / f"{vi}.png", colour())
    assert [p.name for p in match_pairs(tmp_path / "a", tmp_path / "b")] == ["7"]


def test_two_files_are_one_pair(root):
    (pair,) = match_pairs(root / "ir" / "b.png", root / "vi" / "b.bmp")
    assert pair.name == "b"


def test_names_beyond_ascii_are_kept(tmp_path):
    save(tmp_path / "ir" / "straße 夜.png", grey())
    save(tmp_path / "vi" / "straße 夜.png", colour())
    (pair,) = FolderPairs(tmp_path)
    assert pair.name == "straße 夜"


def test_hidden_and_foreign_files_are_skipped(root):
    (root / "ir" / ".b.png").write_text("editor's file")
    (root / "ir" / "notes.md").write_text("notes")
    (root / "ir" / ".cache").mkdir()
    save(root / "ir" / ".cache" / "b.png", grey())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(match_pairs(root)) == 3


def test_files_without_partner_are_named_in_a_warning(root):
    for number in range(7):
        save(root / "vi" / f"lonely{number}.png", colour())
    with pytest.warns(
        UserWarning, match=r"7 pictures have no partner.*lonely0.*lonely4\.png, \.\.\.$"
    ):
        assert len(match_pairs(root)) == 3


def test_no_match_at_all_is_an_error_that_shows_both_sides(tmp_path):
    save(tmp_path / "ir" / "one.png", grey())
    save(tmp_path / "vi" / "two.png", colour())
    with pytest.raises(
        BadRequest, match=r"(?s)none of 1 infrared and 1 visible.*one\.png.*two\.png"
    ):
        match_pairs(tmp_path)


def test_two_files_that_claim_one_name_are_an_error(root):
    save(root / "ir" / "b.tif", grey())
    with pytest.raises(BadRequest, match=r"2 files claim the name 'b': .*b\.png.*b\.tif"):
        match_pairs(root)


def test_an_empty_folder_is_an_error(root):
    (root / "empty").mkdir()
    with pytest.raises(BadRequest, match="empty holds no pictures"):
        match_pairs(root / "ir", root / "empty")


def test_a_root_without_known_sub_folders_lists_the_known_names(tmp_path):
    save(tmp_path / "left" / "x.png", grey())
    with pytest.raises(BadRequest, match=r"holds no pairs: 0 infrared.*thermal.*rgb"):
        match_pairs(tmp_path)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(MissingFile, match="no such folder"):
        match_pairs(tmp_path / "nowhere")


def test_one_folder_given_twice_is_an_error(root):
    with pytest.raises(BadRequest, match="same folder"):
        match_pairs(root / "ir", root / "ir")


def test_a_file_beside_a_folder_is_an_error(root):
    with pytest.raises(BadRequest, match="two folders, or two files"):
        match_pairs(root / "ir", root / "vi" / "b.bmp")


# ---------------------------------------------------------------------------- folders


def test_a_folder_gives_pairs_with_texts_masks_and_things(root):
    for kind in ("ir", "vi"):
        (root / "text" / kind).mkdir(parents=True)
        (root / "text" / kind / "b.txt").write_text(f" {kind}: à ", encoding="utf-8")
    (root / "text" / "b.txt").write_text("\ufeffa caption", encoding="utf-8")
    save(root / "mask" / "person" / "b.png", np.full((6, 8), 255, np.uint8))
    (root / "boxes.json").write_text(json.dumps({"pairs": {"b": {"car": [[1, 2, 3, 4]]}}}))
    pair = FolderPairs(root)[2]
    assert pair.visible.shape == (3, 6, 8)
    assert pair.infrared.shape == (1, 6, 8)
    assert pair.texts == {"ir": "ir: à", "vi": "vi: à", "caption": "a caption"}
    assert torch.equal(pair.masks["person"], torch.ones(1, 6, 8))
    assert pair.things == (Thing("car", (1, 2, 3, 4), "the car"),)
    assert FolderPairs(root)[0].things == ()


def test_nothing_is_read_before_a_pair_is_asked_for(root):
    (root / "ir" / "b.png").write_text("no picture")
    pairs = FolderPairs(root, faulty="keep")
    assert len(pairs) == 3
    assert pairs[0].name == "a2"
    with pytest.raises(BadRequest, match=r"b\.png"):
        pairs[2]


def test_a_slice_of_a_folder_is_a_list_and_an_index_beyond_the_end_fails(root):
    pairs = FolderPairs(root)
    assert [p.name for p in pairs[1:]] == ["a10", "b"]
    assert pairs[-1].name == "b"
    with pytest.raises(IndexError):
        pairs[3]


def test_unequal_sizes_are_refused_with_both_files_and_both_sizes(root):
    save(root / "vi" / "b.bmp", colour(6, 9))
    with pytest.raises(BadRequest, match=r"b\.png is 8x6, .*b\.bmp is 9x6"):
        FolderPairs(root)[2]


def test_what_is_wrong_with_a_folder_is_said_once_and_on_opening(root):
    save(root / "vi" / "b.bmp", colour(6, 9))
    whole = (root / "ir" / "a2.png").read_bytes()
    (root / "ir" / "a2.png").write_bytes(whole[:-20])
    with pytest.raises(BadRequest) as caught:
        FolderPairs(root)
    message = str(caught.value)
    assert "2 of 3 pairs cannot be used" in message and "faulty='skip'" in message
    assert "a2.png was cut short" in message and "b.bmp is 9x6" in message
    with pytest.warns(UserWarning, match="2 of 3 pairs are left out"):
        assert FolderPairs(root, faulty="skip").names == ["a10"]
    assert len(FolderPairs(root, faulty="keep")) == 3
    assert FolderPairs(root, split="all", faulty="keep", count=1).names == ["a2"]
    with pytest.raises(BadRequest, match="refuse, skip or keep"):
        FolderPairs(root, faulty="yes")


def test_only_the_pairs_that_were_asked_for_are_looked_at(root):
    (root / "ir" / "b.png").write_bytes(b"")
    assert FolderPairs(root, count=2).names == ["a2", "a10"]
    with pytest.raises(BadRequest, match=r"b\.png is empty"):
        FolderPairs(root)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_that_was_cut_short_is_found_without_decoding_it(tmp_path, suffix):
    for side, values in (("ir", grey(40, 40)), ("vi", colour(40, 40))):
        save(tmp_path / side / f"a{suffix}", values)
    assert glance(FolderPairs(tmp_path).paths) == []
    file = tmp_path / "vi" / f"a{suffix}"
    file.write_bytes(file.read_bytes()[:-30])
    (problem,) = glance(FolderPairs(tmp_path, faulty="keep").paths)
    assert problem.kind == "unreadable" and "cut short" in problem.message


def test_the_camera_orientation_of_each_picture_counts_before_sizes_are_compared(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root / "vi" / "c.png", colour(4, 6))
    save(root / "ir" / "c.png", grey(6, 4), exif=exif)
    assert FolderPairs(root)[3].infrared.shape == (1, 4, 6)


def test_a_mask_of_another_size_is_refused(root):
    save(root / "masks" / "car" / "b.png", grey(5, 5))
    with pytest.raises(BadRequest, match=r"b\.png is 5x5, but its pair is 8x6"):
        FolderPairs(root)[2]


def test_text_that_is_not_utf8_is_refused_by_name(root):
    (root / "text").mkdir()
    (root / "text" / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(BadRequest, match=r"b\.txt is not UTF-8"):
        FolderPairs(root)[2]


def test_split_files_decide_members_and_order(root):
    (root / "train.txt").write_text("b\n\n# a note\na2.png\nb\n")
    (root / "test.txt").write_text("a10\n")
    assert FolderPairs(root, split="train").names == ["b", "a2"]
    assert FolderPairs(root, split="test").names == ["a10"]
    assert FolderPairs(root, split="all").names == ["a2", "a10", "b"]
    assert FolderPairs(root, split="train", count=1).names == ["b"]


def test_a_split_nobody_wrote_down_is_an_error_once_others_are(root):
    (root / "train.txt").write_text("b\n")
    with pytest.raises(
        BadRequest, match=r"no split 'test': it has train, all\. List its pairs in test"
    ):
        FolderPairs(root, split="test")


def test_names_in_a_split_file_without_files_are_named_in_a_warning(root):
    (root / "test.txt").write_text("b\nghost\n")
    with pytest.warns(UserWarning, match="names 1 pairs that are not in the folder: ghost"):
        assert FolderPairs(root, split="test").names == ["b"]


def test_a_split_file_that_names_nothing_present_is_an_error(root):
    (root / "test.txt").write_text("ghost\n")
    with pytest.raises(BadRequest, match=r"none of them is in the folder.*ghost"):
        FolderPairs(root, split="test")


def test_split_folders_count_as_splits(tmp_path):
    for split in ("train", "val"):
        save(tmp_path / split / "ir" / f"{split}1.png", grey())
        save(tmp_path / split / "vi" / f"{split}1.png", colour())
    assert FolderPairs(tmp_path, split="train").names == ["train1"]
    assert FolderPairs(tmp_path, split="validation").names == ["val1"]


def test_without_any_split_every_fifth_pair_is_for_testing(tmp_path):
    for number in range(11):
        save(tmp_path / "ir" / f"{number}.png", grey())
        save(tmp_path / "vi" / f"{number}.png", colour())
    train, test = (FolderPairs(tmp_path, split=split).names for split in ("train", "test"))
    assert test == ["4", "9"]
    assert sorted(train + test, key=int) == [str(n) for n in range(11)]


def test_a_small_folder_without_splits_still_has_both(root):
    assert FolderPairs(root, split="train").names == ["a2", "a10"]
    assert FolderPairs(root, split="test").names == ["b"]


def test_a_misspelt_split_gets_a_suggestion(root):
    with pytest.raises(BadRequest, match=r"'tset'\. Did you mean 'test'"):
        FolderPairs(root, split="tset")


@pytest.mark.parametrize("wrong", [{"count": 0}, {"size": 0}, {"ir": "somewhere"}])
def test_impossible_options_are_refused(root, wrong):
    with pytest.raises(BadRequest):
        FolderPairs(root, **wrong)


def test_sizes_follow_the_shorter_side_or_are_exact(root):
    assert FolderPairs(root, size=3)[0].visible.shape == (3, 3, 4)
    assert FolderPairs(root, size=(5, 5))[0].infrared.shape == (1, 5, 5)


def test_infrared_counts_are_stretched_and_visible_left_alone(tmp_path):
    save(tmp_path / "ir" / "x.png", np.array([[7000, 9000]], np.uint16))
    save(tmp_path / "vi" / "x.png", np.array([[[51, 51, 51], [102, 102, 102]]], np.uint8))
    pair = FolderPairs(tmp_path, scale="minmax")[0]
    assert pair.infrared.tolist() == [[[0.0, 1.0]]]
    torch.testing.assert_close(pair.visible[0], torch.tensor([[0.2, 0.4]]))


def test_boxes_that_are_no_boxes_are_refused_by_file(tmp_path):
    path = tmp_path / "boxes.json"
    for wrong in ("[]", "{", '{"pairs": {"a": {"car": [[3, 0, 1, 2]]}}}', '{"pairs": {"a": [1]}}'):
        path.write_text(wrong)
        with pytest.raises(BadRequest, match=r"boxes\.json is not a list of boxes"):
            read_boxes(path)


def test_known_data_is_found_by_the_environment_then_beside_the_project(tmp_path, monkeypatch):
    (tmp_path / "here" / "tiny").mkdir(parents=True)
    (tmp_path / "shared" / "data" / "tiny").mkdir(parents=True)
    (tmp_path / "project" / "notebooks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "notebooks")
    monkeypatch.delenv("FUSIONKIT_DATA", raising=False)
    assert data.find_data("tiny") == tmp_path / "shared" / "data" / "tiny"
    monkeypatch.setenv("FUSIONKIT_DATA", str(tmp_path / "here"))
    assert data.find_data("tiny") == tmp_path / "here" / "tiny"
    assert data.find_data("nothing-of-that-name") is None


# ---------------------------------------------------------------------------- pairs


def pair_of(height=6, width=8, name="p", **more):
    generator = torch.Generator().manual_seed(0)
    return Pair(
        name=name,
        visible=torch.rand(3, height, width, generator=generator),
        infrared=torch.rand(1, height, width, generator=generator),
        **more,
    )


@pytest.fixture
def rich():
    """A pair with everything, its object at columns 1-4, rows 2-6."""
    mask = torch.zeros(1, 6, 8)
    mask[:, 2:6, 1:4] = 1
    return pair_of(
        texts={"caption": "a car on the left", "dense": "the car at [1, 2, 4, 6]"},
        masks={"car": mask},
        depth=torch.arange(48.0).reshape(1, 6, 8),
        things=(Thing("car", (1, 2, 4, 6), "the car on the left"),),
    )


def test_pairs_of_one_size_make_a_batch(rich):
    batch = collate([rich, rich])
    assert batch.visible.shape == (2, 3, 6, 8)
    assert batch.names == ("p", "p")
    assert set(batch.guides) == {"mask:car", "depth"}
    assert batch.guides["mask:car"].shape == (2, 1, 6, 8)
    assert batch.labels["things"][0] == rich.things
    assert batch.text is None


def test_what_one_pair_lacks_is_absent_from_the_batch(rich):
    assert collate([rich, pair_of()]).guides == {}


def test_unequal_pairs_make_no_batch_and_are_named():
    with pytest.raises(BadRequest, match="'small' is 8x6, 'large' is 9x6"):
        collate([pair_of(name="small"), pair_of(width=9, name="large")])
    with pytest.raises(BadRequest, match="at least one pair"):
        collate([])


def test_a_crop_moves_everything_together(rich):
    part = crop(rich, 3, 2, 2, 4)
    assert torch.equal(part.visible, rich.visible[:, 3:5, 2:6])
    assert torch.equal(part.infrared, rich.infrared[:, 3:5, 2:6])
    assert torch.equal(part.depth, rich.depth[:, 3:5, 2:6])
    assert torch.equal(part.masks["car"][0], torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0]]))
    assert part.things == (Thing("car", (0, 0, 2, 2), "the car"),)
    assert part.texts == {"caption": "a car on the left"}


def test_a_crop_without_the_object_drops_its_box(rich):
    assert crop(rich, 0, 5, 3, 3).things == ()


@pytest.mark.parametrize("window", [(-1, 0, 2, 2), (0, 0, 7, 2), (0, 7, 2, 2), (0, 0, 0, 2)])
def test_a_crop_outside_the_picture_is_refused(rich, window):
    with pytest.raises(BadRequest, match="does not lie inside 8x6"):
        crop(rich, *window)


def test_resizing_averages_and_scales_the_boxes(rich):
    small = resize(rich, 3, 4)
    assert small.visible.shape == (3, 3, 4)
    torch.testing.assert_close(small.visible.mean(), rich.visible.mean(), atol=0.02, rtol=0)
    assert small.things[0].box == (0.5, 1, 2, 3)
    assert set(small.depth.flatten().tolist()) <= set(rich.depth.flatten().tolist())
    assert resize(rich, 6, 8) is rich


def test_a_checkerboard_made_small_is_grey_not_black_or_white():
    board = (torch.arange(64).reshape(8, 8) + torch.arange(8)[:, None]) % 2
    pair = Pair("p", board.float().expand(3, 8, 8), board.float()[None])
    assert (resize(pair, 2, 2).infrared - 0.5).abs().max() < 0.1


def test_the_shorter_side_is_met_and_the_shape_kept():
    assert resize_shorter(pair_of(30, 60), 10).infrared.shape == (1, 10, 20)
    assert resize_shorter(pair_of(60, 30), 10).infrared.shape == (1, 20, 10)
    assert resize_shorter(pair_of(4, 400), 1).infrared.shape == (1, 1, 100)


def test_a_horizontal_flip_swaps_the_sides_in_pictures_boxes_and_words(rich):
    other = flip(rich, horizontal=True)
    assert torch.equal(other.infrared, rich.infrared.flip(2))
    assert torch.equal(other.depth, rich.depth.flip(2))
    assert other.things[0] == Thing("car", (4, 2, 7, 6), "the car on the right")
    assert other.texts["caption"] == "a car on the right"
    back = flip(other, horizontal=True)
    assert torch.equal(back.visible, rich.visible)
    assert back.things == rich.things


def test_a_vertical_flip_leaves_the_words_alone(rich):
    other = flip(rich, vertical=True)
    assert torch.equal(other.masks["car"], rich.masks["car"].flip(1))
    assert other.things[0] == Thing("car", (1, 0, 4, 4), "the car on the left")
    assert flip(rich) is rich


@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (3, 5, 7)])
def test_padding_reflects_and_says_how_to_undo_it(shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    padded, (height, width) = pad_to_multiple(x, 4)
    assert padded.shape[-2:] == (8, 8)
    assert torch.equal(padded[..., :height, :width], x)
    expected = torch.nn.functional.pad(x, (0, 1, 0, 3), mode="reflect")
    assert torch.equal(padded, expected)


def test_padding_a_picture_too_small_to_reflect_repeats_its_edge():
    x = torch.tensor([[[[1.0, 2.0]]]])
    padded, size = pad_to_multiple(x, 4)
    assert size == (1, 2)
    assert padded[0, 0].tolist() == [[1.0, 2.0, 2.0, 2.0]] * 4


def test_a_picture_that_already_fits_is_not_touched():
    x = torch.rand(1, 1, 8, 4)
    assert pad_to_multiple(x, 4)[0] is x
    with pytest.raises(BadRequest):
        pad_to_multiple(x, 0)


# ---------------------------------------------------------------------------- report


def test_a_sound_folder_has_no_problems(root):
    assert check_pairs(root) == []


def test_a_report_lists_every_kind_of_problem_and_does_not_stop(tmp_path):
    def put(name, infrared, visible):
        save(tmp_path / "ir" / f"{name}.png", infrared)
        save(tmp_path / "vi" / f"{name}.png", visible)

    for number in range(3):
        put(f"good{number}", grey(seed=number), colour(seed=number))
    put("sizes", grey(6, 9), colour())
    put("flat", np.full((6, 8), 7, np.uint8), colour())
    put("deep", np.arange(48, dtype=np.uint16).reshape(6, 8) + 7000, colour())
    put("twin", grey(seed=9), grey(seed=9))
    false_colour = np.zeros((6, 8, 3), np.uint8)
    false_colour[..., 0] = grey()
    put("rainbow", false_colour, colour())
    put("broken", grey(), colour())
    (tmp_path / "ir" / "broken.png").write_text("no picture")
    save(tmp_path / "vi" / "alone.png", colour())
    found = {(p.kind, p.name.rsplit("/", 1)[-1]) for p in check_pairs(tmp_path)}
    assert found == {
        ("size", "sizes"),
        ("constant", "flat"),
        ("depth", "deep"),
        ("range", "deep"),
        ("same", "twin"),
        ("colour", "rainbow"),
        ("unreadable", "broken"),
        ("unmatched", "alone.png"),
    }


def test_a_problem_reads_as_one_line(root):
    save(root / "vi" / "b.bmp", colour(6, 9))
    (problem,) = check_pairs(FolderPairs(root, faulty="keep"))
    assert str(problem).startswith("size: b: ")
    assert "8x6" in str(problem)
