"""Equal to the authors' network, losses and rules, within the tolerances of the recording.

The recording lies in ``golden/`` in a compact form; where the full one is found, it is used.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from fusionkit_textif import degradations, losses
from fusionkit_textif.official import load_official
from fusionkit_textif.pictures import stretch_uint8
from fusionkit_textif.recipe import textif, warmup_poly

import fusionkit as fk
from fusionkit.batch import Batch, Fused, TextFeatures
from fusionkit.capture import capture
from fusionkit.errors import BadRequest
from fusionkit.recipe import Stage
from fusionkit.testing import golden

FOLDER = golden.folder("textif", Path(__file__).with_name("golden"))
MANIFEST = golden.read(FOLDER / "manifest.json")
LOSSES = golden.read(FOLDER / "losses.json")
RECORDED = np.load(FOLDER / "outputs.npz")
TOLERANCES = MANIFEST["tolerances"]
VALUES = LOSSES["values"]


@pytest.fixture(scope="module")
def official():
    return fk.load_official("textif", golden.seeded_state(MANIFEST))


def inputs(case, of=MANIFEST["cases"]):
    return {name: golden.seeded_input(spec) for name, spec in of[case].items()}


def recorded(name):
    return torch.from_numpy(RECORDED[name])


@pytest.mark.parametrize("case", MANIFEST["cases"])
def test_fused_pictures_are_the_recorded_ones(official, case):
    with torch.no_grad():
        fused = official(**inputs(case))
    torch.testing.assert_close(fused, recorded(f"{case}/fused"), **TOLERANCES["fused"])


def test_strips_give_the_recorded_picture_too(official, monkeypatch):
    monkeypatch.setattr("fusionkit_textif.blocks.STRIP_BYTES", {"cpu": 1, "cuda": 1})
    with torch.no_grad():
        fused = official(**inputs("small32x48"))
    torch.testing.assert_close(fused, recorded("small32x48/fused"), **TOLERANCES["fused"])


def test_without_text_only_the_biases_speak(official):
    given = inputs("small32x48")
    with torch.no_grad():
        fused = official(**given | {"text": torch.zeros_like(given["text"])})
    torch.testing.assert_close(fused, recorded("small32x48/fused_zero_text"), **TOLERANCES["fused"])


LAYERS = {
    "embed_vis_ch0_12": "encoder_A.patch_embed",
    "enc2_vis": "encoder_A.encoder_level2",
    "enc4_ir": "encoder_B.encoder_level4",
    "cross_A": "cross_attention",
    "fuse4": "feature_fusion_4",
    "spatial4": "attention_spatial",
    "modulated4": "prompt_guidance_4",
    "dec4": "decoder_level4",
    "up4_3": "up4_3",
    "modulated3": "prompt_guidance_3",
    "reduced3": "reduce_chan_level3",
    "modulated2": "prompt_guidance_2",
    "modulated1_ch0_12": "prompt_guidance_1",
    "fuse1_ch0_12": "feature_fusion_1",
    "refinement_ch0_8": "refinement",
}
ATTENTION = "enc1_block0_attention_vis_ch0_12"


def test_features_on_the_way_are_the_recorded_ones(official):
    known = [name for name in RECORDED if name.startswith("small32x48/")]
    named = {n: layer for n, layer in LAYERS.items() if f"small32x48/{n}" in known}
    block = "encoder_A.encoder_level1.0.attn"
    layers = [*named.values(), "encoder_A.patch_embed", block]
    given = inputs("small32x48")
    with torch.no_grad(), capture(official.network, layers) as maps:
        official(**given)
        found = {name: maps[layer] for name, layer in named.items()}
        found[ATTENTION] = maps[block] - maps["encoder_A.patch_embed"]  # without the residual
        text = TextFeatures(pooled=given["text"])
        for level in (1, 2, 3, 4):
            point = getattr(official.network, f"prompt_guidance_{level}")
            for name, value in zip(
                ("gamma", "beta"), point.scale_and_shift(text, given["vis"]), strict=True
            ):
                found[f"{name}{level}"] = value[..., 0, 0]
    checked = 0
    for name, value in found.items():
        if f"small32x48/{name}" not in known:
            continue
        wanted = recorded(f"small32x48/{name}")
        close = TOLERANCES["intermediates"]
        torch.testing.assert_close(value[:, : wanted.shape[1]], wanted, **close, msg=name)
        checked += 1
    assert checked >= 9


def test_it_has_as_many_parameters_as_the_paper_s_network(official):
    assert sum(p.numel() for p in official.parameters()) == MANIFEST["parameters"]


def test_the_released_wrapping_is_undone(official):
    state = {f"module.{k}": v for k, v in official.network.state_dict().items()}
    state["model_clip.logit_scale"] = torch.ones(())
    again = load_official({"model": state, "epoch": 3})
    for name, value in official.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value)


def test_weights_of_something_else_are_refused(official):
    state = dict(official.network.state_dict())
    state["extra.weight"] = state.pop("output.weight")
    with pytest.raises(BadRequest, match=r"output\.weight is missing; extra\.weight is unknown"):
        load_official(state)
    with pytest.raises(BadRequest, match=r"output\.weight is \(3, 96, 1, 1\) instead of"):
        load_official(
            dict(official.network.state_dict()) | {"output.weight": torch.ones(3, 96, 1, 1)}
        )


def test_sizes_that_do_not_divide_by_eight_are_padded_and_cut_back(official):
    given = inputs("small32x48")
    odd = {side: given[side][..., :27, :45] for side in ("vis", "ir")}
    with torch.no_grad():
        assert official(**odd, text=given["text"]).shape == (1, 3, 27, 45)


def test_bfloat16_stays_near_single_precision(official):
    """The output has a deviation of 2.5: a tenth of it is a picture's contrast."""
    given = inputs("small32x48")
    with torch.no_grad():
        exact = official(**given)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = official(**given)
    assert rough.dtype == torch.float32
    assert float((rough - exact).square().mean().sqrt() / exact.std()) < 0.02


