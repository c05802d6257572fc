"""Association maps: the authors' own example, recorded plans, and the guide offline."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fusionkit_textfusion.association import (
    Association,
    coarse_map,
    heat_from_plan,
    instance_vote,
    is_noun,
    transport_plan,
    word_patch_cost,
    words_of,
)

from fusionkit.batch import Batch
from fusionkit.data import read_image
from fusionkit.errors import BadRequest
from fusionkit.registry import Registry
from fusionkit.testing import TinyEncoder, golden, tiny_batch

HERE = Path(__file__).with_name("golden")
GOLDEN = golden.folder("textfusion", HERE)
EXAMPLE = GOLDEN / "association"
COMPACT, RECORDED = golden.read(HERE / "manifest.json")["transport"], np.load(HERE / "outputs.npz")


@pytest.fixture(scope="module")
def features():
    text, image = (golden.seeded_input(COMPACT["inputs"][name]) for name in ("text", "image"))
    image[0, 4] += 2 * text[0, 3]
    image[0, 5] += 1.5 * text[0, 3]
    image[0, 12] += 2 * text[0, 6]
    words, patches = torch.ones(1, 9, dtype=bool), torch.ones(1, 21, dtype=bool)
    words[0, [0, 8]] = patches[0, 0] = False
    return word_patch_cost(text, image), words, patches


@pytest.mark.parametrize(("beta", "iterations"), [(0.1, 1000), (0.5, 50)])
def test_transport_plans_are_the_recorded_ones(features, beta, iterations):
    cost, words, patches = features
    plan = transport_plan(cost, words, patches, beta=beta, iterations=iterations)
    expected = torch.from_numpy(RECORDED[f"transport/plan_beta{beta}_it{iterations}"])
    torch.testing.assert_close(plan[0], expected, **COMPACT["tolerance"]["plan"])


def test_costs_and_the_heat_map_of_a_word_are_the_recorded_ones(features):
    cost, words, patches = features
    counts = words[0, :, None] & patches[0]
    expected = torch.from_numpy(RECORDED["transport/cost"])
    torch.testing.assert_close(cost[0][counts], expected[counts], rtol=0, atol=1e-5)
    plan = transport_plan(cost, words, patches)
    heat = heat_from_plan(plan[0, 1:, 3].view(4, 5))
    expected = torch.from_numpy(RECORDED["transport/heat_word3"])
    torch.testing.assert_close(heat, expected, rtol=0, atol=COMPACT["tolerance"]["heat"]["atol"])


def test_words_that_do_not_count_get_nothing_and_marginals_are_uniform(features):
    cost, words, patches = features
    plan = transport_plan(cost, words, patches)[0]
    assert plan[:, ~words[0]].abs().max() == 0 and plan[~patches[0]].abs().max() == 0
    torch.testing.assert_close(plan.sum(0)[words[0]], torch.full((7,), 1 / 7), rtol=1e-3, atol=0)


@pytest.mark.skipif(not EXAMPLE.is_dir(), reason="the authors' example is not beside the checkout")
def test_the_authors_example_is_reproduced_to_the_pixel():
    facts = golden.read(EXAMPLE / "manifest.json")

    def read(name):
        return read_image(EXAMPLE / name, 1)[0]

    instances = torch.stack([read(name) > 0 for name in facts["files"]["instance_masks"]])
    for number, expected in facts["expected"].items():
        heats = [
            read(f"t{number}_{modality}_{noun}.png")
            for modality in ("vis", "ir")
            for noun in expected["nouns"][modality]
        ]
        _, coarse = coarse_map(heats)
        fine, coverage = instance_vote(coarse, instances)
        assert torch.equal(coarse, read(f"t{number}_coarse.png") > 0)
        assert torch.equal(fine, read(f"t{number}_fine.png") > 0)
        assert coverage.tolist() == pytest.approx(list(expected["coverage"].values()), abs=1e-6)


def test_an_instance_votes_only_with_more_than_half_of_its_area():
    coarse = torch.zeros(4, 4, dtype=bool)
    coarse[:2] = True
    half, more, none = torch.zeros(3, 4, 4, dtype=bool)
    half[1:3, 0] = True
    more[:3, 1] = True
    none[3] = True
    fine, coverage = instance_vote(coarse, torch.stack([half, more, none]))
    assert torch.equal(fine, more)
    assert coverage.tolist() == pytest.approx([0.5, 2 / 3, 0])
    empty, _ = instance_vote(coarse, torch.zeros(0, 4, 4, dtype=bool))
    assert not empty.any()


def test_words_count_as_nouns_by_themselves():
    words = words_of("There is a girl carrying a white bag, walking on the road.")
    assert [word for word in words if is_noun(word)] == ["girl", "bag", "road"]


def test_a_patch_that_shows_the_word_is_what_the_guide_marks():
    """Features given by hand: 'car' is the direction of one patch, in one picture alone."""

    def read(sentence, picture):
        patches = torch.zeros(3, 3, 4)
        patches[0] = 1
        if picture.shape[1] == 1:
            patches[:, 1, 2] = torch.tensor([0.0, 0.0, 5.0])
        return ["a", "car"], torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]), patches

    batch = Batch(torch.zeros(1, 3, 24, 32), torch.zeros(1, 1, 24, 32), prompts=("a car",))
    maps = Association(reader=read)(batch)
    expected = torch.zeros(1, 1, 24, 32)
    expected[..., 8:16, 16:24] = 1
    torch.testing.assert_close(maps["association"], expected)
    torch.testing.assert_close(maps["association_heat"], expected)
    thing, other = expected.roll(2, -1) > 0, expected.roll(8, -1) > 0
    voted = Association(reader=read)(
        batch.replace(guides={"instances": torch.cat([thing, other], 1).float()})
    )
    torch.testing.assert_close(voted["association"], thing.float())


def test_without_words_everything_is_relevant():
    batch = tiny_batch(1).replace(prompts=("",))
    instances = (torch.rand(1, 2, 24, 32) > 0.5).float()
    maps = Association(encoder=TinyEncoder())(batch.replace(guides={"instances": instances}))
    assert maps["association_coarse"].min() == 1
    torch.testing.assert_close(maps["association"], instances.amax(1, keepdim=True))


def test_an_encoder_that_cannot_see_is_refused():
    with pytest.raises(BadRequest, match="reads pictures too"):
        Association(encoder=object())
    with pytest.raises(BadRequest, match="no reader 'clip'"):
        Association(encoder=TinyEncoder(), reader="clip")


def test_offline_the_tiny_encoder_finds_a_person_better_than_chance():
    registry = Registry.from_environment()
    pairs = [p for p in registry.create("dataset", "scenes", split="test", count=8, size=96)]
    guide = registry.create("guide", "association", encoder=registry.create("encoder", "tiny-clip"))
    shares = []
    for pair in pairs:
        if "person" in pair.masks:
            batch = Batch(pair.visible[None], pair.infrared[None], prompts=("There is a person.",))
            coarse = guide(batch)["association_coarse"][0]
            inside = (coarse * pair.masks["person"]).sum() / pair.masks["person"].sum()
            shares.append(float(inside - coarse.mean()))
    assert len(shares) >= 3 and np.mean(shares) > 0.15


def test_vilt_reads_words_and_patches_in_reading_order(tmp_path):
    """A small random model: patches lie where the picture has them whatever order is drawn."""
    transformers = pytest.importorskip("transformers")
    from fusionkit_textfusion.vilt import Vilt, reading_size

    assert reading_size(1024, 1280) == (384, 480)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "car", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = transformers.ViltConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        vocab_size=8, image_size=384, patch_size=32,
    )  # fmt: skip
    transformers.ViltModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    reader = Vilt(str(tmp_path))
    picture = torch.rand(1, 1, 64, 80)
    with torch.no_grad():
        words, text, patches = reader("A cars", picture)
        again = reader("A cars", picture)
        changed = picture.clone()
        changed[..., :16, 64:] = 1 - changed[..., :16, 64:]
        other = reader("A cars", changed)[2]
    assert words == ["a", "car", "##s"] and text.shape == (3, 16)
    assert patches.shape == (16, 12, 15)
    torch.testing.assert_close(patches, again[2])
    difference = (other - patches).norm(dim=0)
    row, column = divmod(int(difference.argmax()), 15)
    assert row < 4 and column >= 11
