"""Equal to the authors' network, losses and rules, within the tolerances of the recording.

The recording lies in ``golden/`` in a compact form; where the full one is found, it is used.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from fusionkit_rfc import bands, clipseg
from fusionkit_rfc.guide import segmix
from fusionkit_rfc.losses import alignment, colour, gradient, luma_chroma
from fusionkit_rfc.official import as_guides, load_official
from fusionkit_rfc.recipe import WEIGHTS

import fusionkit as fk
from fusionkit.batch import Batch, Fused, TextFeatures
from fusionkit.capture import capture
from fusionkit.errors import BadRequest
from fusionkit.registry import Registry
from fusionkit.testing import golden

FOLDER = golden.folder("rfc", Path(__file__).with_name("golden"))
MANIFEST = golden.read(FOLDER / "manifest.json")
LOSSES = golden.read(FOLDER / "losses.json")
RECORDED = np.load(FOLDER / "outputs.npz")
TOLERANCES = MANIFEST["tolerances"]
REGISTRY = Registry.from_environment()


@pytest.fixture(scope="module")
def official():
    return fk.load_official("rfc", golden.seeded_state(MANIFEST))


def inputs(case):
    spec = MANIFEST["cases"][case]
    given = {name: golden.seeded_input(part) for name, part in spec.items() if name != "targets"}
    return given | {"targets": spec["targets"]}


def recorded(name):
    return torch.from_numpy(RECORDED[name])


def fused_of(case):
    """The recorded picture; the compact recording has some before the last ReLU alone."""
    if f"{case}/fused" in RECORDED:
        return recorded(f"{case}/fused")
    return recorded(f"{case}/fused_before_relu").relu()


def guides_of(given):
    return as_guides(given["clipseg_logits"], given["clipseg_feature"], given["targets"])


_passed = {}


def passed(official, case):
    """Picture, captured features and maps of the alignment, computed once per case."""
    if case not in _passed:
        network = official.network
        layers = [*network.layers, "dconv7"]
        kept, fuse = {}, network.fuse

        def listening(*args):
            image, kept["maps"] = fuse(*args)
            return image, kept["maps"]

        network.fuse = listening
        with torch.no_grad(), capture(network, layers) as features:
            _passed[case] = official(**inputs(case)), dict(features), kept["maps"]
        del network.fuse
    return _passed[case]


def run(official, given):
    """The picture before the last ReLU, and the maps of the alignment."""
    text = TextFeatures(pooled=given["function_embedding"])
    return official.network.fuse(given["vis"], given["ir"], text, guides_of(given))


# --------------------------------------------------------------------------------------- network


@pytest.mark.parametrize("case", MANIFEST["cases"])
def test_fused_pictures_are_the_recorded_ones(official, case):
    fused, features, _ = passed(official, case)
    torch.testing.assert_close(fused, fused_of(case), **TOLERANCES["fused"])
    wanted = recorded(f"{case}/fused_before_relu")
    torch.testing.assert_close(features["dconv7"], wanted, **TOLERANCES["fused"])


def test_bands_give_the_recorded_picture_too(official, monkeypatch):
    monkeypatch.setattr(bands, "BAND_BYTES", {"cpu": 1, "cuda": 1})
    with torch.no_grad():
        fused = official(**inputs("odd33x25_none"))
    torch.testing.assert_close(fused, fused_of("odd33x25_none"), **TOLERANCES["fused"])


@pytest.mark.parametrize("case", MANIFEST["cases"])
def test_both_conditions_are_the_recorded_ones(official, case):
    given, close = inputs(case), TOLERANCES["intermediates"]
    with torch.no_grad():
        scale, shift = official.network.processmodule(given["function_embedding"])
    torch.testing.assert_close(scale, recorded(f"{case}/functional_weight"), **close)
    torch.testing.assert_close(shift, recorded(f"{case}/functional_bias"), **close)
    kept = {"spatial_condition": slice(None), "spatial_condition_ch62_66": slice(62, None)}
    kept = {f"{case}/{name}": channels for name, channels in kept.items()}
    for name in kept.keys() & set(RECORDED):
        with torch.no_grad():
            beta = official.network.spatial(guides_of(given), given["vis"])
        torch.testing.assert_close(beta[:, kept[name]], recorded(name), **close)


LAYERS = {
    "mcc1_output": ("ResBlock1", slice(None)),
    "control_prior": ("ResBlock3", slice(None)),
    "haf1_output_ch0_16": ("CBA1", slice(0, 16)),
    "haf4_output_ch0_16": ("CBA4", slice(0, 16)),
}


def test_features_on_the_way_are_the_recorded_ones(official):
    case = "wide24x40_b2"
    close, network = TOLERANCES["intermediates"], official.network
    _, features, _ = passed(official, case)
    checked = {name: features[layer][:, part] for name, (layer, part) in LAYERS.items()}
    with torch.no_grad():
        prior = features["ResBlock3"]
        checked["hybrid_weight_k0_ch0_8"] = network.imagemoudle(prior, 1)[0][:, :8]
        checked["hybrid_bias_k3_ch0_8"] = network.imagemoudle(prior, 4)[1][:, :8]
    found = [name for name in checked if f"{case}/{name}" in RECORDED]
    assert len(found) >= 4
    for name in found:
        wanted = recorded(f"{case}/{name}")
        torch.testing.assert_close(
            checked[name][:, : wanted.shape[1]], wanted, **close, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_it_has_as_many_parameters_as_the_paper_s_network(official):
    assert sum(p.numel() for p in official.parameters()) == MANIFEST["parameters"]


def test_the_released_checkpoint_is_unwrapped(official):
    state = official.network.state_dict()
    again = load_official({"epoch": 60, "model_state_dict": state, "optimizer_state_dict": {}})
    for name, value in state.items():
        assert torch.equal(again.network.state_dict()[name], value)


def test_weights_of_something_else_are_refused(official):
    state = dict(official.network.state_dict())
    state["extra.weight"] = state.pop("dconv7.bias")
    with pytest.raises(BadRequest, match=r"dconv7\.bias is missing; extra\.weight is unknown"):
        load_official(state)
    odd = dict(official.network.state_dict()) | {"dconv7.bias": torch.ones(4)}
    with pytest.raises(BadRequest, match=r"dconv7\.bias is \(4,\) instead of \(3,\)"):
        load_official(odd)


def test_a_target_for_each_pair_is_wanted(official):
    with pytest.raises(BadRequest, match="1 targets for 2 pairs"):
        official(**inputs("wide24x40_b2") | {"targets": ["car"]})


def test_bfloat16_stays_within_one_grey_level(official):
    exact, _, _ = passed(official, "wide24x40_b2")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rough = official(**inputs("wide24x40_b2"))
    assert rough.dtype == torch.float32
    assert float((rough - exact).abs().max()) < 1 / 255


# ---------------------------------------------------------------------------------------- losses


def mask_of(rule, seed):
    binary = (seed > 0.6).float()
    if rule == "binary_then_none":
        binary[1] = 0
    return {
        "none": torch.zeros_like(seed),
        "full": torch.ones_like(seed),
        "binary": binary,
        "soft": seed,
        "binary_then_none": binary,
    }[rule]


def batch_of(visible, infrared, mask):
    return Batch(
        visible=torch.zeros_like(visible),  # the goals are the targets, not the inputs
        infrared=torch.zeros_like(infrared),
        targets={"visible": visible, "infrared": infrared, "mask": mask},
    )


def totals(terms):
    """Region, rest and everything with the weights of the recipe."""
    weighted = {name: WEIGHTS[name] * value for name, value in terms.items()}
    region = sum(v for k, v in weighted.items() if k.startswith("region"))
    rest = sum(v for k, v in weighted.items() if k.startswith("rest"))
    return region, rest, sum(weighted.values())


@pytest.mark.parametrize("rule", LOSSES["mask_rules"])
def test_the_reconstruction_has_the_recorded_value(rule):
    given = {name: golden.seeded_input(spec) for name, spec in LOSSES["inputs"].items()}
    wanted = LOSSES["degradation_aware_reconstruction"][rule]
    mask = mask_of(rule, given["mask_seed"])
    assert mask.mean((1, 2, 3)).tolist() == pytest.approx(wanted["mask_mean"], rel=1e-4)
    loss = REGISTRY.create("loss", "rfc")
    batch = batch_of(given["gt_vis_rgb"], given["gt_ir"], mask)
    region, rest, total = totals(loss(batch, Fused(image=given["fused_rgb"])))
    close = {"rel": TOLERANCES["losses"]["rtol"], "abs": 1e-7}
    assert float(region) == pytest.approx(wanted["region"], **close)
    assert float(rest) == pytest.approx(wanted["no_region"], **close)
    assert float(total) == pytest.approx(wanted["total"], **close)


def test_gradients_and_colours_are_the_recorded_ones():
    given = {name: golden.seeded_input(spec) for name, spec in LOSSES["inputs"].items()}
    wanted, found = LOSSES["sobel_l1_gt_ir"], gradient(given["gt_ir"])
    assert float(found.mean()) == pytest.approx(wanted["mean"], rel=1e-4)
    assert float(found.max()) == pytest.approx(wanted["max"], rel=1e-4)
    assert float(found[0, 0, 0, 0]) == pytest.approx(wanted["corner_0_0"], rel=1e-4)
    planes = luma_chroma(given["gt_vis_rgb"])
    close = TOLERANCES["intermediates"]
    torch.testing.assert_close(torch.cat(planes, 1), recorded("loss/vis_ycrcb"), **close)
    torch.testing.assert_close(colour(*planes), recorded("loss/vis_rgb_roundtrip"), **close)


@pytest.mark.parametrize("case", MANIFEST["cases"])
def test_the_alignment_has_the_recorded_value(official, case):
    _, _, maps = passed(official, case)
    wanted = LOSSES["alignment"][case]
    found = float(alignment(maps["change"], maps["control"]))
    assert found == pytest.approx(wanted["unweighted"], rel=1e-4)
    assert WEIGHTS["align"] * found == pytest.approx(wanted["weighted_5x"], rel=1e-4)


def test_one_training_step_has_the_recorded_gradients(official):
    """With the released alignment term, which is a number without a gradient."""
    wanted = LOSSES["train_step"]
    given = inputs(wanted["inputs"]["case"])
    specs = {name: wanted["inputs"][name] for name in ("gt_ir", "gt_vis_rgb", "mask")}
    goals = {name: golden.seeded_input(spec) for name, spec in specs.items()}
    mask = (goals["mask"] > specs["mask"]["threshold"]).float()
    mask[1] = 1
    network = official.network.train()
    image, maps = run(official, given)
    loss = REGISTRY.create("loss", "rfc", align_gradient=False)
    terms = loss(
        batch_of(goals["gt_vis_rgb"], goals["gt_ir"], mask), Fused(image=image.relu(), maps=maps)
    )
    region, rest, total = totals(terms)
    total.backward()
    assert float(region.detach()) == pytest.approx(wanted["region"], rel=1e-4)
    assert float(rest.detach()) == pytest.approx(wanted["no_region"], rel=1e-4)
    assert float((region + rest).detach()) == pytest.approx(wanted["reconstruction"], rel=1e-4)
    assert WEIGHTS["align"] * float(terms["align"]) == pytest.approx(
        wanted["alignment_5x"], rel=1e-4
    )
    assert float(total.detach()) == pytest.approx(wanted["loss_total_with_alignment"], rel=1e-4)
    parameters = dict(network.named_parameters())
    for name, norm in wanted["grad_l2"].items():
        found = float(parameters[name].grad.norm())
        assert found == pytest.approx(norm, rel=TOLERANCES["grad_l2"]["rtol"]), name
    without = [name for name, p in parameters.items() if p.grad is None]
    assert without == wanted["no_grad_parameters"]
    network.zero_grad(set_to_none=True)
    network.eval()


# ------------------------------------------------------------------------- where: CLIPSeg, SegMix


def test_two_answers_make_the_recorded_soft_mask():
    logits = golden.seeded_input(LOSSES["segmix"]["inputs"]["logits"])
    found = segmix(logits[:1], logits[1:], (20, 28))
    torch.testing.assert_close(found, recorded("segmix/mask"), **TOLERANCES["intermediates"])


def test_clipseg_sees_the_recorded_picture():
    given = inputs("wide24x40_b2")
    wanted = recorded("wide24x40_b2/clipseg_input_sample0_ir_rows0_8")
    found = clipseg.prepared(given["ir"])[0, :, : wanted.shape[1]]
    torch.testing.assert_close(found, wanted, **TOLERANCES["intermediates"])


def test_larger_pictures_are_made_smaller_with_antialiasing():
    """Stripes one pixel wide become grey; without antialiasing some would stay."""
    stripes = (torch.arange(1000) % 2).float().expand(1, 1, 400, 1000)
    found = clipseg.prepared(stripes)
    grey = (0.5 - torch.tensor(clipseg.MEAN)) / torch.tensor(clipseg.DEVIATION)
    spread = (found[0, :, :, 5:-5] - grey[:, None, None]).abs().amax((1, 2))
    assert found.shape == (1, 3, 352, 352) and spread.max() < 0.35
    plain = torch.nn.functional.interpolate(stripes, (352, 352), mode="bilinear")
    assert (plain - 0.5).abs().max() > 0.45


def seeded_clipseg(reduce_dim, refined, tensors):
    """The recording's shallow CLIPSeg in transformers, filled by the released names."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hub'")
    spec = MANIFEST["clipseg"]["hyper_parameters"]
    tower = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
             "num_hidden_layers": 4, "image_size": 224, "patch_size": 16}  # fmt: skip
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 8, "max_position_embeddings": 4,
            "bos_token_id": 6, "eos_token_id": 7, "pad_token_id": 7}  # fmt: skip
    config = transformers.CLIPSegConfig(
        vision_config=tower, text_config=text, projection_dim=512, reduce_dim=reduce_dim,
        extract_layers=spec["extract_layers"], conditional_layer=spec["cond_layer"],
        decoder_num_attention_heads=spec["n_heads"],
        decoder_intermediate_size=spec["feedforward"],
        use_complex_transposed_convolution=refined,
    )  # fmt: skip
    with torch.device("meta"):  # no time for weights that are replaced at once
        model = transformers.CLIPSegForImageSegmentation(config).eval().requires_grad_(False)
    state = clipseg.renamed(tensors)
    missing, unknown = model.load_state_dict(state, strict=False, assign=True)
    assert not unknown
    assert all(name.startswith(("clip.text", "clip.logit_scale")) for name in missing)
    return model