# ---------------------------------------------------------------------------------------- losses


@pytest.fixture(scope="module")
def pictures():
    return {name: golden.seeded_input(spec) for name, spec in LOSSES["inputs"].items()}


def batch_of(pictures, rows, tasks=()):
    batch = Batch(
        visible=torch.zeros_like(pictures["vis"][rows]),  # the clean ones are the targets
        infrared=torch.zeros_like(pictures["ir"][rows, :1]),
        targets={"visible": pictures["vis"][rows], "infrared": pictures["ir"][rows]},
        labels={"task": tuple(tasks)} if tasks else {},
    )
    return batch, Fused(image=pictures["fused"][rows].clone())


RAW = {
    "intensity": (losses.Intensity, {}, "max"),
    "ssim_vis_rgb": (losses.Structure, {}, "ssim_visible"),
    "ssim_ir_gray": (losses.Structure, {}, "ssim_infrared"),
    "color": (losses.Color, {}, "color"),
    "grad_position": (losses.Gradient, {}, "grad"),
    "alt_grad": (losses.Gradient, {"joint": True}, "grad"),
    "alt_intensity_consist_l1_vis1_ir1": (losses.Consistency, {"colour": True}, "consist"),
    "alt_intensity_consist_l2_vis1_ir1": (
        losses.Consistency,
        {"colour": True, "mode": "l2"},
        "consist",
    ),
    "ssim_window11_vis_rgb": (losses.Structure, {"window": 11}, "ssim_visible"),
    "intensity_l2": (losses.Intensity, {"mode": "l2"}, "max"),
    "consist_l1": (losses.Consistency, {}, "consist"),
    "consist_l2": (losses.Consistency, {"mode": "l2"}, "consist"),
}


@pytest.mark.parametrize("name", RAW)
def test_raw_terms_are_the_recorded_ones(pictures, name):
    factory, options, term = RAW[name]
    wanted = VALUES["raw_terms_sample0"] | VALUES["legacy_raw_sample0"]
    found = factory(**options)(*batch_of(pictures, slice(0, 1)))[term]
    assert float(found) == pytest.approx(wanted[name], rel=TOLERANCES["losses"]["rtol"])


def test_every_recorded_raw_term_is_checked():
    assert set(RAW) == set(VALUES["raw_terms_sample0"]) | set(VALUES["legacy_raw_sample0"])


WEIGHTED = [
    name
    for name, value in VALUES.items()
    if isinstance(value, dict) and "total" in value and name != "train_step_b2"
]


@pytest.mark.parametrize("name", WEIGHTED)
def test_weighted_terms_and_their_gradient_are_the_recorded_ones(pictures, name):
    wanted = VALUES[name]
    variant = "legacy" if name.startswith("legacy") else "current"
    if "tasks" in wanted:
        rows, tasks = slice(None), wanted["tasks"]
    else:
        rows = slice(0, 1)
        task = name.partition("task_")[2].removesuffix("_sample0")
        tasks = (task,) if task else ()
    batch, fused = batch_of(pictures, rows, tasks)
    fused.image.requires_grad_()
    terms = losses.TaskWeighted(variant=variant)(batch, fused)
    total = sum(terms.values())
    close = TOLERANCES["losses"]["rtol"]
    for term, value in {**terms, "total": total}.items():
        assert value.item() == pytest.approx(wanted[term], rel=close, abs=1e-9), term
    if "grad_fused_l2" in wanted:
        total.backward()
        norm = float(fused.image.grad.norm())
        assert norm == pytest.approx(wanted["grad_fused_l2"], rel=TOLERANCES["grad_l2"]["rtol"])


