"""The eight degradations."""

import math

import pytest
import torch
from fusionkit_standard.degradations import DEGRADATIONS
from fusionkit_standard.scenes import texts

NAMES = sorted(DEGRADATIONS)


def picture(name: str, count: int = 3) -> torch.Tensor:
    channels = 3 if DEGRADATIONS[name].modality == "visible" else 1
    return torch.rand(count, channels, 24, 32, generator=torch.Generator().manual_seed(5))


def damage(name, image, severity, seed=0):
    depth = torch.linspace(2, 90, 24).reshape(1, 1, 24, 1).expand(len(image), 1, 24, 32)
    generator = torch.Generator().manual_seed(seed)
    return DEGRADATIONS[name]()(image, severity, generator, depth=depth)


def test_the_names_are_those_that_have_texts():
    assert tuple(DEGRADATIONS) == texts.DEGRADATION_NAMES


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
    assert len(cls.prompts) >= 4 and len(cls.statements) >= 2 and cls.source


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
