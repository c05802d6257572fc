"""Texts of pairs, the released layout, and a reduced training in both stages."""

import json

import pytest
import torch
from fusionkit_mtgfusion.datasets import KEYS, SETS, MtgImages, write_listing
from fusionkit_mtgfusion.losses import (
    TextAgreement,
    TwoSource,
    similarity_map,
    structural_similarity,
)
from fusionkit_mtgfusion.task import KINDS, TextedPairs, describe

from fusionkit import data
from fusionkit.batch import Batch, Fused
from fusionkit.errors import BadRequest
from fusionkit.recipe import Part
from fusionkit.registry import Registry
from fusionkit.testing import TinyEncoder, tiny_batch, tiny_pairs
from fusionkit.training import train

REGISTRY = Registry.from_environment()


def lay_out(root, of="MRI_PET", count=6):
    """The released layout, with colour in the second modality."""
    first, second = SETS[of]
    a, b = first.lower(), second.lower()
    folders = {
        "ir": a, "vi": b, "common": f"{a}_{b}_common", "ir_unique": f"{a}unique",
        "vi_unique": f"{b}unique", "fused": f"{a}_{b}_GT",
    }  # fmt: skip
    for i, pair in enumerate(tiny_pairs(count, (20, 24))):
        for name, picture in ((first, pair.infrared), (second, pair.visible)):
            data.write_image(root / "image" / f"test_{of}" / name / f"{i + 1}.png", picture)
        for kind, folder in folders.items():
            file = root / "text" / f"test_{of}" / f"text_{folder}" / f"{i + 1}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{kind} of\n{i + 1}", encoding="utf-8")
    return root


@pytest.mark.parametrize("of", ["TNO", "MRI_PET"])
def test_the_released_layout_is_read_with_its_six_texts(tmp_path, of):
    pairs = MtgImages(lay_out(tmp_path, of), split="all", pairs=of)
    assert len(pairs) == 6
    assert pairs[1].name == "2"
    assert pairs[1].texts == {kind: f"{kind} of 2" for kind in KINDS}
    assert pairs[1].infrared.shape == (1, 20, 24) and pairs[1].visible.shape == (3, 20, 24)
    assert len(MtgImages(tmp_path, pairs=of, split="test")) == 1


def test_the_form_of_the_released_programs_is_written_and_read(tmp_path):
    folders = MtgImages(lay_out(tmp_path), split="all", pairs="MRI_PET")
    write_listing(folders, tmp_path / "list.txt", tmp_path / "texts.json")
    written = json.loads((tmp_path / "texts.json").read_text())
    assert set(written["1"]) == set(KEYS)
    listed = MtgImages(split="all", listing=tmp_path / "list.txt", texts=tmp_path / "texts.json")
    for ours, theirs in zip(listed, folders, strict=True):
        assert (ours.name, ours.texts) == (theirs.name, theirs.texts)
        assert torch.equal(ours.visible, theirs.visible)
    train_part, test_part = (
        MtgImages(split=s, listing=tmp_path / "list.txt") for s in ("train", "test")
    )
    assert (len(train_part), len(test_part), test_part[0].texts) == (5, 1, {})


