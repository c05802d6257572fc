"""The loss terms against recorded values, and their limits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fusionkit_textfusion.densefuse import DenseFuseEncoder
from fusionkit_textfusion.losses import RegionIntensity, SaliencyWeightedMse
from torch.nn.functional import interpolate

from fusionkit.batch import Batch, Fused
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.testing import golden

HERE = Path(__file__).with_name("golden")
GOLDEN = golden.folder("textfusion", HERE)
MANIFEST, OUTPUTS = golden.read(GOLDEN / "manifest.json"), np.load(GOLDEN / "outputs.npz")
LOSSES = golden.read(GOLDEN / "losses.json")
VALUES, RTOL = LOSSES["values"], MANIFEST["tolerances"]["losses"]["rtol"]
REAL = GOLDEN / "real" / "weights_densefuse.npz"


@pytest.fixture(scope="module")
def densefuse():
    seeded = golden.seeded_state(MANIFEST["densefuse_tensors"])
    return {key.removeprefix("densefuse."): value for key, value in seeded.items()}


@pytest.fixture(scope="module")
def saliency(tmp_path_factory):
    file = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    seeded = golden.seeded_state(MANIFEST["vgg_tensors"])
    torch.save({key.removeprefix("vgg."): value for key, value in seeded.items()}, file)
    return SaliencyWeightedMse(saliency="vgg19", weights=file)


@pytest.fixture
def given():
    inputs = {name: golden.seeded_input(spec) for name, spec in LOSSES["inputs"].items()}
    region = (inputs["association"] > LOSSES["inputs"]["association"]["threshold"]).float()

    def half(x):
        return interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)

    luma = inputs["fused"].requires_grad_()
    batch = Batch(
        visible=half(inputs["vis"]).expand(-1, 3, -1, -1),
        infrared=half(inputs["ir"]),
        guides={"association": half(region)},
    )
    return batch, Fused(luma.expand(-1, 3, -1, -1), maps={"luma": luma})


def of_region(batch, value):
    return batch.replace(guides={"association": torch.full_like(batch.infrared, value)})


@pytest.mark.parametrize("which", ["seeded", "real"])
def test_every_recorded_value_of_the_loss_is_reproduced(which, given, densefuse, saliency):
    if which == "real":
        if not REAL.is_file():
            pytest.skip("the weights of DenseFuse are not beside the checkout")
        densefuse = {key: torch.from_numpy(value) for key, value in np.load(REAL).items()}
    batch, fused = given
    expected = VALUES[f"densefuse_{which}"]
    region = RegionIntensity(weights=densefuse)
    terms = {**region(batch, fused), **saliency(batch, fused)}
    for name in ("interested", "non_interested"):
        assert float(terms[name].detach()) == pytest.approx(expected[name], rel=RTOL)
    total = sum(terms.values())
    assert float(total.detach()) == pytest.approx(expected["total"], rel=RTOL)
    (gradient,) = torch.autograd.grad(total, fused.maps["luma"])
    assert float(gradient.norm()) == pytest.approx(expected["grad_fused_l2"], rel=1e-3)
    weight = torch.sigmoid(region.activity(batch.infrared) - region.activity(batch.visible[:, :1]))
    if f"loss/weight_ir_{which}" in OUTPUTS:
        recorded = torch.from_numpy(OUTPUTS[f"loss/weight_ir_{which}"])
        torch.testing.assert_close(weight, recorded, rtol=1e-4, atol=1e-5)
    # The two halves of each term, from the same weights.
    luma, mask = fused.maps["luma"].detach(), batch.guides["association"]
    halves = {
        "interested_ir": mask * weight * (luma - batch.infrared),
        "interested_vis": mask * (1 - weight) * (luma - batch.visible[:, :1]),
        "non_interested_mse_ir": (1 - mask) * (luma - batch.infrared),
        "non_interested_mse_vis": (1 - mask) * (luma - batch.visible[:, :1]),
    }
    for name, difference in halves.items():
        assert float(difference.square().mean()) == pytest.approx(expected[name], rel=RTOL)


def test_every_recorded_saliency_is_reproduced(given, saliency):
    batch, _ = given
    expected, rest = VALUES["non_interested"], 1 - batch.guides["association"]
    for name, picture in (("ir", batch.infrared), ("vis", batch.visible[:, :1])):
        levels = saliency.saliency(picture, rest)[:, 0]
        recorded = [level[name] for level in expected["per_level"]]
        assert levels.tolist() == pytest.approx(recorded, rel=1e-3)
        mean = float(levels.mean()) / 4000
        assert mean == pytest.approx(expected[f"saliency_{name}"], rel=1e-3)
    weight = saliency.weight(batch.infrared, batch.visible[:, :1], rest)
    assert float(weight) == pytest.approx(expected["weight_ir"], rel=RTOL)
    for level in expected["per_level"]:
        assert float(rest.sum()) == pytest.approx(level["mask_sum"])
        rest = interpolate(rest, scale_factor=0.5, mode="nearest")


@pytest.mark.parametrize(("value", "limit"), [(1.0, "ones"), (0.0, "zeros")])
def test_maps_that_mark_everything_or_nothing(value, limit, given, densefuse, saliency):
    batch, fused = given
    batch, expected = of_region(batch, value), VALUES[f"association_{limit}"]
    terms = RegionIntensity(weights=densefuse)(batch, fused) | saliency(batch, fused)
    for name, found in terms.items():
        assert float(found.detach()) == pytest.approx(expected[name], rel=RTOL, abs=1e-12)
    rest = 1 - batch.guides["association"]
    weight = saliency.weight(batch.infrared, batch.visible[:, :1], rest)
    assert float(weight) == pytest.approx(expected["weight_ir"], rel=RTOL)


def test_the_densefuse_encoder_is_the_recorded_one(densefuse):
    found = DenseFuseEncoder.from_official(densefuse)(
        golden.seeded_input(MANIFEST["densefuse_input"])
    )
    expected = torch.from_numpy(OUTPUTS["densefuse/encoder_seeded"])
    found = found if found.shape == expected.shape else found[:, ::4]
    torch.testing.assert_close(found, expected, **MANIFEST["tolerances"]["intermediates"])


def test_each_pair_of_a_batch_counts_by_itself(given, densefuse, saliency):
    batch, fused = given
    twice = Batch(
        visible=torch.cat([batch.visible, batch.visible.flip(-1)]),
        infrared=torch.cat([batch.infrared, batch.infrared.flip(-1)]),
        guides={"association": torch.cat([batch.guides["association"]] * 2)},
    )
    luma = torch.cat([fused.maps["luma"]] * 2)
    one = saliency(batch, fused)["non_interested"]
    mirrored = batch.replace(visible=batch.visible.flip(-1), infrared=batch.infrared.flip(-1))
    other = saliency(mirrored, fused)["non_interested"]
    both = saliency(twice, Fused(luma.expand(-1, 3, -1, -1), maps={"luma": luma}))
    torch.testing.assert_close(both["non_interested"], (one + other) / 2)


def test_without_weights_the_substitutes_say_that_they_are_none(given):
    batch, fused = given
    with pytest.warns(UserWarning, match="brightness stands in for activity"):
        region = RegionIntensity()
    rest = SaliencyWeightedMse(saliency="laplacian")
    assert all(value > 0 for value in (region(batch, fused) | rest(batch, fused)).values())
    sharp = batch.replace(visible=torch.full_like(batch.visible, 0.5))
    weight = rest.weight(sharp.infrared, sharp.visible[:, :1], torch.ones_like(sharp.infrared))
    assert float(weight) > 0.999  # all structure is in the infrared picture
    with pytest.raises(MissingWeights, match=r"DenseFuse\.model"):
        RegionIntensity(activity="densefuse")
    with pytest.raises(BadRequest, match="no weights of DenseFuse"):
        RegionIntensity(weights={"conv1.conv2d.weight": torch.zeros(1)})


def test_without_a_region_the_loss_says_what_is_missing(given):
    batch, fused = given
    with pytest.raises(ValueError, match="guide 'association'"):
        SaliencyWeightedMse(saliency="laplacian")(batch.replace(guides={}), fused)
