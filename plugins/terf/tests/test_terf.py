"""TeRF against recorded outputs of the authors' network, losses and effects; then commands."""

import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from fusionkit_terf import denoise, retinex
from fusionkit_terf.effects import PUBLISHED, Effects, learn
from fusionkit_terf.instruction import Edit, RuleParser, parts_of
from fusionkit_terf.losses import FUSION, LEAN, FusionTerms, LeanInfrared, LeanVisible
from fusionkit_terf.network import Terf
from fusionkit_terf.official import official
from fusionkit_terf.recipe import terf, terf_small
from fusionkit_terf.regions import feathered, merge, placed

import fusionkit as fk
from fusionkit.batch import Batch, Fused
from fusionkit.data import write_image
from fusionkit.errors import BadRequest, FusionkitError, MissingWeights
from fusionkit.fusing import fuse_files
from fusionkit.methods import Method
from fusionkit.registry import Registry
from fusionkit.testing import golden, tiny_batch, tiny_pairs
from fusionkit.training import train

COMPACT = Path(__file__).parent / "golden"
FOLDER = golden.folder("terf", COMPACT)
MANIFEST = golden.read(FOLDER / "manifest.json")
LOSSES = golden.read(FOLDER / "losses.json")
CASES = MANIFEST["cases"]
EXAMPLE = (
    "keep the background as in the visible image, make the person on the left hotter and remove "
    "the noise"
)
TINY = {"features": 8, "growth": 4, "blocks": 1, "layers_per_block": 2, "refinements": 1}


