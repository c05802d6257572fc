"""The compact network and the common schemes: identity at the start, numbers worked by hand."""

import pytest
import torch
from fusionkit_standard import losses, modulations
from fusionkit_standard.compact import Compact
from fusionkit_standard.norm import GroupNorm

from fusionkit.batch import TextFeatures
from fusionkit.methods import Method, build_network
from fusionkit.registry import Registry
from fusionkit.testing import TEXT_DIM, tiny_batch, tiny_text

SCHEMES = {
    "film": modulations.Film,
    "gate": modulations.Gate,
    "cross-attention": modulations.CrossAttention,
}


def maps(channels=8):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 2, channels, 5, 7, generator=generator).unbind()


@pytest.mark.parametrize("name", SCHEMES)
def test_an_untrained_scheme_is_plain_addition(name):
    visible, infrared = maps()
    scheme = SCHEMES[name](channels=8, text_dim=TEXT_DIM)
    torch.testing.assert_close(scheme(visible, infrared, tiny_text(), {}), visible + infrared)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_without_text_says_what_is_missing(name):
    scheme = SCHEMES[name](channels=8, text_dim=TEXT_DIM)
    with pytest.raises(ValueError, match="encode prompts first"):
        scheme(*maps(), None, {})


def test_film_scales_then_shifts_each_channel():
    """gamma = 1 and beta = 0.25, so a sum of 0.5 must become 2 * 0.5 + 0.25."""
    film = modulations.Film(channels=2, text_dim=4)
    with torch.no_grad():
        film.to_affine[-1].bias.copy_(torch.tensor([1.0, 1.0, 0.25, 0.25]))
    half = torch.full((1, 2, 3, 5), 0.25)
    y = film(half, half, TextFeatures(pooled=torch.zeros(1, 4)), {})
    torch.testing.assert_close(y, torch.full((1, 2, 3, 5), 1.25))


def test_an_open_gate_takes_infrared_alone_at_double_weight():
    gate = modulations.Gate(channels=2, text_dim=4)
    with torch.no_grad():
        gate.from_text.bias.fill_(50.0)
    visible, infrared = torch.zeros(1, 2, 3, 3), torch.full((1, 2, 3, 3), 0.3)
    y = gate(visible, infrared, TextFeatures(pooled=torch.zeros(1, 4)), {})
    torch.testing.assert_close(y, torch.full_like(y, 0.6))


def test_padding_tokens_are_not_attended_to():
    attention = modulations.CrossAttention(channels=8, text_dim=TEXT_DIM)
    torch.nn.init.normal_(attention.out.weight)
    text = tiny_text()
    changed = TextFeatures(
        pooled=text.pooled,
        tokens=torch.where(text.mask[..., None], text.tokens, torch.tensor(99.0)),
        mask=text.mask,
    )
    visible, infrared = maps()
    torch.testing.assert_close(
        attention(visible, infrared, text, {}), attention(visible, infrared, changed, {})
    )


def test_attention_equals_the_formula():
    torch.manual_seed(0)
    attention = modulations.CrossAttention(channels=8, text_dim=TEXT_DIM, heads=2)
    torch.nn.init.normal_(attention.out.weight)
    visible, infrared = maps()
    text = tiny_text()
    x = visible + infrared
    query = attention.query(attention.norm(x)).flatten(2)  # B C N
    keys, values = torch.cat(
        [attention.nothing.expand(2, -1, -1), attention.key_value(text.tokens)], 1
    ).chunk(2, -1)
    mask = torch.cat([torch.ones(2, 1, dtype=torch.bool), text.mask], 1)
    found = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        logits = torch.einsum("bcn,blc->bnl", query[:, part], keys[..., part]) / 2.0
        weights = logits.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
        found.append(torch.einsum("bnl,blc->bcn", weights, values[..., part]))
    expected = x + attention.out(torch.cat(found, 1).view_as(x))
    torch.testing.assert_close(attention(visible, infrared, text, {}), expected)


def test_an_untrained_network_is_the_mean_of_both_pictures():
    batch = tiny_batch()
    fused = Compact(text_dim=TEXT_DIM).eval()(batch)
    torch.testing.assert_close(fused.image, (batch.visible + batch.infrared) / 2)


def test_the_default_has_about_a_million_parameters():
    count = sum(p.numel() for p in Compact(text_dim=128).parameters())
    assert 1.0e6 < count < 1.3e6


@pytest.mark.parametrize("scheme", ["none", "film", "gate", "cross-attention", "textfusion"])
def test_every_scheme_fits_every_point(scheme):
    registry = Registry.from_environment()
    recipe = registry.create("recipe", "control").with_overrides({"modulation": scheme})
    network = build_network(recipe, registry, TEXT_DIM)
    assert set(network.points) == set(Compact.modulation_points)
    batch = tiny_batch()
    network.train()
    network(batch).image.square().mean().backward()
    assert network.out.weight.grad.abs().sum() > 0