def test_a_degradation_without_weights_is_an_error(pictures):
    with pytest.raises(ValueError, match="no loss weights for the degradation 'low_lihgt'"):
        losses.TaskWeighted()(*batch_of(pictures, slice(0, 1), ("low_lihgt",)))


def test_names_of_the_bench_and_of_the_data_set_find_the_same_row(pictures):
    first, second, third = (
        losses.TaskWeighted()(*batch_of(pictures, slice(0, 1), (task,)))["max"]
        for task in ("ir-noise", "IR_Noise", "ems-ir-noise")
    )
    assert first == second == third


def test_one_training_step_has_the_recorded_gradients(official):
    wanted = VALUES["train_step_b2"]
    given = {name: golden.seeded_input(spec) for name, spec in wanted["inputs"].items()}
    network = official.network.train()
    fused = network.fuse(given["vis"], given["ir"], TextFeatures(pooled=given["text"]))
    batch = Batch(
        visible=given["vis"],
        infrared=given["ir"][:, :1],
        targets={"visible": given["vis_gt"], "infrared": given["ir_gt"]},
        labels={"task": tuple(wanted["tasks"])},
    )
    terms = losses.TaskWeighted()(batch, Fused(image=fused))
    total = sum(terms.values())
    total.backward()
    for term, value in {**terms, "total": total}.items():
        assert value.item() == pytest.approx(wanted[term], rel=1e-4), term
    parameters = dict(network.named_parameters())
    for name, norm in wanted["grad_l2"].items():
        found = float(parameters[name].grad.norm())
        assert found == pytest.approx(norm, rel=TOLERANCES["grad_l2"]["rtol"]), name
    network.zero_grad(set_to_none=True)
    network.eval()


def test_the_learning_rate_follows_the_recorded_factors():
    stage = Stage(steps=1200, warmup=1 / 120)
    for step, factor in VALUES["lr_factor_num_step10_epochs120"].items():
        assert warmup_poly(stage, int(step)) == pytest.approx(factor, abs=1e-9)
    flat = Stage(steps=1200)
    for step, factor in VALUES["lr_factor_no_warmup"].items():
        assert warmup_poly(flat, int(step)) == pytest.approx(factor, abs=1e-9)
    assert textif().rate is warmup_poly


# --------------------------------------------------------------------- pictures before and after


def test_saved_pictures_are_stretched_as_the_recorded_ones():
    for name, spec in MANIFEST["testtime_inputs"].items():
        found = stretch_uint8(golden.seeded_input(spec)[None])[0].permute(1, 2, 0)
        assert torch.equal(found, recorded(f"testtime/{name}"))


def degraded_input():
    specs = MANIFEST["degrade_inputs"]
    rgb = (golden.seeded_input(specs["rgb"])[None] * 255).round()
    drops = golden.seeded_input(specs["noise"])[None, None]
    return rgb, torch.where(drops > specs["noise"]["threshold"], 255.0, 0.0).double()


def near(found, name, atol):
    wanted = recorded(f"degrade/{name}")
    found = found[0].permute(1, 2, 0) if wanted.ndim == 3 else found[0, 0]
    found = found[: len(wanted)].to(torch.float32)
    torch.testing.assert_close(found, wanted.to(torch.float32), atol=atol, rtol=0)


def test_degradations_are_the_recorded_ones():
    rgb, drops = degraded_input()
    grey = TOLERANCES["degrade"]["uint8"]["atol"]
    near(degradations.blur(rgb, 2), "blur_x2", grey)
    near(degradations.blur(rgb, 4), "blur_x4", grey)
    near(degradations.haze(rgb.double() / 255), "haze", TOLERANCES["degrade"]["haze"]["atol"])
    layer = degradations.rain_layer(drops, angle=20)
    near(layer, "rain_layer", grey)
    near(degradations.rain(rgb, layer), "rain", grey)


def test_a_streak_is_as_long_as_half_its_kernel_and_points_where_it_is_told():
    kernel = degradations.streak(0.0)
    column = kernel.sum(0).argmax()
    assert kernel.sum(0)[column] > 0.3 * kernel.sum() / 2
    rows = torch.nonzero(kernel[:, column] > 1e-3)
    assert 30 <= len(rows) <= 40  # the diagonal of 50 pixels, 71 long, at half its size
