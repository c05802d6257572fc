"""Damages in one, their words, and degraded sets: whole, repeatable, taken up after a stop."""

import csv
import json

import pytest
import torch

from fusionkit.data import read_image
from fusionkit.degrading import LEVELS, Chain, build, contact_sheet, with_depth, write_set
from fusionkit.errors import BadRequest, UnknownComponent
from fusionkit.registry import Registry
from fusionkit.testing import tiny_pairs


class Part:
    """Adds a digit to a picture, so that the order shows."""

    prompts, held_out = ("mend it", "repair it"), ("make it good",)
    statements, source = ("broken",), "ours"

    def __init__(self, name, stage=None, modality="visible", needs=()):
        self.name, self.modality, self.needs = name, modality, needs
        if stage:
            self.stage = stage

    def __call__(self, image, severity, generator=None, **context):
        return image * 10 + int(self.name[-1])


@pytest.fixture
def registry():
    return Registry.from_environment()


def test_damages_happen_from_the_scene_to_the_file_whatever_their_order():
    chain = Chain([Part("p1", "file"), Part("p2"), Part("p3", "air"), Part("p4", "sensor")])
    assert chain.name == "p3+p2+p4+p1"  # unknown counts as sensor, ties keep their order
    assert chain(torch.zeros(1, 3, 1, 1), 1.0).unique().item() == 3241


def test_a_chain_over_both_pictures_damages_each_with_its_own():
    chain = Chain([Part("p1", "air"), Part("p2", "sensor", "infrared")])
    assert chain.modalities == ("visible", "infrared")
    visible, infrared = chain.pair(torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2), 1.0)
    assert visible.unique().item() == 1 and infrared.unique().item() == 2
    with pytest.raises(BadRequest, match="both pictures"):
        chain(torch.zeros(1, 3, 2, 2), 1.0)


def test_requests_are_joined_and_stay_apart_from_the_held_out_ones():
    long = Part("p2")
    long.prompts = ("clear it", "wash it", "dry it")
    chain = Chain([Part("p1"), long, Part("p3")])
    assert chain.prompts[0] == "mend it, clear it and mend it"
    assert len(chain.prompts) == 3 and chain.held_out == ("make it good, make it good and "
                                                          "make it good",)  # fmt: skip
    silent = Part("p4")
    silent.held_out = ()
    assert Chain([Part("p1"), silent]).held_out == ()


def test_a_chain_keeps_what_holds_for_each_degradation(registry):
    chain = build(["jpeg+haze+noise"], registry)["jpeg+haze+noise"]
    assert chain.name == "haze+noise+jpeg" and chain.needs == ("depth",)
    image = torch.stack([pair.visible for pair in tiny_pairs(2)])
    depth = torch.stack([pair.depth for pair in tiny_pairs(2)])
    severity = torch.tensor([0.0, 0.8])
    first, again = (
        chain(image, severity, torch.Generator().manual_seed(1), depth=depth) for _ in range(2)
    )
    assert torch.equal(first, again)
    torch.testing.assert_close(first[0], image[0], atol=2e-6, rtol=0)
    assert (first[1] - image[1]).abs().mean() > 0.05


def test_every_degradation_there_is_where_none_is_named_and_the_nearest_name_else(registry):
    assert list(build([], registry)) == registry.names("degradation")
    with pytest.raises(UnknownComponent, match="haze"):
        build(["noise+hase"], registry)
    with pytest.raises(BadRequest, match="itself"):
        build(["haze+haze"], registry)


def test_damage_that_needs_depth_says_so_before_anything_is_made(registry):
    from dataclasses import replace

    chains = build(["haze", "noise"], registry)
    flat = replace(tiny_pairs(1)[0], depth=None)
    with pytest.raises(BadRequest, match=r"haze needs the depth.*depth/<name>.png"):
        with_depth(flat, chains, None)
    assert with_depth(flat, build(["noise"], registry), None) == {}
    guessed = with_depth(flat, chains, registry.create("guide", "depth", model=None))
    assert guessed["depth"].shape == (1, 1, 24, 32)


def test_a_sheet_has_a_row_per_damaged_picture(registry):
    chains = build(["haze+ir-noise", "blur"], registry)
    sheet = contact_sheet(tiny_pairs(1)[0], chains, severities=(0.5, 1.0))
    (axis,) = sheet.axes
    assert [t.get_text() for t in axis.get_yticklabels()] == ["haze+ir-noise"] * 2 + ["blur"]
    assert [t.get_text() for t in axis.get_xticklabels()] == ["clean", "0.5", "1"]
    (shown,) = axis.images
    assert shown.get_array().shape[:2] == (3 * 24, 3 * 32)
    cells = shown.get_array().reshape(3, 24, 3, 32, 3).transpose(0, 2, 1, 3, 4)
    assert len({cell.tobytes() for row in cells for cell in row}) == 8  # visible is clean twice