@pytest.fixture(scope="module")
def recorded():
    """Outputs of the released code: the full recording where it is, else the compact one."""
    with np.load(FOLDER / "outputs.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored}


@pytest.fixture(scope="module")
def released():
    return fk.load_official("terf", golden.seeded_state(MANIFEST))


@pytest.fixture(scope="module")
def scene():
    """Picture, pair and mask of the recorded effects."""
    return {name: golden.seeded_input(spec) for name, spec in LOSSES["effects_inputs"].items()}


@pytest.fixture(scope="module")
def registry():
    return Registry.from_environment()


def inputs(specs):
    return {name: golden.seeded_input(spec) for name, spec in specs.items()}


def seeded(network, effect):
    network.load_state_dict(golden.seeded_state(MANIFEST["effects"]["tensors"][effect]))
    return network


def close(value, expected, kind):
    torch.testing.assert_close(value, expected, **MANIFEST["tolerances"][kind])


# ---------------------------------------------------------------- the network


def test_the_compact_recording_is_part_of_the_full_one():
    assert len(MANIFEST["tensors"]) == 70
    for name in ("manifest.json", "losses.json"):
        full, compact = golden.read(FOLDER / name), golden.read(COMPACT / name)
        assert all(full[key] == compact[key] for key in compact if key != "remark")


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_output_equals_the_released_network(released, recorded, case):
    fused = released(**inputs(CASES[case]))
    close(fused, recorded[f"{case}/fused"], "fused")
    if f"{case}/uint8_sample0" in recorded:
        bytes_ = (fused[0].clamp(0, 1) * 255).floor().permute(1, 2, 0)
        assert (bytes_ - recorded[f"{case}/uint8_sample0"].float()).abs().max() <= 1


@torch.no_grad()
def test_inner_maps_equal_the_released_ones(released, recorded):
    names = {
        "FEconv": "shallow",
        "RDB1": "dense.0",
        "GFEconv": "gather",
        "refinement.0": "refinement.0",
        "refinement.1": "refinement.1",
        "conv_down": "reconstruct",
    }
    found = {}
    hooks = [
        released.network.get_submodule(ours).register_forward_hook(
            lambda module, given, out, theirs=theirs: found.__setitem__(theirs, out)
        )
        for theirs, ours in names.items()
    ]
    released(**inputs(CASES["square32"]))
    for hook in hooks:
        hook.remove()
    for theirs, value in found.items():
        expected = recorded[f"square32/{theirs}"]
        close(value[:, :: value.shape[1] // expected.shape[1]], expected, "intermediates")


def test_a_modulation_is_refused():
    with pytest.raises(BadRequest, match="no point at which text meets features"):
        Method(terf().with_overrides({"modulation": "film"}), Registry.from_environment())
    with pytest.raises(BadRequest, match="takes no modulation"):
        Terf(modulation=lambda channels: torch.nn.Identity())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("RDB2.conv_1x1.weight"), r"lacks .* dense\.1\.mix\.weight"),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), r"unknown are extra\.weight"),
        (lambda s: s.update({"conv3.bias": torch.zeros(4)}), r"conv3\.bias is \(4,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message):
    state = golden.seeded_state(MANIFEST)
    change(state)
    with pytest.raises(BadRequest, match=message):
        official(state)


@torch.no_grad()
def test_half_precision_stays_within_a_grey_level_on_average(released):
    given = inputs(CASES["square32"])
    exact = released(**given).clamp(0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = released(**given).clamp(0, 1)
    assert (exact - rough).abs().mean() < 1 / 255


@torch.no_grad()
def test_the_folded_reconstruction_is_the_plain_one():
    torch.manual_seed(0)
    part = Terf(**TINY).reconstruct
    x = torch.rand(2, 8, 9, 7)
    shuffled = torch.nn.functional.pixel_shuffle(part.up(x), 2)
    plain = part.inner(part.extend(part.down(shuffled)))
    torch.testing.assert_close(part(x), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
def test_a_gpu_gives_the_same_picture(released):
    given = inputs(CASES["square32"])
    exact = released(**given)
    try:
        released.to("cuda")
        on_gpu = {name: value.cuda() for name, value in given.items()}
        torch.testing.assert_close(released(**on_gpu).cpu(), exact, rtol=1e-2, atol=1e-2)
        with torch.autocast("cuda", torch.bfloat16):
            rough = released(**on_gpu).cpu()
        assert (rough.clamp(0, 1) - exact.clamp(0, 1)).abs().mean() < 1 / 255
    finally:
        released.to("cpu")


# ---------------------------------------------------------------- losses and effects


def test_each_term_and_sum_equals_the_released_one():
    given = inputs(LOSSES["inputs"])
    batch, fused = Batch(given["vis"], given["ir"]), Fused(given["fused"])
    expected = LOSSES["values"]
    terms = FusionTerms()(batch, fused)
    theirs = {
        "ssim_visible": "ssim_term_vis",
        "ssim_infrared": "ssim_term_ir",
        "intensity": "intensity_l1_max",
        "gradient": "gradient_mse_max",
        "color": "color_l1",
    }
    for ours, name in theirs.items():
        assert float(terms[ours]) == pytest.approx(expected["fusion"][name], rel=1e-4)
    total = sum(FUSION[name] * value for name, value in terms.items())
    assert float(total) == pytest.approx(expected["fusion"]["total"], rel=1e-4)
    for loss, name in ((LeanInfrared(), "bias_ir"), (LeanVisible(), "bias_vis")):
        terms = loss(batch, fused)
        total = sum(LEAN[key] * value for key, value in terms.items())
        assert float(terms["intensity"]) == pytest.approx(expected[name]["intensity"], rel=1e-4)
        assert float(total) == pytest.approx(expected[name]["total"], rel=1e-4)


@torch.no_grad()
def test_illumination_equals_the_released_one(scene, recorded):
    network = seeded(retinex.RetinexNet(), "lumin")
    assert sum(p.numel() for p in network.parameters()) == 128_167
    parts = network(scene["image"])
    for name in parts._fields:
        close(getattr(parts, name), recorded[f"effects/lumin/{name}"], "fused")
    for name, power in (("brighten", 0.2), ("darken", 2.5)):
        relit = retinex.relit(scene["image"], parts, power)
        close(relit, recorded[f"effects/lumin/{name}_output"], "fused")
    expected = LOSSES["values"]["lumin"]
    terms = retinex.terms(scene["image"], parts)
    assert float(terms.pop("noise")) == pytest.approx(5000 * expected["noise"], rel=1e-4)
    for name, value in terms.items():
        theirs = name if name == "reconstruction" else f"{name}_smooth"
        assert float(value) == pytest.approx(expected[theirs], rel=1e-4)


@torch.no_grad()
def test_noise_blur_and_pasting_equal_the_released_ones(scene, recorded):
    network = seeded(denoise.NoiseNet(), "denoise")
    assert sum(p.numel() for p in network.parameters()) == 44_550
    residual = network(scene["image"])
    close(residual, recorded["effects/denoise/residual"], "fused")
    close(scene["image"] - residual, recorded["effects/denoise/output"], "fused")
    for half, name in zip(denoise.halves(scene["image"]), "ab", strict=True):
        close(half, recorded[f"effects/denoise/pair_{name}"], "fused")
    blurred = denoise.box_blur(scene["image"], dark_edges=True)
    close(blurred, recorded["effects/blur/output_t3"], "fused")
    mask = (scene["mask"] > 0.5).float()
    pasted = merge(scene["image"], scene["vis"], mask, whole_numbers=True) * 255
    expected = recorded["effects/mask_merge_uint8"].float()
    torch.testing.assert_close(pasted[0].permute(1, 2, 0), expected, rtol=0, atol=1e-3)


def test_learning_passes_through_the_released_values(scene):
    runs, image = LOSSES["trajectories"]["runs"], scene["image"]
    noise, light = seeded(denoise.NoiseNet(), "denoise"), seeded(retinex.RetinexNet(), "lumin")
    cases = {
        "1_denoise": (noise, lambda: denoise.noise_to_noise(image, noise)),
        "2_brighten": (light, lambda: retinex.robust_retinex(image, light(image))),
    }
    batch = Batch(scene["vis"], scene["ir"])
    for name, loss in (
        ("4_texture_visible", LeanVisible()),
        ("5_saliency_infrared", LeanInfrared()),
    ):
        network = official(golden.seeded_state(MANIFEST)).network

        def objective(network=network, loss=loss):
            terms = loss(batch, Fused(network.raw(batch.visible, batch.infrared)))
            return sum(LEAN[key] * value for key, value in terms.items())

        cases[name] = network, objective
    for name, (network, objective) in cases.items():
        expected = runs[name]["losses"]
        values = learn(network, objective, runs[name]["lr"], len(expected) - 1)
        assert values == pytest.approx(expected, rel=2e-3), name


def test_illumination_leans_the_way_that_was_asked_for():
    dark, bright = torch.full((1, 3, 8, 8), 0.2), torch.full((1, 3, 8, 8), 0.9)
    assert retinex.exponent(dark, brighter=True) == 0.2
    assert retinex.exponent(dark, brighter=False) == 2.5
    assert retinex.exponent(bright, brighter=False) == pytest.approx(6.5788, rel=1e-4)


@pytest.mark.parametrize("name", ["brighten", "darken", "denoise", "blur", "deblur"])
def test_an_effect_does_what_its_name_says(name):
    torch.manual_seed(0)
    (pair,) = tiny_pairs(1, 48)
    clean = torch.nn.functional.avg_pool2d(pair.visible[None], 5, 1, 2, count_include_pad=False)
    image = (clean + 0.1 * torch.randn_like(clean)).clamp(0, 1) if name == "denoise" else clean
    mask = torch.ones_like(image[:, :1])
    infrared = pair.infrared[None]
    effects = Effects(Terf(**TINY), max_steps=60 if name == "denoise" else 6)
    result = effects(name, image, clean, infrared, mask)
    assert result.shape == image.shape and result.min() >= 0 and result.max() <= 1

    def roughness(x):
        return float((x[..., 1:] - x[..., :-1]).abs().mean())

    if name in ("brighten", "darken"):
        assert (result.mean() > 1.1 * image.mean()) == (name == "brighten")
        assert (result.mean() < 0.8 * image.mean()) == (name == "darken")
    elif name == "denoise":
        assert (result - clean).square().mean() < 0.8 * (image - clean).square().mean()
    else:
        assert (roughness(result) < roughness(image)) == (name == "blur")


@pytest.fixture(scope="module")
def trained(registry, tmp_path_factory):
    """A tiny backbone trained for a few steps, its loss curve, and its checkpoint."""
    recipe = terf_small().with_overrides(
        {
            "network.options": TINY, "steps": 60, "batch_size": 2, "crop": 32,
            "learning_rate": 3e-3, "refine_options.max_steps": 8, "refine_options.work_size": 32,
        }
    )  # fmt: skip
    path = tmp_path_factory.mktemp("terf") / "tiny.pt"
    run = train(
        recipe, tiny_pairs(4, 40), registry=registry, device="cpu", precision="float32",
        checkpoint=path, log_every=10,
    )  # fmt: skip
    return run, path


def test_a_reduced_training_lowers_its_loss(trained):
    totals = [terms["total"] for terms in trained[0].history.values()]
    assert totals[-1] < 0.6 * totals[0]


def test_leaning_brings_the_picture_nearer_to_the_one_that_was_named(trained):
    network = trained[0].method.network
    batch = tiny_batch(1, 40)
    plain = network(batch).image
    mask = torch.ones_like(batch.infrared)
    before = {k: float(p.detach().sum()) for k, p in network.named_parameters()}
    effects = Effects(network, max_steps=20)
    for name, source in (("texture", batch.visible), ("salient", batch.infrared)):
        result = effects(name, plain, batch.visible, batch.infrared, mask)
        assert (result - source).abs().mean() < 0.97 * (plain - source).abs().mean(), name
    assert before == {k: float(p.detach().sum()) for k, p in network.named_parameters()}


def test_what_a_cpu_allows_is_enough_to_denoise():
    torch.manual_seed(0)
    clean = tiny_pairs(1, 48)[0].visible[None]
    clean = torch.nn.functional.avg_pool2d(clean, 5, 1, 2, count_include_pad=False)
    noisy = (clean + 0.1 * torch.randn_like(clean)).clamp(0, 1)
    effects = Effects(Terf(**TINY), quick=True)
    result = effects("denoise", noisy, clean, clean[:, :1], torch.ones_like(clean[:, :1]))
    assert (result - clean).square().mean() < 0.7 * (noisy - clean).square().mean()


def test_fewer_steps_are_longer_ones_and_the_published_numbers_are_the_limit():
    effects = Effects(Terf(**TINY), max_steps=50)
    assert effects.budget("salient") == (pytest.approx(1.6e-4), 50)
    assert effects.budget("denoise") == (pytest.approx(4e-4), 50)
    assert effects.budget("brighten") == (pytest.approx(1e-3), 50)
    assert Effects(Terf(**TINY)).budget("denoise") == PUBLISHED["denoise"]
    with pytest.raises(BadRequest, match="Did you mean 'denoise'"):
        effects("denoize", *[torch.zeros(1, 3, 8, 8)] * 4)


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize(
    ("command", "region", "effect"),
    [
        ("increase the visibility of buildings", "buildings", "brighten"),
        ("decrease the visibility of flowers", "flowers", "darken"),
        ("blur the background", "background", "blur"),
        ("makes the texture of the tree clearer", "tree", "texture"),
        ("highlight the saliency of persons", "persons", "salient"),
        ("reduce the noise of road", "road", "denoise"),
        ("reduce the brightness of the screen", "screen", "darken"),
        ("make the car stand out in the photograph", "car", "salient"),
        ("brighten the room", "room", "brighten"),
        ("make car more salient", "car", "salient"),
        ("make the two persons stand out", "persons", "salient"),
        ("increase the brightness of trees", "trees", "brighten"),
        ("sharpen the building in the middle", "building in the middle", "deblur"),
        ("focus on the leftmost person", "person on the left", "salient"),
        ("make the left side brighter", "left half", "brighten"),
        ("blur the rest of the picture", "background", "blur"),
        ("the person should look like in the infrared image", "person", "salient"),
        ("can you make the sky out of focus?", "sky", "blur"),
        ("remove noise from the sky", "sky", "denoise"),
        ("make it less noisy", "", "denoise"),
        ("make everything brighter", "", "brighten"),
        ("do not blur the car", "car", "none"),
        ("keep the car as it is", "car", "none"),
    ],
)
def test_a_command_is_read_as_region_and_effect(command, region, effect):
    assert RuleParser()(command) == [Edit(region, effect)]


@pytest.mark.parametrize(
    ("command", "edits"),
    [
        ("keep the car as it is, blur the background", [("car", "none"), ("background", "blur")]),
        (
            EXAMPLE,
            [("background", "texture"), ("person on the left", "salient"), ("", "denoise")],
        ),
        (
            "Please make the car on the right hotter and the sky darker",
            [("car on the right", "salient"), ("sky", "darken")],
        ),
        ("highlight the car and the person", [("car and the person", "salient")]),
        ("brighten the trees, the road", [("trees", "brighten"), ("road", "brighten")]),
        (
            "make car more salient, increase the brightness of trees",
            [("car", "salient"), ("trees", "brighten")],
        ),
    ],
)
def test_a_command_may_ask_for_several_things(command, edits):
    assert [(edit.region, edit.effect) for edit in RuleParser()(command)] == edits


def test_a_region_is_taken_apart():
    assert parts_of("car and the person on the left") == (("car", "person"), "left")
    assert parts_of("top half") == ((), "top")
    assert parts_of("") == ((), "")


class Answer(BaseHTTPRequestHandler):
    """A service that speaks chat completions and keeps what it was asked."""

    said = ""
    asked: list = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append((self.headers.get("Authorization"), body))
        answer = {"choices": [{"message": {"role": "assistant", "content": self.said}}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def endpoint():
    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Answer.asked = []
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_a_chat_model_reads_what_the_grammar_does_not_know(trained, endpoint, monkeypatch):
    monkeypatch.setenv("FUSIONKIT_CHAT_KEY", "a-key")
    method = trained[0].method
    options = {"endpoint": endpoint, "model": "any"}
    method = Method(
        method.recipe.with_overrides(
            {"refine_options.parser": "chat", "refine_options.parser_options": options}
        ),
        method.registry,
        network=method.network,
    )
    batch = tiny_batch(1, 40).replace(prompts=("the street is gloomy",))
    Answer.said = (
        'Here: [{"region": "Left half", "effect": "brighten"}, {"region": "x", "effect": "?"}]'
    )
    fused = method(batch)
    assert [name for name in fused.maps if name.startswith("edit")] == [
        "edit1.brighten.left-half.mask", "edit1.brighten.left-half.image",
    ]  # fmt: skip
    key, body = Answer.asked[0]
    assert key == "Bearer a-key" and body["model"] == "any"
    assert body["messages"][0]["content"].endswith("the street is gloomy =>")
    Answer.said = "I would rather not."
    with pytest.raises(FusionkitError, match="no list like"):
        method(batch)


def test_a_chat_model_without_an_address_and_an_unknown_parser_are_refused(trained, monkeypatch):
    monkeypatch.delenv("FUSIONKIT_CHAT_ENDPOINT", raising=False)
    method, batch = trained[0].method, tiny_batch(1, 40)
    for parser, error, message in (
        ("chat", MissingWeights, "FUSIONKIT_CHAT_ENDPOINT"),
        ("rule", BadRequest, "Did you mean 'rules'"),
    ):
        recipe = method.recipe.with_overrides({"refine_options.parser": parser})
        with pytest.raises(error, match=message):
            Method(recipe, method.registry, network=method.network)(batch)


# ---------------------------------------------------------------- regions and editing


def boxes(*places, size=(40, 60)):
    mask = torch.zeros(1, 1, *size)
    for top, left, side in places:
        mask[..., top : top + side, left : left + side] = 1
    return mask


def test_a_place_picks_one_of_several_things_and_a_plural_all_there():
    left, inner, right = (20, 4, 6), (18, 18, 6), (20, 50, 6)
    mask = boxes(left, inner, right, (2, 1, 1))
    assert torch.equal(placed(mask, "left"), boxes(left))
    assert torch.equal(placed(mask, "left", plural=True), boxes(left, inner))
    assert torch.equal(placed(mask, "right"), boxes(right))
    assert torch.equal(placed(boxes(inner), "right"), boxes(inner))
    assert not placed(boxes(right), "left").any()


def test_a_feathered_mask_fades_inwards_and_never_leaves_its_region():
    mask = boxes((10, 10, 12))
    soft = feathered(mask, 2)
    assert (soft[mask == 0] == 0).all() and soft.max() == 1
    assert soft[0, 0, 10, 16] < soft[0, 0, 11, 16] < soft[0, 0, 12, 16] == 1
    assert torch.equal(feathered(torch.ones(1, 1, 5, 5), 2), torch.ones(1, 1, 5, 5))
    assert feathered(boxes((3, 3, 1)), 2).max() == 1


def test_each_effect_acts_in_its_region_alone(trained):
    method = trained[0].method
    mask = boxes((5, 5, 14), size=(40, 40))
    batch = tiny_batch(1, 40).replace(guides={"person": mask}, prompts=("",))
    plain = method(batch).image
    for command in ("darken the person", "make the person hotter", "blur the person"):
        edited = method(batch.replace(prompts=(command,))).image
        change = (edited - plain).abs().amax(1, keepdim=True)
        assert change[mask == 0].max() == 0 and change[mask == 1].max() > 0.02, command
    edited = method(batch.replace(prompts=("blur the background",), guides={"person": mask}))
    assert edited.maps["edit1.blur.background.mask"][mask == 1].max() <= 1


def test_the_background_is_what_the_other_edits_do_not_name(trained):
    method, mask = trained[0].method, boxes((5, 5, 14), size=(40, 40))
    nothing = dict.fromkeys(("person", "car", "truck", "bus", "bicycle"), torch.zeros_like(mask))
    batch = tiny_batch(1, 40).replace(guides={**nothing, "tree": mask})
    for request in (
        "blur the background, darken the tree",
        "blur the background, keep the tree as it is",
        "blur everything except the tree",
    ):
        maps = method(batch.replace(prompts=(request,))).maps
        (name,) = (n for n in maps if ".blur." in n and n.endswith(".mask"))
        background = maps[name]
        assert (background[mask == 1] == 0).all() and background[mask == 0].max() == 1


def test_the_release_let_some_effects_leave_their_region(trained):
    method, mask = trained[0].method, boxes((5, 5, 14), size=(40, 40))
    recipe = method.recipe.with_overrides(
        {"refine_options.respect_mask": False, "refine_options.whole_numbers": True}
    )
    method = Method(recipe, method.registry, network=method.network)
    batch = tiny_batch(1, 40).replace(guides={"person": mask}, prompts=("",))
    plain = method(batch).image
    edited = method(batch.replace(prompts=("darken the person",))).image
    assert (edited - plain).abs()[..., 30:, 30:].mean() > 0.02
    assert torch.equal(edited, (edited * 255).round() / 255)


def test_what_is_not_understood_or_not_found_changes_nothing_and_is_said(trained):
    method = trained[0].method
    batch = tiny_batch(1, 40).replace(prompts=("",), guides={"dog": torch.zeros(1, 1, 40, 40)})
    plain = method(batch).image
    with pytest.warns(UserWarning, match="reads no change out of 'sing a song'"):
        assert torch.equal(method(batch.replace(prompts=("sing a song",))).image, plain)
    with pytest.warns(UserWarning, match="no dog was found"):
        assert torch.equal(method(batch.replace(prompts=("darken the dog",))).image, plain)


def test_pairs_of_a_batch_are_edited_each_by_its_own_command(trained):
    method = trained[0].method
    batch = tiny_batch(2, 40).replace(prompts=("", ""))
    plain = method(batch).image
    edited = method(batch.replace(prompts=("", "darken everything")))
    assert torch.equal(edited.image[0], plain[0])
    assert edited.image[1].mean() < 0.8 * plain[1].mean()
    assert not any(name.startswith("edit") for name in edited.maps)


def test_without_a_detector_the_small_encoder_finds_the_regions_and_that_is_said(
    trained, monkeypatch, registry
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FUSIONKIT_WEIGHTS", "/nowhere")
    options = terf().refine_options | {"max_steps": 2, "work_size": 32}
    recipe = trained[0].method.recipe.model_copy(update={"refine_options": options})
    method = Method(recipe, registry, network=trained[0].method.network)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        method(tiny_batch(1, 40).replace(prompts=("darken the sky",)))
    assert any("guide 'heatmap'" in str(warning.message) for warning in said)


def test_the_example_works_on_an_embedded_scene_from_files(trained, registry, tmp_path):
    pair = registry.create("dataset", "scenes", split="test", count=1, size=128, workers=1)[0]
    write_image(tmp_path / "ir.png", pair.infrared)
    write_image(tmp_path / "vi.png", pair.visible)
    fuse_files(
        tmp_path / "ir.png", tmp_path / "vi.png", tmp_path / "plain.png",
        recipe="terf-small", checkpoint=trained[1], device="cpu", progress=str,
    )  # fmt: skip
    fuse_files(
        tmp_path / "ir.png", tmp_path / "vi.png", tmp_path / "edited.png", text=EXAMPLE,
        recipe="terf-small", checkpoint=trained[1], device="cpu", progress=str,
        overrides={"refine_options.max_steps": 4},
    )  # fmt: skip
    method = fk.load_method("terf-small", trained[1], device="cpu", precision="float32")
    maps = method(Batch(pair.visible[None], pair.infrared[None], prompts=(EXAMPLE,))).maps
    assert [name.rpartition(".")[0] for name in maps][::2] == [
        "edit1.texture.background", "edit2.salient.person-on-the-left", "edit3.denoise.everything",
    ]  # fmt: skip
    person, everything = (maps[name] for name in list(maps)[2::2])
    assert person[..., :64].max() == 1 and person[..., 64:].max() == 0 and everything.min() == 1
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "edited.png").read_bytes()


def test_the_recipe_without_weights_says_how_to_get_them():
    with pytest.raises(MissingWeights, match="fusionkit train terf"):
        fk.load_method("terf")


def test_the_authors_file_fuses_through_the_recipe(tmp_path, recorded):
    torch.save(golden.seeded_state(MANIFEST), tmp_path / "Best.pth")
    method = fk.load_method("terf", tmp_path / "Best.pth", device="cpu", precision="float32")
    given = inputs(CASES["odd33x47"])
    fused = method.fuse(given["ir"], given["vis"])
    expected = recorded["odd33x47/fused"].clamp(0, 1)
    torch.testing.assert_close(fused, expected, rtol=1e-4, atol=2e-5)
