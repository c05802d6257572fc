"""The degradations: strengths, chance, words."""

import math

import pytest
import torch
from fusionkit_standard.degradations import BASIC, DEGRADATIONS
from fusionkit_standard.degradations.base import filtered
from fusionkit_standard.scenes import texts
from torch.nn import functional

from fusionkit.errors import BadRequest

NAMES = sorted(DEGRADATIONS)


def picture(name: str, count: int = 3) -> torch.Tensor:
    channels = 3 if DEGRADATIONS[name].modality == "visible" else 1
    return torch.rand(count, channels, 24, 32, generator=torch.Generator().manual_seed(5))


def damage(name, image, severity, seed=0):
    depth = torch.linspace(2, 90, 24).reshape(1, 1, 24, 1).expand(len(image), 1, 24, 32)
    generator = torch.Generator().manual_seed(seed)
    return DEGRADATIONS[name]()(image, severity, generator, depth=depth)


def test_the_basic_ones_are_those_that_the_embedded_encoder_knows_in_its_order():
    assert tuple(BASIC) == texts.DEGRADATION_NAMES
    assert tuple(DEGRADATIONS)[:8] == tuple(BASIC)


def test_the_basic_ones_keep_their_values():
    """The sums of three damaged pictures, and one pixel, as first measured with; see `picture`."""
    kept = {
        "low-light": (1187.378, 0.180556),
        "over-exposure": (5593.870, 1.0),
        "noise": (3409.103, 0.605158),
        "blur": (3418.520, 0.454422),
        "haze": (4586.804, 0.717698),
        "ir-stripes": (1120.827, 0.059732),
        "ir-low-contrast": (1104.673, 0.334718),
        "ir-noise": (1104.723, 0.0),
    }
    for name, (total, pixel) in kept.items():
        result = damage(name, picture(name), torch.tensor([0.3, 0.6, 1.0]))
        assert result.double().sum().item() == pytest.approx(total, abs=2e-3), name
        assert result[1, 0, 5, 7].item() == pytest.approx(pixel, abs=2e-6), name


