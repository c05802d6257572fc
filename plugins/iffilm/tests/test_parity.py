"""The network and its losses against recorded outputs of the released code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fusionkit_iffilm import restormer, scan
from fusionkit_iffilm.losses import Gradient, Intensity, LpSsim, mef_ssim, sobel, sources, ssim
from fusionkit_iffilm.network import stretch
from fusionkit_iffilm.official import our_name

import fusionkit as fk
from fusionkit.batch import Batch, Fused
from fusionkit.capture import capture
from fusionkit.errors import BadRequest
from fusionkit.testing import golden

HERE = Path(__file__).with_name("golden")
GOLDEN = golden.folder("iffilm", HERE)
MANIFEST, OUTPUTS = golden.read(GOLDEN / "manifest.json"), np.load(GOLDEN / "outputs.npz")
LOSSES = golden.read(GOLDEN / "losses.json")
TOLERANCES = MANIFEST["tolerances"]
STATE = golden.seeded_state(MANIFEST)


def inputs(case: str) -> dict[str, torch.Tensor]:
    return {name: golden.seeded_input(spec) for name, spec in MANIFEST["cases"][case].items()}


def check(found: torch.Tensor, key: str, tolerance: str = "intermediates") -> None:
    """Equal to a recording, of which the compact one holds some channels or rows only."""
    expected = torch.from_numpy(OUTPUTS[key])
    if found.ndim > 2 and found.shape[1] != expected.shape[1]:
        found = found[:, :: -(-found.shape[1] // expected.shape[1])]
    torch.testing.assert_close(found, expected, **TOLERANCES[tolerance])


@pytest.fixture(scope="module")
def released():
    return fk.load_official("iffilm", STATE)


@pytest.mark.parametrize("case", MANIFEST["cases"])
@torch.no_grad()
def test_every_recorded_picture_is_reproduced(released, case):
    check(released(**inputs(case)), f"{case}/fused", "fused")


@torch.no_grad()
def test_strips_and_groups_of_channels_change_nothing(released, monkeypatch):
    monkeypatch.setattr(restormer, "STRIP", 300)
    monkeypatch.setattr(restormer, "GROUP", 16)
    monkeypatch.setattr(scan, "CHUNK", 500_000)
    check(released(**inputs("small24x40")), "small24x40/fused", "fused")


@torch.no_grad()
def test_the_picture_of_the_test_script_is_reproduced(released):
    grey = stretch(released(**inputs("rect96x128")))[0, 0]
    found = (grey * 255).to(torch.uint8).int()
    expected = torch.from_numpy(OUTPUTS["rect96x128/test_time_uint8"]).int()
    assert (found - expected).abs().max() <= TOLERANCES["test_time_uint8"]["atol"]


@torch.no_grad()
def test_every_recorded_step_inside_is_reproduced(released):
    network, given = released.network, inputs("small24x40")
    sides = {"A": "infrared", "B": "visible"}
    watched = [
        f"blocks.{i}.{side}.{part}"
        for i in range(3)
        for side in sides.values()
        for part in ("restormer", "merge_activation")
    ]
    watched += ["text_process", "decoder.restormer1", "decoder.restormer3", "decoder.out"]
    with capture(network, watched) as maps:
        _, drawn = network.fuse_grey(given["ir"], given["vis"], given["text"])
        maps = dict(maps)
    check(maps["text_process"], "small24x40/text_hidden")
    for letter, side in sides.items():
        check(maps[f"blocks.0.{side}.restormer"], f"small24x40/block1_restormer{letter}")
        for i in range(3):
            joined = maps[f"blocks.{i}.{side}.merge_activation"]
            check(joined, f"small24x40/block{i + 1}_feat{letter}")
            gate = drawn[f"block{i + 1}.{side}.gate"].flatten(1)[:, None, : scan.WIDTH]
            check(gate, f"small24x40/block{i + 1}_gate{letter}")
    for name in ("restormer1", "restormer3"):
        check(maps[f"decoder.{name}"], f"small24x40/decoder_{name}")
    check(maps["decoder.out"], "small24x40/logits")


@torch.no_grad()
def test_the_mean_taken_first_is_the_attention_of_the_paper(released):
    network, given = released.network, inputs("small24x40")
    asked = network.text_process(given["text"])
    block = network.blocks[0]
    for letter, side in (("A", "infrared"), ("B", "visible")):
        picture = given["ir" if side == "infrared" else "vis"]
        feature = getattr(block, side).features(picture)
        point = getattr(block.point, side)
        on_grid = scan.pointwise_and_resize(point.into, feature, point.grid).contiguous()
        strips = on_grid.view(1, -1, scan.WIDTH)
        check(strips[:, ::256], f"small24x40/block1_kv{letter}_every256")
        plain = point.attention(asked, strips, strips, need_weights=False)[0]
        check(plain, f"small24x40/block1_attn{letter}")
        weight = scan.token_weight(asked, None)
        gate = point.answer(strips, point.ask(strips, asked, weight))
        mean = plain.mean(1)
        torch.testing.assert_close(
            gate, mean / mean.abs().sum(-1, keepdim=True), rtol=1e-4, atol=1e-7
        )


def test_every_recorded_loss_is_reproduced():
    values = LOSSES["values"]
    given = {name: golden.seeded_input(spec) for name, spec in LOSSES["inputs"].items()}
    batch, fused = Batch(visible=given["vis"], infrared=given["ir"]), Fused(image=given["fused"])
    gradient = Gradient()(batch, fused)["gradient"]
    ir, vis = sources(batch)
    edges = sobel(ir)
    found = [
        (ssim(ir, given["fused"]), values["lp_ssim_ir"]["ssim"]),
        (ssim(vis, given["fused"]), values["lp_ssim_vis"]["ssim"]),
        (edges.mean(), values["sobel_ir"]["mean"]),
        (edges.max(), values["sobel_ir"]["max"]),
        (edges[0, 0, 0, 0], values["sobel_ir"]["corner_0_0"]),
        (
            LpSsim()(batch, fused)["lp_ssim"],
            values["lp_ssim_ir"]["total"] + values["lp_ssim_vis"]["total"],
        ),
        (
            Intensity(target="mean", power=2)(batch, fused)["intensity"],
            values["intensity_mean_l2"],
        ),
        (
            mef_ssim(given["fused"], (ir, vis))[0],
            values["mef_ssim_structure_only_sample0"],
        ),
    ]
    for target in ("max", "mean"):
        recorded = values[f"fusion_{target}_cg20"]
        intensity = Intensity(target=target)(batch, fused)["intensity"]
        found += [
            (intensity, recorded["intensity"]),
            (gradient, recorded["gradient"]),
            (intensity + 20 * gradient, recorded["total"]),
        ]
    for value, expected in found:
        torch.testing.assert_close(float(value), expected, atol=1e-6, **TOLERANCES["losses"])


def test_a_step_of_training_has_the_recorded_gradients():
    recorded = LOSSES["values"]["train_step_small24x40"]
    released = fk.load_official("iffilm", STATE)
    given = inputs("small24x40")
    grey = released.train()(**given)
    batch = Batch(visible=given["vis"], infrared=given["ir"])
    fused = Fused(image=grey, maps={"grey": grey})
    total = Intensity()(batch, fused)["intensity"] + 20 * Gradient()(batch, fused)["gradient"]
    torch.testing.assert_close(
        float(total.detach()), recorded["loss_total"], atol=0, **TOLERANCES["losses"]
    )
    total.backward()
    ours = dict(released.network.named_parameters())
    assert all(parameter.grad is not None for parameter in ours.values())
    for name, expected in recorded["grad_l2"].items():
        found = float(ours[our_name(name)].grad.norm())
        torch.testing.assert_close(found, expected, atol=0, **TOLERANCES["grad_l2"])


def test_released_files_are_read_with_their_wrapper(tmp_path):
    file = tmp_path / "IVF.pth"
    wrapped = {f"module.{name}": value for name, value in STATE.items()}
    torch.save({"model": wrapped, "epoch": 149, "step": 1}, file)
    network = fk.load_official("iffilm", file).network
    assert sum(p.numel() for p in network.parameters()) == MANIFEST["parameters"]
    torch.testing.assert_close(network.decoder.out.weight, STATE["conv2.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv1.bias"), "1 missing.*decoder.reduce.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unknown: extra"),
        (lambda s: s.update({"conv2.bias": torch.zeros(2)}), r"another size: conv2.bias \(2,\)"),
        (lambda s: s.pop("text_process.conv.weight"), "no weights of IF-FILM"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change, message):
    state = dict(STATE)
    change(state)
    with pytest.raises(BadRequest, match=message):
        fk.load_official("iffilm", state)


def test_every_released_name_has_a_place_and_no_two_share_one():
    network = fk.load_official("iffilm", STATE).network
    assert sorted(map(our_name, MANIFEST["tensors"])) == sorted(network.state_dict())