@pytest.fixture(scope="module")
def segmenter():
    return seeded_clipseg(64, True, golden.seeded_state(MANIFEST["clipseg"]))


CASES = [case for case in MANIFEST["clipseg"]["cases"] if f"clipseg/{case}/feature" in RECORDED]


@pytest.mark.parametrize("case", CASES)
def test_clipseg_gives_the_recorded_maps_and_features(segmenter, case):
    spec, close = MANIFEST["clipseg"]["cases"][case], TOLERANCES["clipseg"]
    seen = clipseg.activations(segmenter, golden.seeded_input(spec["image"]))
    if spec["kind"] == "image":
        grid = clipseg.whole(segmenter, seen)
    else:
        logits, grid = clipseg.region(segmenter, seen, golden.seeded_input(spec["cond"]))
        wanted = recorded(f"clipseg/{case}/logits")
        torch.testing.assert_close(logits[: len(wanted)], wanted, **close)
    torch.testing.assert_close(grid, recorded(f"clipseg/{case}/feature"), **close)
    if f"clipseg/{case}/activation3" in RECORDED:
        kept = recorded(f"clipseg/{case}/activation3")  # token sample channel
        torch.testing.assert_close(seen[-1][..., ::16].transpose(0, 1), kept, **close)


@pytest.mark.skipif(
    "clipseg/region96_b2/image_embedding" not in RECORDED, reason="in the full recording alone"
)
def test_the_tower_is_the_recorded_one_from_its_first_block_to_its_embedding(segmenter):
    pixels = golden.seeded_input(MANIFEST["clipseg"]["cases"]["region96_b2"]["image"])
    tower, close = segmenter.clip.vision_model, TOLERANCES["clipseg"]
    first = tower.encoder.layers[0](tower.pre_layrnorm(tower.embeddings(pixels)), None)
    kept = recorded("clipseg/region96_b2/activation0")
    torch.testing.assert_close(first[..., ::16].transpose(0, 1), kept, **close)
    embedding = segmenter.clip.get_image_features(pixels).pooler_output
    torch.testing.assert_close(embedding, recorded("clipseg/region96_b2/image_embedding"), **close)