def test_what_does_not_fit_is_said(tmp_path):
    with pytest.raises(BadRequest, match="no pairs 'CT': it has TNO, RoadScene"):
        MtgImages(tmp_path, pairs="CT")
    (tmp_path / "list.txt").write_text("a.png b.png\nc.png\n")
    with pytest.raises(BadRequest, match="line 2: 1 words where two paths"):
        MtgImages(listing=tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("a.png b.png\n")
    (tmp_path / "texts.json").write_text("[1]")
    with pytest.raises(BadRequest, match="is not of the form"):
        MtgImages(listing=tmp_path / "list.txt", texts=tmp_path / "texts.json")


def test_real_pairs_carry_the_six_texts(data_root):
    pairs = REGISTRY.create("dataset", "tno", root=data_root / "tno", split="all", count=3)
    assert all(set(KINDS) <= set(pair.texts) for pair in pairs)
    task = TextedPairs(pairs=pairs, crop=32)
    batch = task.sample(2, torch.Generator().manual_seed(0))
    assert batch.visible.shape == (2, 3, 32, 32)
    assert all(words["fused"] in task.prompts for words in batch.labels["texts"])


def test_pairs_with_masks_are_described_by_what_each_picture_shows():
    (pair,) = tiny_pairs(1, (32, 40))
    inside = pair.masks["person"] > 0.5
    visible = torch.full_like(pair.visible, 0.5)
    infrared = torch.where(inside, 0.9, 0.4)
    texts = describe(type(pair)(name="a", visible=visible, infrared=infrared, masks=pair.masks))
    assert set(texts) == set(KINDS)
    assert texts["ir"] == "The infrared image shows the person."
    assert texts["ir_unique"] == "Only the infrared image shows the person."
    assert texts["vi"] == "The visible image shows little."
    assert texts["fused"] == "The fused image shows the person clearly."


def test_whole_pictures_are_squeezed_or_squares_cut_out():
    pairs = tiny_pairs(3, (24, 32))
    generator = torch.Generator().manual_seed(0)
    squeezed = TextedPairs(pairs=pairs, crop=64).sample(2, generator)
    assert squeezed.visible.shape == (2, 3, 24, 24)
    cut = TextedPairs(pairs=pairs[:1], crop=8, cutting="crop").sample(1, generator)
    windows = pairs[0].infrared[0].unfold(0, 8, 1).unfold(1, 8, 1)
    assert (windows == cut.infrared[0, 0]).all(-1).all(-1).any()
    without = TextedPairs(pairs=pairs, texts=False).sample(2, generator)
    assert without.prompts == ("", "") and without.labels["texts"] == ({}, {})


def test_similarity_of_structure_is_that_of_the_definition():
    x, y = torch.rand(2, 1, 1, 11, 11, generator=torch.Generator().manual_seed(0))
    assert float(structural_similarity(x, x)) == pytest.approx(1)
    place = torch.arange(11) - 5
    window = torch.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2))
    window = window / window.sum()
    # Pictures with one window's content everywhere: continued by copies, so that all are equal.
    a, b = (z[..., 5:6, 5:6].expand_as(z) for z in (x, y))
    flat = (2 * a * b + 0.01**2) / (a**2 + b**2 + 0.01**2)
    assert float(structural_similarity(a, b)) == pytest.approx(float(flat.mean()), abs=1e-4)
    mean = [(z[0, 0] * window).sum() for z in (x, y)]
    variance = [(z[0, 0] ** 2 * window).sum() - m**2 for z, m in zip((x, y), mean, strict=True)]
    both = (x[0, 0] * y[0, 0] * window).sum() - mean[0] * mean[1]
    centre = (2 * mean[0] * mean[1] + 0.01**2) * (2 * both + 0.03**2)
    centre /= (mean[0] ** 2 + mean[1] ** 2 + 0.01**2) * (sum(variance) + 0.03**2)
    assert float(similarity_map(x, y)[0, 0, 5, 5]) == pytest.approx(float(centre), abs=1e-5)


def test_the_text_loss_draws_the_picture_towards_its_texts():
    encoder = TinyEncoder()
    loss, batch = TextAgreement(encoder=encoder), tiny_batch(2, (24, 24))
    assert "fused" not in batch.texts  # the texts there are count
    image = batch.visible.clone().requires_grad_()
    before = loss(batch, Fused(image=image))["text"]
    before.backward()
    after = loss(batch, Fused(image=image - 0.5 * image.grad / image.grad.abs().max()))["text"]
    assert after < before
    assert float(loss(batch.replace(texts={}), Fused(image=image))["text"]) == 0
    with pytest.raises(BadRequest, match="this encoder reads no pictures"):
        TextAgreement(encoder=object())
    with pytest.raises(BadRequest, match="neither 'ssim' nor 'l1'"):
        TwoSource(ssim="ms")


def test_a_reduced_training_of_both_stages_learns():
    recipe = REGISTRY.create("recipe", "mtgfusion-small")
    network = {"channels": 16, "window": 8, "specific": {"cross_blocks": 1}}
    stages = [
        s.model_copy(update={"steps": n, "crop": 24, "learning_rate": 2e-3, "warmup": 0.0})
        for s, n in zip(recipe.stages, (24, 8), strict=True)
    ]
    recipe = recipe.model_copy(
        update={"network": Part(name="mtgfusion", options=network), "stages": tuple(stages)}
    )
    done = train(
        recipe, tiny_pairs(4, 32), registry=REGISTRY, device="cpu", precision="float32",
        encoder=TinyEncoder(), log_every=8,
    )  # fmt: skip
    totals = {step: terms["l1"] for step, terms in done.history.items()}
    assert totals[24] < 0.5 * totals[8]
    assert done.history[24]["text"] == 0 < done.history[32]["text"]
    assert isinstance(done.method(Batch(**_pictures())).image, torch.Tensor)


def _pictures():
    pair = tiny_pairs(1, (17, 23))[0]
    return {"visible": pair.visible[None], "infrared": pair.infrared[None]}


def test_the_published_protocol_is_the_recipe():
    recipe = REGISTRY.create("recipe", "mtgfusion")
    first, second = recipe.stages
    assert (first.batch_size, first.crop, first.learning_rate) == (16, 256, 1e-4)
    assert (second.learning_rate, second.optimizer, second.decay) == (5e-5, "adam", 0.5)
    assert first.steps == 2 * second.steps == 100 * first.milestones[0] // 20
    assert first.weights["text"] == 0 and recipe.weights["text"] == 0.5
    assert not TextedPairs(pairs=tiny_pairs(1), **first.task_options).texts[0]
