"""The network against recorded outputs of the released code, and what it promises beside them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fusionkit_textfusion.modulation import AffineFusion, add_shifted
from fusionkit_textfusion.network import TextFusion, relative_positions, statistics
from fusionkit_textfusion.official import IDLE, official, official_network

import fusionkit as fk
from fusionkit.batch import Batch, TextFeatures
from fusionkit.capture import capture
from fusionkit.data import read_image, write_image
from fusionkit.errors import BadRequest
from fusionkit.fusing import fuse_files
from fusionkit.testing import golden, tiny_pairs

HERE = Path(__file__).with_name("golden")
GOLDEN = golden.folder("textfusion", HERE)
MANIFEST, OUTPUTS = golden.read(GOLDEN / "manifest.json"), np.load(GOLDEN / "outputs.npz")
REAL = GOLDEN / "real"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="the authors' weights and pair are not beside the checkout"
)


def recorded(key: str) -> torch.Tensor:
    return torch.from_numpy(OUTPUTS[key])


def inputs(case: str) -> dict[str, torch.Tensor]:
    return {name: golden.seeded_input(spec) for name, spec in MANIFEST["cases"][case].items()}


@pytest.fixture(scope="module")
def seeded():
    return fk.load_official("textfusion", golden.seeded_state(MANIFEST))


@pytest.fixture(scope="module")
def authors():
    with np.load(REAL / "weights_textfusion_llvip.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


@pytest.mark.parametrize("case", MANIFEST["cases"])
@pytest.mark.parametrize("way", ["folded", "banded", "plain"])
@torch.no_grad()
def test_every_recorded_picture_is_reproduced(seeded, case, way):
    seeded.network.fold, seeded.network.band = way != "plain", 8 if way == "banded" else None
    fused = seeded(**inputs(case))
    torch.testing.assert_close(fused, recorded(f"{case}/fused"), **MANIFEST["tolerances"]["fused"])


@torch.no_grad()
def test_every_recorded_step_inside_is_reproduced(seeded):
    network, given = seeded.network, inputs("small24x40")
    network.fold, network.band = True, None
    names = (
        "block.visible.projection", "block.visible.feed_forward",
        "block.infrared.feed_forward", "affine", "out",
    )  # fmt: skip
    with capture(network, names) as maps:
        seeded(**given)
        maps = dict(maps)
    v = network.embed_visible(given["vis"])
    _, rescale, rebias = network.block.visible.norm(v, statistics([v]))
    found = {
        "norm_vis_rescale": rescale,
        "norm_vis_rebias": rebias,
        "embed_vis": v,
        "attention_vis": maps["block.visible.projection"],
        "block_vis": maps["block.visible.feed_forward"],
        "block_ir": maps["block.infrared.feed_forward"],
        "affine_channel_mean": maps["affine"].mean((2, 3)),
        "affine_ch0_32": maps["affine"][:, :32],
        "logits": maps["out"],
    }
    checked = 0
    for name, values in found.items():
        if f"small24x40/{name}" in OUTPUTS:
            expected = recorded(f"small24x40/{name}")
            if values.shape != expected.shape:  # the compact recording keeps every fourth channel
                values = values[:, ::4]
            torch.testing.assert_close(values, expected, **MANIFEST["tolerances"]["intermediates"])
            checked += 1
    assert checked >= 7
    bias = network.block.attention.bias()[:, ::8, ::8]
    torch.testing.assert_close(bias, recorded("relative_bias"), rtol=1e-4, atol=1e-5)
    table = relative_positions(8)[:8]
    torch.testing.assert_close(table, recorded("relative_positions"), rtol=0, atol=1e-6)


def test_gradients_and_one_training_step_are_those_of_the_released_code():
    expected = golden.read(GOLDEN / "losses.json")["values"]["train_step_small24x40"]
    network, given = official(golden.seeded_state(MANIFEST)), inputs("small24x40")

    def loss():
        fused = network(**given)
        return (fused - given["ir"]).square().mean() + (fused - given["vis"]).square().mean()

    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    before = loss()
    before.backward()
    ours = {
        "patch_embed.proj.weight": "embed_visible.conv.weight",
        "patch_embed2.proj.weight": "embed_infrared.conv.weight",
        "layer1.blocks.0.attn.QK.weight": "block.visible.questions.weight",
        "layer1.blocks.0.attn.ass_V.weight": "block.infrared.values.weight",
        "layer1.blocks.0.attn.attn.meta.0.weight": "block.attention.meta.0.weight",
        "fuse_text_image.mlp_vis.2.weight": "affine.visible.2.weight",
        "fuse_text_image.mlp_ir.2.weight": "affine.infrared.2.weight",
        "patch_unembed1.proj.0.weight": "out.weight",
    }
    parameters = dict(network.network.named_parameters())
    for theirs, length in expected["grad_l2"].items():
        assert float(parameters[ours[theirs]].grad.norm()) == pytest.approx(length, rel=1e-3)
    optimizer.step()
    assert float(before.detach()) == pytest.approx(expected["before"], rel=1e-4)
    after = expected["after_one_adam_step_lr1e-4"]
    assert float(loss().detach()) == pytest.approx(after, rel=1e-4)
    assert set(expected["no_gradient"]) == set(IDLE)


def test_the_network_has_the_parameters_that_learn_in_the_paper(seeded):
    count = sum(parameter.numel() for parameter in seeded.network.parameters())
    assert count == MANIFEST["parameters"]["reached_by_gradient"]


def test_a_state_dict_that_does_not_fit_is_refused_by_name():
    state = golden.seeded_state(MANIFEST)
    with pytest.raises(BadRequest, match=r"lacks patch_embed\.proj\.bias"):
        official({k: v for k, v in state.items() if k != "patch_embed.proj.bias"})
    with pytest.raises(BadRequest, match="unknown are surplus"):
        official(state | {"surplus": torch.zeros(1)})
    with pytest.raises(BadRequest, match=r"patch_merge1\.proj\.bias is \(3,\)"):
        official(state | {"patch_merge1.proj.bias": torch.zeros(3)})


def test_prefixes_and_wrappers_of_saved_models_are_taken_off():
    state = golden.seeded_state(MANIFEST)
    wrapped = official_network({"state_dict": {f"module.{k}": v for k, v in state.items()}})
    torch.testing.assert_close(wrapped.state_dict(), official_network(state).state_dict())


def test_the_infrared_stream_may_have_its_own_attention():
    state, given = golden.seeded_state(MANIFEST), inputs("small24x40")
    with torch.no_grad():
        borrowed, own = (official(state, infrared_attention=way) for way in ("visible", "own"))
        assert not torch.allclose(borrowed(**given), own(**given), atol=1e-4)
    assert own.network.block.infrared.questions is not None


@torch.no_grad()
def test_colour_is_kept_and_grey_stays_grey(seeded):
    pair = tiny_pairs(1, (45, 70))[0]
    text = TextFeatures(pooled=inputs("small24x40")["text"])
    batch = Batch(visible=pair.visible[None], infrared=pair.infrared[None], text=text)
    luma = seeded.network(batch).maps["luma"]
    red, green, blue = batch.visible.split(1, 1)
    cr = 0.5 * red - 0.419 * green - 0.081 * blue
    expected = (luma + 1.402 * cr).clamp(0, 1)
    torch.testing.assert_close(seeded.network(batch).image[:, :1], expected)
    grey = seeded.network(batch.replace(visible=red.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(grey.image, grey.maps["luma"].expand(-1, 3, -1, -1))


def test_pictures_of_different_sizes_are_refused(seeded):
    with pytest.raises(ValueError, match="one size"):
        seeded(vis=torch.zeros(1, 1, 16, 16), ir=torch.zeros(1, 1, 16, 20), text=torch.ones(1, 512))


@pytest.mark.parametrize("size", [(5, 5), (9, 13), (31, 64)])
@torch.no_grad()
def test_any_size_from_five_pixels_comes_back_as_it_went_in(seeded, size):
    pictures = torch.rand(2, 1, 1, *size)
    text = torch.ones(1, 512)
    assert seeded(vis=pictures[0], ir=pictures[1], text=text).shape == (1, 1, *size)


@torch.no_grad()
def test_the_folded_unit_is_the_unit_with_one_text_or_one_per_picture():
    torch.manual_seed(0)
    unit = AffineFusion(channels=6, text_dim=16, out_channels=16, project=False, residual=False)
    out = torch.nn.Conv2d(16, 1, 3, padding=1, padding_mode="reflect")
    v, a = torch.randn(2, 2, 6, 9, 11).unbind()
    for count in (1, 2):
        text = TextFeatures(pooled=torch.randn(count, 16))
        folded = add_shifted(unit.taps(v, a, unit.kernels(text, out))) + out.bias
        torch.testing.assert_close(folded, out(unit(v, a, text, {})), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("height", [20, 25, 32, 40])
@torch.no_grad()
def test_bands_change_nothing_whatever_is_left_for_the_last(seeded, height):
    visible, infrared = torch.rand(2, 1, 1, height, 24)
    text, network = torch.randn(1, 512), seeded.network
    network.fold, network.band = True, 8
    banded = seeded(vis=visible, ir=infrared, text=text)
    network.band = None
    torch.testing.assert_close(banded, seeded(vis=visible, ir=infrared, text=text))


@torch.no_grad()
def test_the_scheme_of_the_ablation_is_not_folded_away():
    """The unit with residuals, as other networks have it, is another function than the paper's."""
    torch.manual_seed(0)
    network = TextFusion(
        text_dim=16, modulation=lambda channels: AffineFusion(channels=channels, text_dim=16)
    ).eval()
    pictures, text = torch.rand(2, 1, 1, 16, 24), TextFeatures(pooled=torch.randn(1, 16))
    with capture(network, ("affine", "out")):
        expected = network.fuse_luma(*pictures, text)
    torch.testing.assert_close(network.fuse_luma(*pictures, text), expected)