def test_the_parts_called_here_are_those_of_the_whole_model(segmenter):
    """Against transformers' own forward pass, so that a new release of it cannot drift away."""
    spec = MANIFEST["clipseg"]["cases"]["region96_b2"]
    pixels, phrase = (golden.seeded_input(spec[name]) for name in ("image", "cond"))
    logits, _ = clipseg.region(segmenter, clipseg.activations(segmenter, pixels), phrase)
    wanted = segmenter(pixel_values=pixels, conditional_embeddings=phrase).logits
    torch.testing.assert_close(logits[:, 0], wanted.reshape(logits[:, 0].shape))


def test_keys_that_no_clipseg_has_are_refused():
    with pytest.raises(BadRequest, match=r"'other\.weight' is no weight of CLIPSeg"):
        clipseg.renamed({"other.weight": torch.zeros(1)})


@pytest.mark.skipif(
    not Path(os.environ.get("FUSIONKIT_WEIGHTS", ""), "clipseg", "rd16-uni.pth").is_file(),
    reason="needs clipseg/rd16-uni.pth under FUSIONKIT_WEIGHTS",
)
def test_the_small_released_decoder_gives_the_recorded_maps():
    path = Path(os.environ["FUSIONKIT_WEIGHTS"], "clipseg", "rd16-uni.pth")
    backbone = {
        name: value
        for name, value in golden.seeded_state(MANIFEST["clipseg"]).items()
        if name.startswith("model.")
    }
    decoder = torch.load(path, map_location="cpu", weights_only=True)
    model = seeded_clipseg(16, False, backbone | decoder)
    spec, close = MANIFEST["clipseg"]["cases"]["region96_b2"], TOLERANCES["clipseg"]
    seen = clipseg.activations(model, golden.seeded_input(spec["image"]))
    logits, grid = clipseg.region(model, seen, golden.seeded_input(spec["cond"]))
    torch.testing.assert_close(logits, recorded("clipseg_rd16/region96_b2/logits"), **close)
    torch.testing.assert_close(grid, recorded("clipseg_rd16/region96_b2/feature"), **close)