@pytest.mark.parametrize("name", NAMES)
def test_severity_zero_changes_nothing(name):
    image = picture(name)
    torch.testing.assert_close(damage(name, image, 0.0), image, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_more_severity_does_more_damage_and_stays_in_range(name):
    image = picture(name)
    results = [damage(name, image, severity) for severity in (0.2, 0.6, 1.0)]
    errors = [float((result - image).abs().mean()) for result in results]
    assert errors == sorted(errors) and errors[0] > 0
    for result in results:
        assert result.shape == image.shape and result.dtype == image.dtype
        assert result.min() >= 0 and result.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_all_chance_comes_from_the_generator(name):
    image = picture(name)
    torch.manual_seed(1)
    first = damage(name, image, 0.8)
    torch.manual_seed(2)
    assert torch.equal(first, damage(name, image, 0.8))


@pytest.mark.parametrize("name", NAMES)
def test_one_severity_per_picture_acts_on_its_own_picture(name):
    image = picture(name)
    result = damage(name, image, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(result[0], image[0], atol=2e-6, rtol=0)
    assert (result[2] - image[2]).abs().mean() > 0


@pytest.mark.parametrize("name", NAMES)
def test_facts_name_modality_prompts_statements_and_source(name):
    cls = DEGRADATIONS[name]
    assert cls.name == name and cls.modality in ("visible", "infrared")
    assert 10 <= len(set(cls.prompts)) <= 20 and len(set(cls.held_out)) >= 4
    assert len(cls.statements) >= 2 and cls.source and cls.stage


def test_no_held_out_phrase_is_trained_on_and_no_phrase_asks_for_two_repairs():
    trained = [p for cls in DEGRADATIONS.values() for p in cls.prompts]
    held_out = [p for cls in DEGRADATIONS.values() for p in cls.held_out]
    assert not set(trained) & set(held_out)
    assert len(set(trained)) == len(trained) and len(set(held_out)) == len(held_out)


def test_the_default_experiment_trains_on_the_first_phrases():
    for name, cls in BASIC.items():
        first = texts.repair_prompts(name)
        assert cls.prompts[: len(first)] == first


def test_strengths_are_those_documented():
    grey = torch.full((1, 3, 8, 8), 0.5)
    # 1.8 * 0.5 ** 0.75 + 0.03 = 1.10 is clipped; a darker grey is not.
    dark = torch.full((1, 3, 8, 8), 0.1)
    expected = 1.8 * 0.1**0.75 + 0.03
    assert damage_plain("over-exposure", dark, 0.5).mean().item() == pytest.approx(expected)
    assert damage_plain("over-exposure", grey, 0.5).max().item() == 1.0
    low = damage_plain("low-light", grey, 1.0).mean().item()
    assert low == pytest.approx(0.30 * 0.5**2.5, abs=0.01)
    wide = torch.full((4, 3, 64, 64), 0.5)
    assert damage_plain("noise", wide, 0.5).std().item() == pytest.approx(0.11, rel=0.05)
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    flat = damage_plain("ir-low-contrast", ramp, 1.0)
    assert (flat.std() / ramp.std()).item() == pytest.approx(0.18, rel=1e-4)


def damage_plain(name, image, severity):
    return DEGRADATIONS[name]()(image, severity, torch.Generator().manual_seed(0))


def test_blur_of_a_point_is_the_triangle_of_two_boxes():
    image = torch.zeros(1, 1, 31, 31)
    image[0, 0, 15, 15] = 1.0
    row = DEGRADATIONS["blur"]()(image, 1.0)[0, 0].sum(0)
    box = torch.zeros(31)
    box[12:19] = 1 / 7
    triangle = [sum(float(box[j]) * float(box[i - j + 15]) for j in range(12, 19)
                    if 0 <= i - j + 15 < 31) for i in range(31)]  # fmt: skip
    torch.testing.assert_close(row, torch.tensor(triangle), atol=1e-6, rtol=0)


def test_haze_follows_koschmieder_and_grows_with_depth():
    image = torch.zeros(1, 3, 2, 2)
    depth = torch.tensor([[[[10.0, 10.0], [60.0, 60.0]]]])
    result = DEGRADATIONS["haze"]()(image, 1.0, torch.Generator().manual_seed(0), depth=depth)
    near, far = result[0, 0, 0, 0].item(), result[0, 0, 1, 0].item()
    ratio = (1 - math.exp(-2.1)) / (1 - math.exp(-2.1 / 6))
    assert far / near == pytest.approx(ratio, rel=1e-4)
    assert 0.70 <= far / (1 - math.exp(-2.1)) <= 0.92


def test_haze_without_depth_says_what_is_missing():
    with pytest.raises(ValueError, match=r"depth=\(B, 1, H, W\)"):
        DEGRADATIONS["haze"]()(picture("haze"), 0.5)


def test_stripes_are_equal_along_each_column():
    image = torch.full((2, 1, 16, 16), 0.5)
    result = DEGRADATIONS["ir-stripes"]()(image, 0.7, torch.Generator().manual_seed(0))
    torch.testing.assert_close(result, result[:, :, :1].expand_as(result))
    assert result.std(dim=3).min() > 0.02


@pytest.mark.parametrize(
    ("severity", "reason"),
    [(1.2, "lies in"), (-0.1, "lies in"), (torch.zeros(2), "one per picture"),
     (float("nan"), "lies in")],
)  # fmt: skip
def test_wrong_severities_are_refused(severity, reason):
    with pytest.raises(ValueError, match=reason):
        DEGRADATIONS["noise"]()(picture("noise"), severity)


def test_integer_pictures_are_refused():
    with pytest.raises(ValueError, match="float image"):
        DEGRADATIONS["noise"]()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 0.5)


# ---------------------------------------------------------------------------- beside the eight


def point(size: int = 41) -> torch.Tensor:
    image = torch.zeros(1, 1, size, size)
    image[0, 0, size // 2, size // 2] = 1.0
    return image


def test_every_picture_is_filtered_by_its_own_kernel_as_a_convolution_layer_would():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 20, 17, generator=generator)
    kernels = torch.rand(2, 5, 9, generator=generator)
    result = filtered(image, kernels, "reflect")
    for row in range(2):
        padded = functional.pad(image[row, :, None], (4, 4, 2, 2), mode="reflect")
        expected = functional.conv2d(padded, kernels[row][None, None])[:, 0]
        torch.testing.assert_close(result[row], expected, atol=1e-5, rtol=0)


def test_point_spreads_have_the_documented_width():
    spread = DEGRADATIONS["gaussian-blur"]()(point(), 0.5)[0, 0]
    places = torch.arange(41.0) - 20
    assert (spread.sum(0) * places**2).sum().item() == pytest.approx(4.0, rel=0.02)  # 2 pixels
    disc = DEGRADATIONS["defocus"]()(point(), 0.5)[0, 0]
    assert 1 / disc.max().item() == pytest.approx(math.pi * 9, rel=0.05)
    assert disc[20, 24] < 1e-6 < disc[20, 23]  # radius 3
    for seed in range(3):
        smear = DEGRADATIONS["motion-blur"]()(point(), 1.0, torch.Generator().manual_seed(seed))
        rows, columns = (smear[0, 0] > 1e-4).nonzero().T.float()
        extent = math.hypot(rows.max() - rows.min(), columns.max() - columns.min())
        assert extent == pytest.approx(21, abs=2.5)
        assert smear.sum().item() == pytest.approx(1.0, abs=1e-4)


def test_photon_noise_has_the_variance_of_counted_photons():
    grey = torch.full((8, 1, 64, 64), 0.5)
    noisy = DEGRADATIONS["poisson-noise"]()(grey, 0.4, torch.Generator().manual_seed(0))
    assert noisy.mean().item() == pytest.approx(0.5, abs=0.003)
    assert noisy.var().item() == pytest.approx(0.5 * 0.4 / 20, rel=0.1)


def test_downsampling_leaves_nothing_finer_than_its_factor():
    stripes = (torch.arange(64) % 2).float().expand(1, 1, 64, 64)
    assert DEGRADATIONS["downsample"]()(stripes, 1.0)[..., 8:-8].std() < 0.02


@pytest.mark.parametrize("codec", ["file", "kornia"])
def test_compression_makes_blocks(codec):
    if codec == "kornia":
        pytest.importorskip("kornia", reason="needs the extra 'data'")
    image = torch.linspace(0.4, 0.6, 64).expand(2, 3, 64, 64)  # too slow to survive in a block
    coded = DEGRADATIONS["jpeg"](codec=codec)(image, torch.tensor([0.0, 1.0]))
    assert torch.equal(coded[0], image[0])
    step = (coded[1].diff(dim=-1)).abs().mean((0, 1))
    borders = torch.arange(63) % 8 == 7
    assert step[borders].mean() > 3 * step[~borders].mean()


def test_both_codecs_of_jpeg_agree_within_some_grey_levels():
    pytest.importorskip("kornia", reason="needs the extra 'data'")
    image = functional.interpolate(picture("jpeg"), scale_factor=2, mode="bilinear")
    file, kornia = (DEGRADATIONS["jpeg"](codec=c)(image, 0.7) for c in ("file", "kornia"))
    assert (file - kornia).abs().mean() < 6 / 255 < (file - image).abs().mean()


def test_a_codec_that_nobody_knows_and_a_modality_that_is_none_are_refused():
    with pytest.raises(BadRequest, match="file and kornia"):
        DEGRADATIONS["jpeg"](codec="mp4")
    with pytest.raises(BadRequest, match="visible or the infrared"):
        DEGRADATIONS["defocus"](modality="radar")


def test_damage_of_either_camera_speaks_of_the_picture_it_is_made_for():
    thermal = DEGRADATIONS["motion-blur"](modality="infrared")
    assert thermal.modality == "infrared"
    assert "remove the motion blur of the infrared image" in thermal.prompts
    assert DEGRADATIONS["motion-blur"]().modality == "visible"
    assert "remove the motion blur of the visible image" in DEGRADATIONS["motion-blur"].prompts
    dark = torch.rand(2, 1, 24, 32, generator=torch.Generator().manual_seed(5))
    assert thermal(dark, 0.5).shape == dark.shape


def test_rain_falls_within_thirty_degrees_of_upright_and_brightens():
    dark = torch.zeros(6, 3, 96, 96)
    rain = damage("rain", dark, 1.0)
    down, across = (rain.diff(dim=d).abs().mean((1, 2, 3)) for d in (2, 3))
    assert (down < 0.7 * across).all()  # streaks change slowly along themselves
    assert rain.max() <= 0.9 and rain.mean() > 0.08
    assert not torch.equal(rain[0], rain[1])


def test_more_snow_keeps_the_flakes_there_are_and_adds_others():
    dark = torch.zeros(1, 3, 96, 96)
    little, much = (damage("snow", dark, severity) for severity in (0.4, 1.0))
    assert (much >= little - 1e-5).all() and much.mean() > 1.5 * little.mean()


def test_flare_lies_around_the_brightest_place():
    image = torch.full((2, 3, 64, 96), 0.2)
    image[0, :, 10:13, 20:23] = 1.0
    image[1, :, 50:53, 70:73] = 1.0
    light = (damage("flare", image, 0.4) - image).mean(1)
    for row, (y, x) in enumerate(((11, 15), (51, 65))):
        assert light[row, y, x] > 0.2 > light[row, 63 - y, 95 - x]


def test_dead_pixels_are_as_many_black_as_white_and_alike_in_every_channel():
    grey = torch.full((4, 3, 128, 128), 0.5)
    defect = damage("ir-dead-pixels", grey, 1.0)
    changed = defect != 0.5
    assert torch.equal(changed[:, 0], changed[:, 2])
    assert changed[:, 0].float().mean().item() == pytest.approx(0.01, rel=0.2)
    assert (defect == 1).sum().item() == pytest.approx((defect == 0).sum().item(), rel=0.3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_the_same_damage_from_the_same_generator(name):
    image = picture(name)
    depth = torch.linspace(2, 90, 24).reshape(1, 1, 24, 1).expand(3, 1, 24, 32)
    results = [
        DEGRADATIONS[name]()(
            image.to(device), 0.8, torch.Generator().manual_seed(3), depth=depth.to(device)
        ).cpu()
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(*results, atol=1e-4, rtol=0)