def test_another_scheme_can_stand_in_the_unit():
    recipe = fk.Registry.from_environment().create("recipe", "textfusion")
    from fusionkit.methods import Method

    changed = recipe.with_overrides({"encoder": "tiny-clip", "modulation": "film"})
    method = Method(changed, fk.Registry.from_environment())
    pair = tiny_pairs(1, (24, 40))[0]
    fused = method.fuse(pair.infrared[None], pair.visible[None], "a person")
    assert fused.shape == (1, 3, 24, 40)
    assert type(method.network.affine).__name__ == "Film"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
def test_a_gpu_in_bfloat16_gives_the_same_picture(seeded):
    given = {name: value.cuda() for name, value in inputs("odd45x70").items()}
    with torch.autocast("cuda", torch.bfloat16):
        fused = seeded.cuda()(**given).cpu()
    seeded.cpu()
    torch.testing.assert_close(fused, recorded("odd45x70/fused"), rtol=0, atol=0.05)


@needs_real
@torch.no_grad()
def test_the_authors_weights_give_the_recorded_crops(authors):
    network, numbers = official(authors), np.load(REAL / "real.npz")
    facts = golden.read(REAL / "manifest.json")
    rows = slice(facts["crop"]["y0"], facts["crop"]["y0"] + facts["crop"]["height"])
    columns = slice(facts["crop"]["x0"], facts["crop"]["x0"] + facts["crop"]["width"])
    ir = read_image(REAL / "llvip_sample_ir.png", 1)[None, :, rows, columns]
    visible = read_image(REAL / "llvip_sample_vis.png", 3)[None, :, rows, columns]
    text = torch.from_numpy(numbers["text_equivalent"])
    batch = Batch(visible=visible, infrared=ir, text=TextFeatures(pooled=text))
    fused = network.network(batch)
    tolerance = facts["tolerances"]["crop"]["atol"]
    expected = torch.from_numpy(numbers["crop_colour/fused_y_text_equivalent"])
    torch.testing.assert_close(fused.maps["luma"], expected, rtol=0, atol=tolerance)
    eight = (fused.image[0] * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(eight - numbers["crop_colour/rgb_uint8"]).max() <= 1


@needs_real
def test_the_command_with_the_authors_file_gives_the_recorded_picture(authors, tmp_path):
    """The authors' file as a checkpoint, on the whole pair, under given text features."""
    file = tmp_path / "LLVIP_pretrained.model"
    torch.save(authors, file)
    features = tmp_path / "sentence.npz"
    np.savez(features, pooled=np.load(REAL / "real.npz")["text_equivalent"])
    red, green, blue = (read_image(REAL / "llvip_sample_vis.png", 3) * 255).round().long()
    # As libpng turns colour into grey, which is how the authors read it: fixed point, cut off.
    grey = (9797 * red + 19234 * green + 3737 * blue) >> 15
    visible = write_image(tmp_path / "visible.png", grey[None] / 255)
    fuse_files(
        REAL / "llvip_sample_ir.png",
        visible,
        tmp_path / "fused.png",
        recipe="textfusion",
        checkpoint=file,
        text_features=features,
    )
    fused = read_image(tmp_path / "fused.png", 3) * 255
    expected = read_image(REAL / "fused_gray_text_equivalent.png", 1) * 255
    difference = (fused - expected).abs().round()
    assert difference.max() <= 1 and difference.mean() < 1e-4
