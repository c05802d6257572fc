"""MMAIF's parts on properties that hold exactly, its variants, and its training."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from fusionkit_mmaif import datasets, flow, prompts
from fusionkit_mmaif.degradations import DEGRADATIONS, ORDER, VISIBLE_INFRARED, stage, transmission
from fusionkit_mmaif.encoder import FlanT5
from fusionkit_mmaif.experts import MoeGlu, glu
from fusionkit_mmaif.losses import Sources
from fusionkit_mmaif.network import LatentFusionDiT, mean, sinusoid
from fusionkit_mmaif.rope import rotate, rotation
from fusionkit_mmaif.targets import brighter, target_provider
from fusionkit_mmaif.task import DegradedFusion
from fusionkit_mmaif.tokenizers import (
    WEIGHTS,
    ConvAutoencoder,
    Cosmos,
    Small,
    SpaceToDepth,
    build_tokenizer,
    measures,
)
from fusionkit_mmaif.transformer import Attention, Layer, LoraAdaLN, NafMixer

from fusionkit.batch import Fused, TextFeatures
from fusionkit.color import luma
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.evaluation import evaluate
from fusionkit.methods import Method
from fusionkit.registry import Registry
from fusionkit.testing import DatasetContract, EncoderContract
from fusionkit.testing.contract import awake
from fusionkit.testing.inputs import TEXT_DIM, first, tiny_batch, tiny_pairs, tiny_text
from fusionkit.training import train


@pytest.fixture(scope="module")
def registry():
    return Registry.from_environment()


def network(**options):
    torch.manual_seed(0)
    return LatentFusionDiT(text_dim=TEXT_DIM, **options)


def moved(module):
    """Off the start, where gates are closed and every layer adds nothing."""
    return awake(module).eval()


# ----------------------------------------------------------------------------------- positions


def dots(head_dim, places, shift, scale=1.0):
    """Products of one turned query and key at given places, both moved by a shift."""
    generator = torch.Generator().manual_seed(3)
    query, key = torch.randn(2, head_dim, generator=generator, dtype=torch.float64)
    cos, sin = (t.double() for t in rotation((12, 12), head_dim, scale))

    def at(x, place):
        row = (place[0] + shift[0]) * 12 + place[1] + shift[1]
        return rotate(x[None], (cos[row : row + 1], sin[row : row + 1]))[0]

    return torch.stack([at(query, a) @ at(key, b) for a, b in places])


PLACES = [((0, 0), (0, 0)), ((0, 0), (2, 5)), ((4, 1), (1, 4)), ((3, 3), (3, 6))]


@pytest.mark.parametrize("shift", [(1, 0), (0, 3), (5, 2)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_products_of_turned_vectors_depend_on_the_distance_alone(shift, scale):
    torch.testing.assert_close(
        dots(16, PLACES, (0, 0), scale), dots(16, PLACES, shift, scale), rtol=0, atol=1e-5
    )


def test_rows_and_columns_turn_apart():
    down, right = ((0, 0), (3, 0)), ((0, 0), (0, 3))
    a, b = dots(16, [down, right], (0, 0))
    assert abs(a - b) > 1e-3


def test_turning_keeps_lengths_and_the_first_place_does_not_turn():
    x = torch.randn(2, 3, 20, 8, generator=torch.Generator().manual_seed(0))
    y = rotate(x, rotation((4, 5), 8))
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(y[:, :, 0], x[:, :, 0])


def test_a_pair_turns_by_its_angle():
    cos, sin = rotation((3, 4), 8)  # rates 1 and 10,000 ** (-1 / 2)
    place = 2 * 4 + 3
    expected = torch.tensor([[2.0, 0.02], [3.0, 0.03]])
    torch.testing.assert_close(cos[place], expected.cos())
    torch.testing.assert_close(sin[place], expected.sin())
    x = torch.zeros(12, 8)
    x[:, 4] = 1  # first of the column's pair 0, whose partner is number 6
    y = rotate(x, (cos, sin))[place]
    assert y[4].item() == pytest.approx(math.cos(3)) and y[6].item() == pytest.approx(math.sin(3))
    assert y[[0, 1, 2, 3, 5, 7]].abs().max() == 0


# ----------------------------------------------------------------------------------- attention


@pytest.mark.parametrize("first_layer", [True, False])
def test_attention_is_the_plain_formula(first_layer):
    torch.manual_seed(1)
    heads, grid, words, dim = 2, (3, 4), 3, 16
    attention = moved(Attention(dim, heads, first_layer)).double()
    tokens = torch.randn(2, words + 12, dim, dtype=torch.float64)
    before = torch.randn(2, heads, words + 12, dim // heads, dtype=torch.float64)
    mask = torch.ones(2, 1, 1, words + 12, dtype=torch.bool)
    mask[1, ..., 2] = False
    turn = rotation(grid, dim // heads)
    found, values = attention(tokens, turn, None if first_layer else before, mask)

    weight, bias = attention.query_key_value.weight, attention.query_key_value.bias
    expected = torch.zeros_like(tokens)
    for b in range(2):
        q, k, v = (tokens[b] @ weight.T + bias).split(dim, -1)
        for h in range(heads):
            part = slice(h * 8, (h + 1) * 8)
            value = v[:, part]
            if not first_layer:
                eta = torch.sigmoid(attention.share)
                value = (1 - eta) * value + eta * before[b, h]
            torch.testing.assert_close(values[b, h], value)
            sides = []
            for x, norm in ((q, attention.query_norm), (k, attention.key_norm)):
                x = x[:, part]
                x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
                sides.append(torch.cat([x[:words], rotate(x[words:], turn)]))
            scores = sides[0] @ sides[1].T / math.sqrt(8)
            scores[:, ~mask[b, 0, 0]] = -torch.inf
            expected[b, :, part] = scores.softmax(-1) @ value
    torch.testing.assert_close(found, attention.out(expected))


def test_half_of_the_values_come_from_the_layer_before_at_the_start():
    attention = Attention(16, 2, first=False)
    tokens, before = torch.randn(1, 4, 16), torch.randn(1, 2, 4, 8)
    _, values = attention(tokens, rotation((2, 2), 8), before)
    own = attention.query_key_value(tokens)[..., 32:].unflatten(2, (2, 8)).transpose(1, 2)
    torch.testing.assert_close(values, (own + before) / 2)


def test_a_naf_block_starts_as_the_identity_and_sees_its_neighbours():
    mixer, x = NafMixer(8), torch.randn(1, 8, 6, 6)
    assert torch.equal(mixer(x), x)
    mixer, other = moved(NafMixer(8)), x.clone()
    mixer.channels.weight.data.zero_()  # leaves out the mean over all places
    other[0, 0, 3, 3] += 1  # one channel: the normalisation undoes a shift of all
    change = (mixer(other) - mixer(x)).abs().amax((0, 1)) > 1e-7
    assert change[2:5, 2:5].all() and not change[0].any() and not change[:, 0].any()


def test_the_condition_starts_with_closed_gates():
    for vector in LoraAdaLN(8, rank=2)(torch.randn(3, 8)):
        assert vector.shape == (3, 1, 8) and vector.abs().max() == 0


def test_a_layer_starts_as_the_identity():
    layer = Layer(16, 2, hidden=8, experts=3, top_k=2, capacity=None, rank=4, first=True)
    tokens = torch.randn(2, 6, 16)
    found, words, _, _ = layer(
        tokens,
        torch.randn(2, 3, 16),
        (2, 3),
        condition=torch.randn(2, 16),
        turn=rotation((2, 3), 8),
        values_before=None,
        mask=None,
    )
    torch.testing.assert_close(found, tokens)
    assert words.shape == (2, 3, 16)


# ------------------------------------------------------------------------------------- experts


@pytest.fixture
def experts():
    torch.manual_seed(0)
    return MoeGlu(8, 12, experts=4, top_k=2), torch.randn(3, 10, 8)


def test_router_shares_sum_to_one_and_ask_two_experts(experts):
    layer, tokens = experts
    routing, chosen = layer.route(tokens)
    ones = torch.ones(3, 10)
    torch.testing.assert_close(routing.probabilities.sum(-1), ones)
    torch.testing.assert_close(routing.weights.sum(-1), ones)
    assert ((routing.weights > 0).sum(-1) == 2).all()
    assert routing.load.sum().item() == pytest.approx(1)
    kept = routing.probabilities.topk(2, -1)
    assert torch.equal(chosen, kept.indices)


def test_the_sorted_experts_are_the_plain_sum(experts):
    layer, tokens = experts
    found, routing = layer(tokens)
    expected = layer.shared(tokens) + sum(
        routing.weights[..., e, None] * glu(tokens, layer.gate_up[e], layer.down[e])
        for e in range(4)
    )
    torch.testing.assert_close(found, expected)


def test_a_unit_is_its_formula():
    layer, x = MoeGlu(4, 6, experts=1, top_k=1).shared, torch.randn(5, 4)
    gate, up = layer.gate_up.weight.split(6)
    inner = (x @ gate.T) * torch.sigmoid(x @ gate.T) * (x @ up.T)
    torch.testing.assert_close(layer(x), inner @ layer.down.weight.T)


@pytest.mark.parametrize("capacity", [0.5, 1.0])
def test_a_full_expert_turns_the_least_certain_tokens_away(experts, capacity):
    layer, tokens = experts
    free, _ = layer.route(tokens)
    layer.capacity = capacity
    routing, chosen = layer.route(tokens)
    room = math.ceil(capacity * 2 * 10 / 4)
    served = routing.weights > 0
    assert (served.sum(1) <= room).all()
    assert (served.sum(1) == (free.weights > 0).sum(1).clamp(max=room)).all()
    for b in range(3):
        for e in range(4):
            left = free.weights[b, ~served[b, :, e], e]
            if served[b, :, e].any() and len(left):
                assert free.weights[b, served[b, :, e], e].min() >= left.max()
    found, _ = layer(tokens)
    expected = layer.shared(tokens) + sum(
        routing.weights[..., e, None] * glu(tokens, layer.gate_up[e], layer.down[e])
        for e in range(4)
    )
    torch.testing.assert_close(found, expected)
    assert (chosen == 4).any()


def test_the_balance_is_one_when_even_and_the_number_of_experts_when_not(experts):
    from fusionkit_mmaif.experts import Routing

    even = torch.eye(4).repeat(1, 3, 1)
    assert Routing(even, even).balance.item() == pytest.approx(1)
    one = torch.zeros(1, 12, 4)
    one[..., 2] = 1
    assert Routing(one, one).balance.item() == pytest.approx(4)
    layer, tokens = experts
    layer.route(tokens)[0].balance.backward()
    assert layer.router.weight.grad.abs().sum() > 0


# ---------------------------------------------------------------------------------------- flow


def test_the_way_is_straight_and_its_velocity_constant():
    start, end = torch.randn(2, 3, 4, 5, 5)
    times = torch.tensor([0.0, 0.25, 1.0])
    point, velocity = flow.interpolant(start, end, times)
    torch.testing.assert_close(point[0], start[0])
    torch.testing.assert_close(point[1], 0.75 * start[1] + 0.25 * end[1])
    torch.testing.assert_close(point[2], end[2])
    torch.testing.assert_close(velocity, end - start)


@pytest.mark.parametrize("method", flow.CALLS)
def test_the_samplers_arrive_in_the_steps_they_state(method):
    start, end, seen = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2), []

    def velocity(z, t):
        seen.append(t[0].item())
        return end - start

    torch.testing.assert_close(flow.integrate(velocity, start, 5, method), end)
    assert len(seen) == 5 * flow.CALLS[method]
    assert min(seen) == 0 and max(seen) <= 1


def test_heun_is_of_second_order():
    def error(steps, method):
        found = flow.integrate(lambda z, t: z, torch.ones(1, 1, 1, 1).double(), steps, method)
        return abs(found.item() - math.e)

    assert error(10, "euler") / error(20, "euler") == pytest.approx(2, rel=0.1)
    assert error(10, "heun") / error(20, "heun") == pytest.approx(4, rel=0.1)


def test_times_of_training_lie_inside():
    for kind in ("logit-normal", "uniform"):
        torch.manual_seed(0)
        times = flow.draw_times(4000, kind, torch.device("cpu"))
        assert times.min() > 0 and times.max() < 1
        assert times.mean().item() == pytest.approx(0.5, abs=0.02)
    middle = ((times > 0.25) & (times < 0.75)).float().mean()
    torch.manual_seed(0)
    normal = flow.draw_times(4000, "logit-normal", torch.device("cpu"))
    assert ((normal > 0.25) & (normal < 0.75)).float().mean() > middle + 0.1


def test_times_are_told_apart():
    codes = sinusoid(1000 * torch.tensor([0.0, 0.001, 1.0]), torch.float32)
    assert codes.shape == (3, 256)
    assert (codes[0] - codes[1]).abs().max() > 0.5


def test_the_flow_objective_is_the_distance_of_velocities():
    net, batch = moved(network(variant="flow", tokenizer="space-to-depth")), tiny_batch(2, (16, 32))
    torch.manual_seed(7)
    found = net.objective(batch)
    torch.manual_seed(7)
    times = flow.draw_times(2, "logit-normal", torch.device("cpu"))
    target = SpaceToDepth().encode(2 * batch.targets["fused"] - 1)
    noise = torch.randn_like(target)
    latents = net.encode(batch)
    t = times[:, None, None, None]
    point = (1 - t) * noise + t * target
    v, _ = net.transformer((point, *latents), batch.text, {}, times)
    torch.testing.assert_close(found.terms["latent"], (v - (target - noise)).square().mean())
    torch.testing.assert_close(found.image, net.decode(point + (1 - t) * v))


# --------------------------------------------------------------------------------- the network


def test_an_untrained_regression_is_the_mean_of_both_pictures():
    batch = tiny_batch(2, (32, 48))
    image = network(tokenizer="space-to-depth").eval()(batch).image
    torch.testing.assert_close(image, (batch.visible + batch.infrared) / 2)


def test_an_untrained_regression_decodes_the_mean_latent():
    net, batch = network().eval(), tiny_batch(2, (32, 48))
    assert torch.equal(net(batch).image, net.decode(mean(net.encode(batch))))


def test_an_untrained_flow_stays_where_it_starts():
    net = network(
        variant="flow", source="mean", sampling_steps=2, tokenizer="space-to-depth"
    ).eval()
    batch = tiny_batch(2, (32, 32))
    apart = net(batch).image - (batch.visible + batch.infrared) / 2
    assert apart.std().item() == pytest.approx(0.05, rel=0.1)  # a tenth of the noise, halved


@pytest.mark.parametrize("size", [(64, 64), (72, 104), (33, 47)])
@pytest.mark.parametrize("variant", ["regression", "flow"])
def test_any_size_comes_back_as_it_was(registry, size, variant):
    recipe = registry.create("recipe", "mmaif-small").with_overrides(
        {"network.options": {"variant": variant, "sampling_steps": 2}}
    )
    method = Method(recipe, registry, encoder=_Given())
    batch = tiny_batch(1, size)
    image = method.fuse(batch.infrared, batch.visible, "fuse the two images")
    assert image.shape == (1, 3, *size) and image.min() >= 0 and image.max() <= 1


class _Given(torch.nn.Module):
    text_dim = TEXT_DIM

    def encode_text(self, words):
        seeds = [sum(map(ord, word)) for word in words]
        return TextFeatures.cat([tiny_text(1, seed=seed) for seed in seeds])


@pytest.mark.parametrize("text_mode", ["adaln", "tokens", "both"])
def test_exchanged_prompts_exchange_the_pictures(text_mode):
    net, batch = moved(network(text_mode=text_mode)), tiny_batch(2, (32, 32))
    one = first(batch)
    twice = batch.replace(
        visible=one.visible.expand(2, -1, -1, -1), infrared=one.infrared.expand(2, -1, -1, -1)
    )
    a, b = net(twice).image
    c, d = net(twice.replace(text=batch.text[[1, 0]])).image
    torch.testing.assert_close(torch.stack([a, b]), torch.stack([d, c]), rtol=1e-4, atol=1e-5)
    assert (a - b).abs().max() > 1e-3


def test_padding_of_a_prompt_says_nothing():
    net, batch = moved(network(text_mode="tokens")), tiny_batch(2, (16, 32))
    text = batch.text
    loud = torch.where(text.mask[..., None], text.tokens, 50.0)
    other = batch.replace(text=TextFeatures(text.pooled, loud, text.mask))
    torch.testing.assert_close(net(batch).image, net(other).image)


def test_another_scheme_is_the_only_way_for_its_text(registry):
    def build(name):
        def make(channels, **options):
            return registry.create("modulation", name, channels=channels, text_dim=TEXT_DIM)

        return make

    batch = tiny_batch(2, (32, 32))
    other = batch.replace(text=tiny_text(2, seed=9))
    plain, film = (moved(network(modulation=build(name))) for name in ("none", "film"))
    assert torch.equal(plain(batch).image, plain(other).image)
    assert not torch.allclose(film(batch).image, film(other).image)
    assert plain.modulation_points == ("layers.0", "layers.1")


def test_the_same_noise_starts_every_picture_and_another_seed_another():
    batch = tiny_batch(1, (32, 32))
    pictures = [
        moved(network(variant="flow", sampling_steps=2, sampling_seed=seed))(batch).image
        for seed in (0, 0, 1)
    ]
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])


def test_more_steps_come_closer_to_the_way():
    batch = tiny_batch(1, (32, 32))

    def latent(steps, sampler="euler"):
        net = network(
            variant="flow", sampling_steps=steps, sampler=sampler, tokenizer="space-to-depth"
        )
        return moved(net).train()(batch).image  # not clipped

    exact = latent(24, "heun")
    few, many = ((latent(steps) - exact).abs().mean() for steps in (2, 12))
    assert many < few / 3


def test_a_larger_picture_than_any_before_is_fused_with_squeezed_positions_too():
    net, batch = moved(network(patch=1)), tiny_batch(1, (192, 160))
    image = net(batch).image
    assert image.shape == batch.visible.shape and image.isfinite().all()
    net.transformer.rope_scale = 0.5
    assert not torch.allclose(image, net(batch).image)


def test_what_the_routers_decided_leaves_with_the_picture():
    net, batch = moved(network(experts=3)), tiny_batch(2, (32, 64))
    fused = net(batch)
    assert fused.maps["experts"].shape == (2, 3, 2, 4)
    torch.testing.assert_close(fused.maps["experts"].sum(1), torch.ones(2, 2, 4))
    terms = fused.terms
    assert 0 <= terms["load_least"] <= 1 / 3 <= terms["load_most"] <= 1
    assert not terms["load_most"].requires_grad and terms["balance"].requires_grad


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variant": "diffusion"}, "variant is one of regression, flow"),
        ({"dim": 72, "heads": 4}, "72 does not give 4 heads"),
        ({"tokenizer": "smal"}, "small"),
        ({"sampling_steps": 0, "variant": "flow"}, "at least 1"),
        ({"tokenizer_options": {"depth": 3}}, "does not take"),
    ],
)
def test_a_wrong_option_is_answered_in_words(options, said):
    with pytest.raises(BadRequest, match=said):
        network(**options)


def test_without_text_it_says_so():
    with pytest.raises(ValueError, match="encode prompts"):
        network()(tiny_batch(1, (16, 16)).replace(text=None))
    with pytest.raises(BadRequest, match="encoder"):
        LatentFusionDiT(text_dim=None)


# ------------------------------------------------------------------------------------ training


def test_one_scene_is_learnt_by_heart():
    batch = tiny_batch(1, (48, 48), seed=4)
    for variant in ("regression", "flow"):
        net = network(variant=variant, source="mean", tokenizer="space-to-depth", dim=64).train()
        learning = [p for p in net.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=3e-3)
        found = []
        for step in range(30):
            torch.manual_seed(step)
            loss = net.objective(batch, picture=False).terms["latent"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        assert sum(found[-3:]) / 3 < found[0] / 2, variant


def test_a_recipe_trains_its_transformer_and_leaves_the_tokenizer(registry, tmp_path):
    recipe = registry.create("recipe", "mmaif-small").with_overrides(
        {
            "network.options.dim": 32,
            "network.options.depth": 1,
            "steps": 2,
            "batch_size": 2,
            "crop": 32,
        }
    )
    file = tmp_path / "weights.pt"
    run = train(
        recipe, tiny_pairs(2, 48), registry=registry, encoder=_Given(), device="cpu",
        precision="float32", checkpoint=file,
    )  # fmt: skip
    assert {"latent", "aux", "balance", "load_most", "load_least"} <= set(run.history[2])
    kept = torch.load(file, weights_only=True)["network"]
    before = LatentFusionDiT(text_dim=TEXT_DIM).tokenizer.state_dict()
    for name, values in before.items():
        assert torch.equal(kept[f"tokenizer.{name}"], values), name


def test_the_flow_recipes_differ_in_the_variant():
    from fusionkit_mmaif import recipe

    a, b = recipe.mmaif().model_dump(), recipe.mmaif_flow().model_dump()
    assert a["network"]["options"].pop("variant") == "regression"
    assert b["network"]["options"].pop("variant") == "flow"
    assert (a.pop("name"), b.pop("name")) == ("mmaif", "mmaif-flow")
    assert a == b
    assert recipe.mmaif_small_flow().network.options["variant"] == "flow"


def test_the_full_size_counts_what_the_readme_says(registry):
    options = registry.create("recipe", "mmaif").network.options
    small = options | {"tokenizer": "space-to-depth"}
    small.pop("offline_tokenizer")
    net = LatentFusionDiT(text_dim=768, **small)
    count = sum(p.numel() for p in net.transformer.parameters())
    assert 45e6 < count < 60e6


# ------------------------------------------------------------------------------------ the rest


def test_the_auxiliary_loss_is_its_formula():
    batch = tiny_batch(1, (16, 24))
    image = batch.visible.flip(-1)
    total = 0.0
    for source in (batch.targets["visible"], batch.targets["infrared"].expand(-1, 3, -1, -1)):
        total += (image - source).abs().mean()
        for move in (lambda x: x[..., 1:] - x[..., :-1], lambda x: x[..., 1:, :] - x[..., :-1, :]):
            total += (move(image) - move(source)).abs().mean()
    torch.testing.assert_close(Sources()(batch, Fused(image))["aux"], total)


def test_the_rule_takes_the_brighter_luma_and_keeps_colour():
    pair = tiny_pairs(1)[0]
    fused, visible = brighter(pair)[None], pair.visible[None]
    brightest = torch.maximum(luma(visible), pair.infrared[None])
    free = ((fused > 0) & (fused < 1)).all(1, keepdim=True)  # elsewhere colour was clipped
    assert free.float().mean() > 0.5
    torch.testing.assert_close(luma(fused)[free], brightest[free])
    torch.testing.assert_close(
        (fused[:, :1] - fused[:, 1:2])[free], (visible[:, :1] - visible[:, 1:2])[free]
    )


def test_a_trained_method_gives_the_targets(registry, tmp_path):
    recipe = registry.create("recipe", "control")
    made = Method(recipe, registry)
    made.bank.add(["fuse", "highlight the person"])
    made.bank.fit()
    file = made.save(tmp_path / "control.pt")
    pair = tiny_pairs(1)[0]
    provide = target_provider("control", file, registry)
    expected = made.fuse(pair.infrared[None], pair.visible[None])[0]
    torch.testing.assert_close(provide(pair), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(BadRequest, match="belongs to a recipe"):
        target_provider("rule", file)


def task(registry, **options):
    return DegradedFusion(pairs=tiny_pairs(3, 48), registry=registry, **{"crop": 32} | options)


def test_samples_repeat_and_bring_clean_pictures_and_their_fusion(registry):
    samples = task(registry)
    a, b = (samples.sample(6, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a.visible, b.visible) and a.prompts == b.prompts and a.labels == b.labels
    assert a.visible.shape == a.targets["fused"].shape == (6, 3, 32, 32)
    assert set(a.prompts) <= set(samples.prompts) and "" in samples.prompts
    for row, damage in enumerate(a.labels["degradations"]):
        same = torch.equal(a.visible[row], a.targets["visible"][row]) and torch.equal(
            a.infrared[row], a.targets["infrared"][row]
        )
        assert same == (not damage)


def test_the_fused_target_is_that_of_the_clean_pair(registry):
    whole = task(registry, crop=None, flips=False)
    batch = whole.sample(2, torch.Generator().manual_seed(1))
    for row, name in enumerate(batch.names):
        pair = next(p for p in whole.pairs if p.name == name)
        assert (batch.targets["fused"][row] - brighter(pair)).abs().max() <= 0.5 / 255 + 1e-6


def test_composites_follow_physics_and_say_every_degradation(registry):
    samples = task(registry, variety=200)
    sizes = set()
    for names, prompt in samples.composites:
        sizes.add(len(names))
        assert list(names) == sorted(names, key=stage)
        for name in names:
            clauses = [p[1:] for p in samples.damages[name].prompts]  # a sentence begins large
            assert any(clause in prompt for clause in clauses)
        sides = [(stage(n), samples.damages[n].modality) for n in names]
        assert len(set(sides)) == len(sides)
    assert sizes == {1, 2, 3}


def test_degradations_of_other_plugins_can_be_drawn(registry):
    samples = task(registry, degradations=("low-light", "ir-stripes"), clean_share=0.0)
    batch = samples.sample(4, torch.Generator().manual_seed(0))
    assert {name for row in batch.labels["degradations"] for name, _ in row} <= set(samples.damages)
    assert len(samples.prompts) > 10


def test_a_window_is_one_of_the_ratios(registry):
    samples = task(registry, ratios=(0.5,), flips=False, clean_share=1.0, crop=24)
    batch = samples.sample(4, torch.Generator().manual_seed(0))
    for row, name in enumerate(batch.names):
        pair = next(p for p in samples.pairs if p.name == name)
        windows = pair.visible.unfold(1, 24, 1).unfold(2, 24, 1)  # half of 48
        apart = (windows - batch.visible[row][:, None, None]).abs().amax((0, 3, 4))
        assert apart.min() == 0


def test_every_degradation_has_ten_requests_or_more():
    assert len(prompts.PROMPTS) >= 13
    for name, said in prompts.PROMPTS.items():
        assert len(set(said)) >= 10, name
    for name in DEGRADATIONS:
        assert prompts.clauses(name)
    assert set(VISIBLE_INFRARED) <= set(DEGRADATIONS)
    assert {f"mmaif-{n}" for row in ORDER for n in row} == set(DEGRADATIONS)
    assert prompts.sentence(["A b.", "c", "D"]) == "A b, c and d"
    assert prompts.sentence(["fuse"]) == "Fuse"


@pytest.mark.parametrize(
    "name", ["gaussian-noise", "ir-noise", "gaussian-blur", "jpeg", "haze", "downsample"]
)
def test_more_severity_leaves_less_of_the_picture(name):
    damage = DEGRADATIONS[f"mmaif-{name}"]()
    picture = getattr(tiny_batch(1, (64, 64)), damage.modality)
    depth = tiny_pairs(1, 64)[0].depth[None]
    found = []
    for severity in (0.25, 0.5, 0.75, 1.0):
        damaged = damage(picture, severity, torch.Generator().manual_seed(0), depth=depth)
        found.append((damaged - picture).square().mean())
    assert found == sorted(found) and found[0] > 0


def test_some_light_always_comes_through_haze():
    picture = tiny_batch(1, (40, 60)).visible
    for depth in (None, tiny_pairs(1, (40, 60))[0].depth[None]):
        t = transmission(picture, 2.5, depth)
        assert t.shape == (1, 1, 40, 60) and t.min() > 0 and t.max() <= 1
        assert t[..., -1, :].mean() > t[..., 0, :].mean()  # far is up


class TestDataset(DatasetContract):
    """The layout on disk, as :func:`datasets.write` makes it."""

    @pytest.fixture(autouse=True)
    def _written(self, registry, tmp_path_factory):
        self.root = tmp_path_factory.mktemp("mmaif")
        self.batch = task(registry, empty_share=0.0, clean_share=0.0).sample(
            3, torch.Generator().manual_seed(2)
        )
        assert datasets.write([self.batch], self.root) == 3

    def build(self, **options):
        return datasets.Degraded(self.root, **options)

    @pytest.fixture
    def pairs(self):
        return self.build(count=self.count)

    def test_brings_back_target_prompt_and_degradations(self, pairs, registry):
        for row in range(3):
            pair = pairs[row]
            assert (pair.fused - self.batch.targets["fused"][row]).abs().max() < 0.51 / 255
            assert pair.prompt == self.batch.prompts[row]
            damage = self.batch.labels["degradations"][row]
            assert [name for name, _ in pair.degradations] == [name for name, _ in damage]
        again = DegradedFusion(
            pairs=pairs, registry=registry, crop=None, flips=False, empty_share=0.0
        )
        batch = again.sample(2, torch.Generator().manual_seed(0))
        by_name = {pairs[i].name: pairs[i] for i in range(3)}
        for row, name in enumerate(batch.names):  # damaged already, so taken as it is
            assert torch.equal(batch.visible[row], by_name[name].visible)
            assert torch.equal(batch.targets["fused"][row], by_name[name].fused)
            assert batch.prompts[row] == by_name[name].prompt

    def test_a_broken_description_is_named(self, pairs):
        file = next((self.root / "train" / "meta").iterdir())
        file.write_text(json.dumps({"degradations": [{"nam": 1}]}))
        with pytest.raises(BadRequest, match=file.name):
            [pairs[i] for i in range(3)]


# ---------------------------------------------------------------------------------- tokenizers


def test_space_to_depth_loses_nothing():
    image = torch.rand(2, 3, 24, 32)
    tokenizer = SpaceToDepth()
    assert tokenizer.encode(image).shape == (2, 192, 3, 4)
    assert torch.equal(tokenizer.decode(tokenizer.encode(image)), image)


@pytest.mark.parametrize(
    "options", [{"widths": (8, 16, 16, 24)}, {"fold": 4, "widths": (8, 16), "linear": True}]
)
def test_an_autoencoder_of_any_size_reduces_by_eight(options):
    tokenizer = ConvAutoencoder(**options)
    latent = tokenizer.encode(torch.rand(1, 3, 40, 24))
    assert latent.shape == (1, 16, 5, 3)
    assert tokenizer.decode(latent).shape == (1, 3, 40, 24)
    with pytest.raises(BadRequest, match="reduce by 2"):
        ConvAutoencoder(fold=1, widths=(8, 8))


def test_the_large_autoencoder_has_a_gradient_everywhere():
    tokenizer = ConvAutoencoder(widths=(8, 8, 8, 8))
    tokenizer.decode(tokenizer.encode(torch.rand(1, 3, 16, 16))).square().mean().backward()
    assert all(p.grad is not None for p in tokenizer.parameters())


def test_the_small_autoencoder_is_as_good_as_its_measures(registry):
    assert WEIGHTS.stat().st_size < 1.5e6
    kept = measures()["psnr"]["held-out scenes"]
    tokenizer = build_tokenizer("small")
    assert isinstance(tokenizer, Small) and not any(p.requires_grad for p in tokenizer.parameters())
    pairs = [*registry.create("dataset", "scenes", split="test", count=8)]
    for side in ("visible", "infrared"):
        pictures = torch.stack([getattr(p, side).expand(3, -1, -1) for p in pairs])
        with torch.no_grad():
            latent = tokenizer.encode(2 * pictures - 1)
            back = ((tokenizer.decode(latent) + 1) / 2).clamp(0, 1)
        apart = (back - pictures).square().mean((1, 2, 3))
        assert (-10 * torch.log10(apart)).mean().item() == pytest.approx(kept[side], abs=1.0)
        assert latent.std().item() == pytest.approx(1, abs=0.4)


@pytest.fixture(scope="module")
def cosmos(tmp_path_factory):
    """A tokenizer of Cosmos' form with random weights, as a folder of diffusers."""
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("cosmos")
    torch.manual_seed(0)
    diffusers.AutoencoderKLCosmos(
        latent_channels=4,
        encoder_block_out_channels=(4, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=1,
        latents_mean=[0.5] * 4,
        latents_std=[2.0] * 4,
    ).save_pretrained(folder / "vae")
    return folder


def test_cosmos_is_read_from_a_folder_of_diffusers(cosmos):
    tokenizer = build_tokenizer("cosmos", {"model": str(cosmos)})
    image = torch.rand(2, 3, 64, 48) * 2 - 1
    with torch.no_grad():
        latent = tokenizer.encode(image)
        assert latent.shape == (2, 4, 8, 6) and tokenizer.latent_channels == 4
        raw = tokenizer.inner.encode(image[:, :, None]).latent_dist.mode()[:, :, 0]
        torch.testing.assert_close(latent, (raw - 0.5) / 2)
        expected = tokenizer.inner.decode(raw[:, :, None]).sample[:, :, 0]
        torch.testing.assert_close(tokenizer.decode(latent), expected, rtol=1e-4, atol=1e-5)
    same = build_tokenizer("cosmos", {"model": str(cosmos / "vae")})
    assert torch.equal(same.encode(image), latent)


def test_the_network_fuses_through_cosmos(cosmos):
    net = network(tokenizer="cosmos", tokenizer_options={"model": str(cosmos)}).eval()
    image = net(tiny_batch(1, (64, 48))).image
    assert image.shape == (1, 3, 64, 48) and image.isfinite().all()


def test_cosmos_is_read_from_torchscript_files(tmp_path):
    class Encode(torch.nn.Module):
        def forward(self, x):
            return (torch.nn.functional.avg_pool2d(x, 8),)

    class Decode(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.interpolate(x, scale_factor=8.0)

    for name, module in (("encoder", Encode()), ("decoder", Decode())):
        torch.jit.script(module).save(str(tmp_path / f"{name}.jit"))
    tokenizer = Cosmos(model=str(tmp_path), mean=0.25, deviation=0.5)
    image = torch.rand(1, 3, 16, 24)
    pooled = torch.nn.functional.avg_pool2d(image, 8)
    torch.testing.assert_close(tokenizer.encode(image), (pooled - 0.25) / 0.5)
    torch.testing.assert_close(
        tokenizer.decode(tokenizer.encode(image)),
        pooled.repeat_interleave(8, 2).repeat_interleave(8, 3),
    )


def test_without_cosmos_the_small_one_stands_in_loudly(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    missing = {"model": "nobody/has-this-tokenizer"}
    with pytest.raises(MissingWeights, match="nobody/has-this-tokenizer"):
        build_tokenizer("cosmos", missing)
    with pytest.warns(UserWarning, match="not the paper's"):
        net = network(tokenizer="cosmos", tokenizer_options=missing, offline_tokenizer="small")
    assert isinstance(net.tokenizer, Small)


def test_the_autoencoders_script_makes_weights_that_load(tmp_path, monkeypatch, registry):
    import runpy

    script = Path(__file__).parents[1] / "make_autoencoder.py"
    out = tmp_path / "a.safetensors"
    argv = [str(script), "--steps", "2", "--scenes", "8", "--batch-size", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setenv("FUSIONKIT_DATA", str(tmp_path))
    made = runpy.run_path(str(script))
    threads = torch.get_num_threads()
    monkeypatch.setitem(made["main"].__globals__, "measure", lambda *a: {"not": "measured"})
    made["main"]()
    torch.set_num_threads(threads)
    tokenizer = build_tokenizer("small", {"weights": out})
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    assert tokenizer.decode(tokenizer.encode(image)).shape == image.shape
    assert json.loads(out.with_suffix(".json").read_text())["made"]["steps"] == 2


# ----------------------------------------------------------------------------------------- text


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """Flan-T5's form with random weights and a vocabulary of a few words."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("t5")
    words = ["<pad>", "</s>", "<unk>", "fuse", "the", "two", "images", "noise", "rain", "a"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = transformers.T5Config(
        vocab_size=len(words), d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.T5EncoderModel(config).save_pretrained(folder)
    return str(folder)


class TestFlanT5(EncoderContract):
    """The encoder with random weights."""

    @pytest.fixture(autouse=True)
    def _folder(self, t5):
        self.folder = t5

    def build(self):
        return FlanT5(model=self.folder)

    def test_pools_over_real_tokens(self):
        text = self.build().encode_text(["fuse the two images", "rain", ""])
        assert text.pooled.shape == (3, 24) and text.tokens.shape == (3, 5, 24)
        assert text.mask.sum(1).tolist() == [5, 2, 1]
        torch.testing.assert_close(text.pooled[1], text.tokens[1, :2].mean(0))


# ------------------------------------------------------------------------------------------ GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("variant", ["regression", "flow"])
def test_a_gpu_gives_the_same_and_bfloat16_nearly(variant):
    net, batch = moved(network(variant=variant, sampling_steps=2)), tiny_batch(2, (64, 64))
    expected = net(batch).image
    net.cuda()
    torch.testing.assert_close(net(batch.to("cuda")).image.cpu(), expected, rtol=0, atol=5e-3)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        half = net(batch.to("cuda")).image.cpu()
    assert (half - expected).abs().mean() < 0.02


def test_scores_can_be_taken_of_what_it_fuses():
    batch = tiny_batch(1, (64, 64))
    image = network().eval()(batch).image
    assert evaluate(image, batch.infrared, batch.visible, metrics=["EN"])["EN"].isfinite().all()