def test_what_nobody_named_and_cannot_be_made_is_left_out_and_said(registry, tmp_path, capsys):
    from fusionkit.data import write_image
    from fusionkit.degrading import Workshop
    from fusionkit.notebook import DegradeParameters

    for pair in tiny_pairs(2):
        write_image(tmp_path / "ir" / f"{pair.name}.png", pair.infrared)
        write_image(tmp_path / "vi" / f"{pair.name}.png", pair.visible)
    given = {"dataset": "folder", "data_root": str(tmp_path), "image_size": 24}
    work = Workshop(DegradeParameters(**given), registry)
    assert "no depth: haze" in capsys.readouterr().out
    assert "haze" not in work.chains and "ems-haze" in work.chains
    assert len(work.words()) == len(work.chains)
    guessed = Workshop(DegradeParameters(**given, depth="guess", degradations="haze"), registry)
    assert guessed.sheet().axes
    with pytest.raises(BadRequest, match="haze needs the depth"):
        Workshop(DegradeParameters(**given, degradations="haze"), registry).sheet()


# ---------------------------------------------------------------------------- sets


def files(folder):
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*.png")}


def test_a_set_in_the_layout_of_ems_is_read_by_its_data_set(registry, tmp_path):
    pairs = tiny_pairs(3)
    chains = build(["low-light", "ir-low-contrast", "haze+ir-noise"], registry)
    for split in ("train", "test"):
        table = write_set(pairs, chains, tmp_path, split=split)
    read = registry.create("dataset", "ems", root=tmp_path)
    assert {pair.task for pair in read} == {"low_light", "ir_low_contrast", "haze_ir_noise"}
    assert len(read) == 9
    by_name = {pair.name: pair for pair in pairs}
    for pair in read:
        clean = by_name[pair.name.rsplit("/", 1)[-1]]
        assert (pair.clean_visible - clean.visible).abs().max() <= 0.5 / 255 + 1e-6
        assert (pair.clean_infrared - clean.infrared).abs().max() <= 0.5 / 255 + 1e-6
        changed = {
            side for side in ("visible", "infrared")
            if not torch.equal(getattr(pair, side), getattr(pair, f"clean_{side}"))
        }  # fmt: skip
        expected = {"low_light": {"visible"}, "ir_low_contrast": {"infrared"}}
        assert changed == expected.get(pair.task, {"visible", "infrared"})
        assert set(pair.prompts) & set(chains["low-light"].prompts) or pair.task != "low_light"
    held_out = (tmp_path / "Low_light" / "eval" / "text.txt").read_text().splitlines()
    assert tuple(held_out) == chains["low-light"].held_out
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 9 and all(0.5 <= float(row["severity"]) <= 1 for row in rows)
    assert all((tmp_path / row["file"]).is_file() for row in rows)
    assert {row["prompt"] for row in rows if row["damage"] == "low-light"} <= set(held_out)


def test_the_other_layout_has_a_folder_per_level_and_more_damage_in_each(registry, tmp_path):
    pairs = tiny_pairs(1)
    write_set(pairs, build(["noise", "ir-stripes"], registry), tmp_path, layout="ddl")
    errors = []
    for level in LEVELS:
        folder = tmp_path / "IR_Stripes" / f"IR_Stripes_{level}" / "train"
        damaged = read_image(folder / "Infrared" / "pair-0.png")
        errors.append((damaged - read_image(folder / "Infrared_gt" / "pair-0.png")).abs().mean())
    assert errors[0] < errors[1] < errors[3]  # every level has its own draw
    assert (tmp_path / "VI_Noise" / "VI_Noise_slight" / "train" / "text.txt").is_file()
    read = registry.create("dataset", "ems", root=tmp_path / "VI_Noise")
    assert {pair.task for pair in read} == {f"vi_noise_{level}" for level in LEVELS}


def test_what_was_stopped_goes_on_to_the_same_set_and_reads_only_what_is_missing(
    registry, tmp_path
):
    class Stops(list):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            if self.read == self.limit:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    chains = build(["noise", "rain"], registry)
    write_set(tiny_pairs(3), chains, tmp_path / "whole", seed=5)
    pairs = Stops(tiny_pairs(3))
    pairs.limit = 3
    with pytest.raises(KeyboardInterrupt):
        write_set(pairs, chains, tmp_path / "stopped", seed=5)
    assert 0 < len(files(tmp_path / "stopped")) < len(files(tmp_path / "whole"))
    (tmp_path / "stopped" / "Rain" / "train" / "Visible" / "pair-0.png").unlink()
    pairs.limit, pairs.read = None, 0
    write_set(pairs, chains, tmp_path / "stopped", seed=5)
    assert pairs.read == 2  # the first, which lost a picture, and the last
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_a_folder_of_other_parameters_is_not_mixed_with(registry, tmp_path):
    chains = build(["noise"], registry)
    write_set(tiny_pairs(1), chains, tmp_path, seed=1)
    before = files(tmp_path)
    with pytest.raises(BadRequest, match="other seed"):
        write_set(tiny_pairs(1), chains, tmp_path, seed=2)
    write_set(tiny_pairs(1), chains, tmp_path, seed=2, resume=False)
    assert files(tmp_path) != before
    assert json.loads((tmp_path / "degraded-train.json").read_text())["seed"] == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"layout": "emz"}, "there are ems, ddl"),
        ({"split": "all"}, "train and test"),
        ({"severity": (0.0, 1.0)}, "above 0"),
    ],
)
def test_impossible_sets_are_refused(registry, tmp_path, wrong, said):
    with pytest.raises(BadRequest, match=said):
        write_set(tiny_pairs(1), build(["noise"], registry), tmp_path, **wrong)
    assert not files(tmp_path)
