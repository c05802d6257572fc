"""The whole network on batches: texts by role, colour, what it shows, other schemes."""

import pytest
import torch
from fusionkit_mtgfusion import attention
from fusionkit_mtgfusion.network import ROLES, MtgFusion

from fusionkit.batch import Batch, TextFeatures
from fusionkit.color import luma, rgb_to_ycbcr
from fusionkit.errors import BadRequest
from fusionkit.registry import Registry
from fusionkit.testing import tiny_batch
from fusionkit.testing.contract import awake

SMALL = {"channels": 16, "text_dim": 12, "window": 8}


def build(**options):
    torch.manual_seed(0)
    return awake(MtgFusion(**(SMALL | options))).eval().requires_grad_(False)


@pytest.fixture
def batch():
    return tiny_batch(2, (18, 21), text_dim=12)


def raw(network, batch):
    """The unbounded luma: what is clipped hides differences."""
    return network(batch).maps["raw"]


def bare(batch, **changes):
    return batch.replace(text=None, texts={}, prompts=(), **changes)


@pytest.mark.parametrize("variant", ["released", "described"])
def test_every_role_is_heard(batch, variant):
    network = build(variant=variant)
    before = raw(network, batch)
    for role in ROLES:
        text = batch.texts[role]
        # Another direction: a cube is only looked up by it.
        other = TextFeatures(pooled=text.pooled, tokens=-3 * text.tokens.flip(-1), mask=text.mask)
        changed = raw(network, batch.replace(texts={**batch.texts, role: other}))
        assert not torch.equal(before, changed), role


def test_no_text_is_the_zero_text(batch):
    network = build()
    zero = TextFeatures(pooled=torch.zeros(2, 12))
    expected = raw(network, bare(batch).replace(texts=dict.fromkeys(ROLES, zero)))
    assert torch.equal(raw(network, bare(batch)), expected)
    empty = bare(batch).replace(text=batch.text, prompts=("", ""))
    assert torch.equal(raw(network, empty), expected)


def test_one_prompt_speaks_for_every_role(batch):
    network = build()
    alone = raw(network, bare(batch).replace(text=batch.text))
    each = raw(network, bare(batch).replace(texts=dict.fromkeys(ROLES, batch.text)))
    assert torch.equal(alone, each)


def test_texts_are_read_to_the_32nd_token(batch):
    network, generator = build(), torch.Generator().manual_seed(1)
    tokens = torch.randn(2, 40, 12, generator=generator)
    cut = TextFeatures(pooled=tokens.mean(1), tokens=tokens[:, :32])
    long = TextFeatures(pooled=tokens.mean(1), tokens=tokens)
    results = [raw(network, bare(batch).replace(text=text)) for text in (cut, long)]
    assert torch.equal(*results)
    unbounded = build(max_tokens=None)
    assert not torch.equal(raw(unbounded, bare(batch).replace(text=long)), results[0])


def test_padding_counts_only_where_asked(batch):
    loud = {
        role: TextFeatures(
            pooled=text.pooled,
            tokens=torch.where(text.mask[..., None], text.tokens, 9.0),
            mask=text.mask,
        )
        for role, text in batch.texts.items()
    }
    for masked in (True, False):
        network = build(mask_padding=masked)
        same = torch.equal(raw(network, batch), raw(network, batch.replace(texts=loud)))
        assert same == masked


def test_texts_of_another_width_are_refused(batch):
    with pytest.raises(BadRequest, match="texts of width 12, but these are 7 wide"):
        build()(bare(batch).replace(text=TextFeatures(pooled=torch.zeros(2, 7))))


def test_colour_is_that_of_the_visible_picture():
    visible = 0.5 + 0.1 * torch.rand(1, 3, 18, 21)
    network = build()
    network.reconstructor.final_conv.weight.zero_()
    network.reconstructor.final_conv.bias.fill_(0.5)
    fused = network(Batch(visible=visible, infrared=torch.rand(1, 1, 18, 21)))
    torch.testing.assert_close(
        rgb_to_ycbcr(fused.image)[:, 1:], rgb_to_ycbcr(visible)[:, 1:], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(luma(fused.image), fused.maps["raw"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["released", "described"])
def test_cube_reordering_and_weights_are_shown_in_bounded_size(variant):
    batch = tiny_batch(1, (70, 90), text_dim=12)
    maps = build(variant=variant)(batch).maps
    assert maps["cube"].shape[1] == maps["reordered"].shape[1] == 16
    for name in ("cube", "reordered"):
        assert max(maps[name].shape[-2:]) <= 64
    weights = ("k_rows", "k_columns", "d_tv", "d_tt", "gate", "nearest", "weight_ir", "weight_vi")
    for name in weights:
        assert maps[name].shape == (1, 1, 70, 90), name
    for name in ("k_rows", "k_columns", "gate", "nearest", "weight_ir", "weight_vi"):
        assert maps[name].min() >= 0 and maps[name].max() <= 1, name
    if variant == "released":
        assert maps["cube"].shape[-2:] == (9, 9)


def test_training_keeps_values_beyond_white(batch):
    network = build().train()
    network.reconstructor.final_conv.weight.zero_()
    network.reconstructor.final_conv.bias.fill_(1.5)
    fused = network(batch)
    torch.testing.assert_close(luma(fused.image), torch.full((2, 1, 18, 21), 1.5))
    assert not fused.maps


def test_beyond_the_size_of_the_release_auto_attends_in_windows_and_says_so(batch, monkeypatch):
    state = build().state_dict()
    results = {}
    for kind in ("full", "windowed", "auto"):
        network = build(attention=kind)
        network.load_state_dict(state)
        results[kind] = network
    found = {kind: raw(network, batch) for kind, network in results.items()}
    assert torch.equal(found["auto"], found["full"])
    monkeypatch.setattr(attention, "MOST", 100)
    with pytest.warns(UserWarning, match="18x21 is more than the 256x256"):
        assert torch.equal(raw(results["auto"], batch), found["windowed"])
    assert not torch.equal(found["full"], found["windowed"])


def test_other_schemes_take_the_place_of_its_own(batch):
    registry = Registry.from_environment()

    def film(channels, **options):
        return registry.create("modulation", "film", channels=channels, text_dim=12)

    network = build(modulation=film)
    assert not hasattr(network, "tgce") and not hasattr(network, "text_proj")
    one, two = (raw(network, batch.replace(text=batch.text[rows])) for rows in ([0, 1], [1, 0]))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("variant", ["released", "described"])
def test_the_scheme_alone_starts_as_plain_addition(batch, variant):
    scheme = Registry.from_environment().create(
        "modulation", "mtg", channels=8, text_dim=12, variant=variant
    )
    maps = torch.randn(2, 8, 10, 11), torch.randn(2, 8, 10, 11)
    torch.testing.assert_close(scheme(*maps, batch.text, {}), sum(maps))
    with pytest.raises(ValueError, match="encode prompts first"):
        scheme(*maps, None, {})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_it_gives_the_picture_of_the_cpu(batch):
    network = build()
    expected = raw(network, batch)
    network, there = network.cuda(), batch.to("cuda")
    torch.testing.assert_close(raw(network, there).cpu(), expected, rtol=1e-3, atol=1e-3)
    with torch.autocast("cuda", torch.bfloat16):
        half = raw(network, there)
    assert half.isfinite().all() and half.shape == expected.shape