def test_any_size_goes_in_and_the_same_size_comes_out():
    registry = Registry.from_environment()
    from fusionkit.testing import TinyEncoder

    recipe = registry.create("recipe", "control")
    method = Method(recipe, registry, encoder=TinyEncoder())
    for height, width in ((8, 8), (17, 23), (64, 33)):
        ir, vi = torch.rand(1, 1, height, width), torch.rand(1, 3, height, width)
        assert method.fuse(ir, vi, "highlight the person").shape == (1, 3, height, width)


# -- losses, by hand ------------------------------------------------------------------------------


@pytest.fixture
def off_by_a_tenth():
    from fusionkit.batch import Fused

    batch = tiny_batch()
    return batch, Fused(image=batch.targets["fused"] + 0.1)


def test_pixel_l1_of_a_constant_error_is_that_error(off_by_a_tenth):
    assert losses.PixelL1()(*off_by_a_tenth)["pixel"].item() == pytest.approx(0.1, abs=1e-6)


def test_a_constant_error_has_no_gradient_error(off_by_a_tenth):
    assert losses.GradientL1()(*off_by_a_tenth)["gradient"].item() == pytest.approx(0, abs=1e-6)


def test_region_l1_looks_inside_the_mask_only():
    from fusionkit.batch import Fused

    batch = tiny_batch()
    mask = batch.targets["mask"]
    inside = Fused(image=batch.targets["fused"] + 0.2 * mask)
    outside = Fused(image=batch.targets["fused"] + 0.2 * (1 - mask))
    assert losses.RegionL1()(batch, inside)["region"].item() == pytest.approx(0.2, abs=1e-6)
    assert losses.RegionL1()(batch, outside)["region"].item() == 0


def test_region_l1_without_any_mask_is_zero_and_differentiable():
    from fusionkit.batch import Fused

    batch = tiny_batch()
    targets = {**batch.targets, "mask": torch.zeros_like(batch.targets["mask"])}
    image = batch.targets["fused"].clone().requires_grad_()
    value = losses.RegionL1()(batch.replace(targets=targets), Fused(image=image))["region"]
    value.backward()
    assert value.item() == 0
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("loss", [losses.PixelL1, losses.GradientL1, losses.RegionL1])
def test_a_task_without_targets_is_told_which_one_is_missing(loss):
    from fusionkit.batch import Fused

    batch = tiny_batch().replace(targets={})
    with pytest.raises(ValueError, match=r"targets\['fused'\]"):
        loss()(batch, Fused(image=batch.visible))


# -- normalisation --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_group_norm_equals_torchs(dtype):
    torch.manual_seed(0)
    x = torch.randn(2, 16, 9, 7, dtype=dtype)
    fast, plain = GroupNorm(4, 16), torch.nn.GroupNorm(4, 16)
    for norm in (fast, plain):
        torch.nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(1))
    last = x.contiguous(memory_format=torch.channels_last)
    tolerance = (
        {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 3e-2, "rtol": 3e-2}
    )
    torch.testing.assert_close(fast(last).float(), plain(x.float()), **tolerance)
    assert fast(last).dtype == dtype
    assert set(fast.state_dict()) == set(plain.state_dict())


def test_fast_group_norm_has_the_right_gradient():
    x = torch.randn(2, 8, 5, 3, dtype=torch.double).contiguous(memory_format=torch.channels_last)
    norm = GroupNorm(4, 8).double()
    torch.nn.init.uniform_(norm.weight)

    def call(x, weight, bias):
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    inputs = (x.requires_grad_(), norm.weight, norm.bias)
    assert torch.autograd.gradcheck(call, inputs)


def test_a_constant_map_is_normalised_to_the_bias_not_to_nan():
    constant = torch.full((1, 8, 4, 4), 3.0).contiguous(memory_format=torch.channels_last)
    assert torch.equal(GroupNorm(4, 8)(constant), torch.zeros(1, 8, 4, 4))


def test_region_l1_also_looks_at_the_thing_that_was_not_named():
    from fusionkit.batch import Fused

    batch = tiny_batch()
    mask = batch.targets["mask"]
    targets = {**batch.targets, "mask": torch.zeros_like(mask), "other": mask}
    fused = Fused(image=batch.targets["fused"] + 0.2 * mask)
    terms = losses.RegionL1()(batch.replace(targets=targets), fused)
    assert terms["region"].item() == 0
    assert terms["contrast"].item() == pytest.approx(0.2, abs=1e-6)
