"""The scores against other people's programs, against formulas written plainly, and by hand."""

import doctest
import json
import math
import os
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from fusionkit_standard.metrics import ALIASES, METRICS, SCORES
from fusionkit_standard.metrics.base import grey_levels
from PIL import Image
from scipy.signal import convolve2d

from fusionkit.color import to_uint8
from fusionkit.errors import BadRequest, UnknownComponent
from fusionkit.registry import Registry

ROOT = Path(__file__).parents[3]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "metrics.json").read_text())
SMOOTH = [code for code, score in SCORES.items() if score.differentiable]


def score(name, fused, ir, vi, **options):
    return METRICS[name](**options)(fused, ir, vi)


def grey(*rows):
    """A one-channel picture of grey levels given by rows."""
    return torch.tensor(rows, dtype=torch.float64)[None, None] / 255


@pytest.fixture(scope="module")
def triples():
    """Three synthetic 8-bit (fused, ir, vi) with edges, texture, flat parts and clipped levels."""
    height, width = 53, 47
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(7)
    made = []
    for k in range(3):
        ir = 60 + 150 * ((x - 20) ** 2 + (y - 25 - 3 * k) ** 2 < 120) + 0.4 * y
        vi = 110 + 60 * np.sin(x / (3 + k)) * np.cos(y / 5) + rng.normal(0, 6 + 4 * k, x.shape)
        fused = np.maximum(ir, vi) - 12 * k + rng.normal(0, 3, x.shape)
        for picture in (ir, vi, fused):
            picture[:12, 30:] = 200  # a flat corner, equal in all three
        vi[40:, :15] *= 1.9  # over-exposed
        made.append([np.clip(np.rint(p), 0, 255) for p in (fused, ir, vi)])
    return np.array(made)


@pytest.fixture(scope="module")
def batch(triples):
    """The same as a batch of tensors ``(fused, ir, vi)``, each ``(3, 1, 53, 47)``."""
    return [torch.from_numpy(triples[:, i, None] / 255).float() for i in range(3)]


# -- against formulas written once more, image by image, in numpy and scipy -----------------------


def _histogram(*pictures):
    counts = np.histogramdd([p.ravel() for p in pictures], [np.arange(257)] * len(pictures))[0]
    return counts / counts.sum()


def _mutual(a, b):
    joint = _histogram(a, b)
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return (joint[seen] * np.log(joint[seen] / independent[seen])).sum()


def _gauss(size, sigma):
    r = np.arange(size) - (size - 1) / 2
    window = np.exp(-(r[:, None] ** 2 + r**2) / (2 * sigma**2))
    return window / window.sum()


def _moments(a, b, window):
    def mean(picture):
        return convolve2d(picture, window, mode="valid")

    ma, mb = mean(a), mean(b)
    return ma, mb, mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb


def _ssim(a, b):
    ma, mb, va, vb, cov = _moments(a, b, _gauss(11, 1.5))
    c1, c2 = 2.55**2, 7.65**2
    return np.mean((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))


def _vif(reference, distorted):
    kept = there = 0.0
    for scale in (1, 2, 3, 4):
        size = 2 ** (5 - scale) + 1
        window = _gauss(size, size / 5)
        if scale > 1:
            reference, distorted = (
                convolve2d(p, window, mode="valid")[::2, ::2] for p in (reference, distorted)
            )
        _, _, vr, vd, cov = _moments(reference, distorted, window)
        vr, vd = np.maximum(vr, 0), np.maximum(vd, 0)
        g = cov / (vr + 1e-10)
        v = vd - g * cov
        g[vr < 1e-10], v[vr < 1e-10], vr[vr < 1e-10] = 0, vd[vr < 1e-10], 0
        g[vd < 1e-10], v[vd < 1e-10] = 0, 0
        v[g < 0], g[g < 0] = vd[g < 0], 0
        v = np.maximum(v, 1e-10)
        kept += np.log(1 + g**2 * vr / (v + 2)).sum()
        there += np.log(1 + vr / 2).sum()
    return kept / there


def _edges(picture):
    x = convolve2d(picture, [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], mode="same")
    y = convolve2d(picture, [[1, 2, 1], [0, 0, 0], [-1, -2, -1]], mode="same")
    angle = np.full(x.shape, np.pi / 2)
    angle[x != 0] = np.arctan(y[x != 0] / x[x != 0])
    return np.hypot(x, y), x**2 + y**2, angle


def _qabf(fused, ir, vi):
    gf, sf, af = _edges(fused)
    total = weight = 0.0
    for g, s, a in (_edges(ir), _edges(vi)):
        ratio = np.where(s == sf, gf, np.minimum(g, gf) / np.maximum(np.maximum(g, gf), 1e-300))
        aligned = 1 - np.abs(a - af) / (np.pi / 2)
        q = (
            0.9994
            / (1 + np.exp(-15 * (ratio - 0.5)))
            * 0.9879
            / (1 + np.exp(-22 * (aligned - 0.8)))
        )
        total, weight = total + (q * g).sum(), weight + g.sum()
    return total / weight


def _entropy(f, a, b):
    p = _histogram(f)
    return -(p[p > 0] * np.log2(p[p > 0])).sum()


def _pearson(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


PLAIN = {
    "en": _entropy,
    "sd": lambda f, a, b: f.std(),
    "sf": lambda f, a, b: np.sqrt((np.diff(f) ** 2).mean() + (np.diff(f, axis=0) ** 2).mean()),
    "ag": lambda f, a, b: np.sqrt(sum(g**2 for g in np.gradient(f)) / 2).mean(),
    "mi_nats": lambda f, a, b: _mutual(a, f) + _mutual(b, f),
    "ssim_g11_valid_sum": lambda f, a, b: _ssim(a, f) + _ssim(b, f),
    "vif_sum": lambda f, a, b: _vif(a, f) + _vif(b, f),
    "qabf": _qabf,
    "scd": lambda f, a, b: _pearson(f - b, a) + _pearson(f - a, b),
}


@pytest.mark.parametrize("code", SCORES)
def test_agrees_with_the_definition_written_plainly(code, triples, batch):
    expected = [PLAIN[code](*triple) for triple in triples]
    np.testing.assert_allclose(score(code, *batch), expected, rtol=1e-9)


# -- against other people's programs on real pictures ---------------------------------------------


def _folder(name):
    data = os.environ.get("FUSIONKIT_DATA")
    shared = Path(data).parent if data else ROOT.parent / "shared"
    if not (shared / name).is_dir():
        pytest.skip(f"no real pictures: {shared / name} is not there.")
    return shared / name


def _read(path):
    return torch.from_numpy(np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 255)[
        None, None
    ]


@pytest.mark.parametrize("pair", GOLDEN["pairs"], ids=lambda pair: pair["id"])
def test_equals_the_reference_programs_on_real_pictures(pair):
    folder = _folder("metrics")
    pictures = [_read(folder / pair[role]) for role in ("fused", "ir", "vi")]
    found = {code: score(code, *pictures).item() for code in SCORES}
    for code, value in pair["values"].items():
        assert found[code] == pytest.approx(value, rel=GOLDEN["tolerance"][code], abs=0), code


def test_reproduces_the_published_table_of_cddfuse_on_tno():
    fused, data = _folder("metrics") / "cddfuse_tno" / "TNO", _folder("data") / "tno"
    rows = []
    for path in sorted(fused.glob("*.png")):
        pictures = [_read(p) for p in (path, data / "ir" / path.name, data / "vi" / path.name)]
        rows.append([score(c, *pictures).item() for c in GOLDEN["cddfuse_tno"]["mean"]])
    assert len(rows) == 25
    expected = list(GOLDEN["cddfuse_tno"]["mean"].values())
    np.testing.assert_allclose(np.mean(rows, 0), expected, rtol=1e-6)


def test_degenerate_pictures_score_as_in_the_reference_program():
    folder = _folder("metrics") / "images"
    ir, vi = _read(folder / "tno08_ir.png"), _read(folder / "tno08_vi.png")
    middle = torch.full_like(ir, 128 / 255)
    assert score("Qabf", vi, ir, vi).item() == pytest.approx(0.6750, abs=5e-5)
    assert score("VIF", vi, ir, vi).item() == pytest.approx(1.2362, abs=5e-5)
    assert score("EN", vi, ir, vi).item() == pytest.approx(6.668, abs=5e-4)
    assert score("SCD", vi, ir, vi).isnan()
    assert score("SCD", middle, ir, vi).item() == pytest.approx(-1.0944, abs=5e-5)
    assert score("Qabf", middle, ir, vi).item() == pytest.approx(0.0051, abs=5e-5)
    assert score("VIF", middle, ir, vi).item() == 0


# -- by hand --------------------------------------------------------------------------------------


def test_entropy_counts_bits_per_grey_level():
    four = grey([0, 80, 160, 255]).repeat(2, 1, 1, 1)
    four[1] = four[1, ..., :1]  # one level only
    assert score("EN", four, four, four).tolist() == [2.0, 0.0]


def test_mutual_information_is_the_entropy_of_a_copy_and_nothing_for_independent_pictures():
    a, b = grey([0, 0, 9, 9]), grey([5, 7, 5, 7])
    assert score("MI", a, a, b).item() == pytest.approx(math.log(2))
    assert score("MI", a, a, a).item() == pytest.approx(2 * math.log(2))


def test_standard_deviation_divides_by_the_number_of_pixels():
    picture = grey([10, 10, 14, 14])
    assert score("SD", picture, picture, picture).item() == pytest.approx(2)


def test_spatial_frequency_joins_steps_of_both_directions():
    picture = grey([0, 3], [4, 7])  # 3 along every row, 4 down every column
    assert score("SF", picture, picture, picture).item() == pytest.approx(5)


def test_average_gradient_of_a_ramp_is_its_slope_over_root_two():
    picture = grey(*[[0, 6, 12, 18]] * 3)
    assert score("AG", picture, picture, picture).item() == pytest.approx(6 / math.sqrt(2))


def test_correlations_of_differences_are_perfect_for_a_plain_sum():
    ir, vi = grey([10, 90, 30, 5]), grey([40, 2, 60, 100])
    assert score("SCD", ir + vi, ir, vi).item() == pytest.approx(2)


def test_ssim_of_constant_pictures_compares_their_means():
    fused, ir, vi = (torch.full((1, 1, 11, 11), level / 255) for level in (100, 100, 50))
    c1 = 2.55**2
    expected = 1 + (2 * 100 * 50 + c1) / (100**2 + 50**2 + c1)
    assert score("SSIM", fused, ir, vi).item() == pytest.approx(expected, rel=1e-9)


def test_vif_of_a_copy_is_one_per_source_and_more_when_contrast_is_raised(batch):
    dim = batch[2] / 2
    assert score("VIF", dim, dim, dim).tolist() == pytest.approx([2.0] * 3, rel=1e-6)
    assert (score("VIF", batch[2], dim, dim) > 2.2).all()


def test_qabf_of_a_copy_is_limited_by_its_constants():
    squares = grey(*[[0, 0, 90, 90, 0, 0], [90, 90, 0, 0, 90, 90]] * 3)
    expected = 0.9994 * 0.9879 / (1 + math.exp(-22 * 0.2))
    assert score("Qabf", squares, squares, squares).item() == pytest.approx(expected, rel=1e-9)


def test_colour_becomes_grey_by_rounding_to_the_even_level():
    blue = torch.tensor([0, 0, 250.0]).view(1, 3, 1, 1) / 255  # 0.114 * 250 = 28.5
    red = torch.tensor([255.0, 0, 0]).view(1, 3, 1, 1) / 255  # 76.245
    assert grey_levels(blue).item() == 28
    assert grey_levels(red).item() == 76
    assert grey_levels(red, quantise=False).item() == pytest.approx(76.245)


def test_white_is_the_highest_level_in_every_precision():
    """255 + 0.5 rounds to 256 in bfloat16, which wraps to black in 8 bits."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        assert grey_levels(torch.ones(1, 1, 1, 1, dtype=dtype)).item() == 255, dtype


# -- properties -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", SCORES)
def test_swapping_the_sources_changes_nothing(code, batch):
    fused, ir, vi = batch
    torch.testing.assert_close(
        score(code, fused, ir, vi), score(code, fused, vi, ir), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("code", SCORES)
def test_a_picture_scores_the_same_alone_and_in_a_batch(code, batch):
    alone = torch.cat([score(code, *(p[i : i + 1] for p in batch)) for i in range(3)])
    torch.testing.assert_close(score(code, *batch), alone, rtol=1e-12, atol=0)
    assert len(set(alone.tolist())) == 3  # three pictures, three scores


@pytest.mark.parametrize("code", SCORES)
def test_a_grey_picture_scores_the_same_with_three_channels(code, batch):
    three = [p.expand(-1, 3, -1, -1) for p in batch]
    assert torch.equal(score(code, *three), score(code, *batch))


@pytest.mark.parametrize("code", SCORES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_an_eight_bit_picture_scores_the_same_in_every_precision(code, dtype, batch):
    other = score(code, *(p.to(dtype) for p in batch))
    assert other.dtype == torch.float64
    assert torch.equal(other, score(code, *batch))


@pytest.mark.parametrize("code", SCORES)
def test_a_picture_scores_as_its_saved_file_does(code):
    torch.manual_seed(0)
    pictures = [torch.rand(1, 3, 48, 44) for _ in range(3)]
    saved = [to_uint8(p).float() / 255 for p in pictures]
    assert torch.equal(score(code, *pictures), score(code, *saved))


@pytest.mark.parametrize("code", SCORES)
def test_values_lie_in_the_stated_range(code, batch):
    low, high = SCORES[code].range
    values = score(code, *batch)
    assert ((values >= low) & (values <= high)).all()


@pytest.mark.parametrize("code", SMOOTH)
def test_the_gradient_is_finite_even_where_the_picture_is_flat(code, batch):
    fused = batch[0].clone().requires_grad_()
    values = score(code, fused, *batch[1:])
    values.sum().backward()
    assert torch.equal(values.detach(), score(code, *batch))  # following it changes no value
    assert fused.grad.isfinite().all()
    assert fused.grad.abs().sum() > 0


@pytest.mark.parametrize("code", SMOOTH)
def test_the_gradient_is_the_slope_of_the_continuous_score(code):
    torch.manual_seed(1)
    fused, ir, vi, way = (torch.rand(1, 1, 41, 42, dtype=torch.float64) for _ in range(4))
    fused, way, step = 0.1 + 0.8 * fused, way - 0.5, 1e-6
    smooth = SCORES[code](quantise=False)
    slope = (smooth(fused + step * way, ir, vi) - smooth(fused - step * way, ir, vi)) / (2 * step)
    fused.requires_grad_()
    smooth(fused, ir, vi).sum().backward()
    assert (fused.grad * way).sum().item() == pytest.approx(slope.item(), rel=1e-5)


@pytest.mark.parametrize("code", sorted(set(SCORES) - set(SMOOTH)))
def test_counting_grey_levels_has_no_gradient_and_says_so(code, batch):
    assert not score(code, batch[0].clone().requires_grad_(), *batch[1:]).requires_grad


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 1.0])
def test_a_constant_fused_picture_has_defined_scores(level, batch):
    flat = torch.full_like(batch[0], level)
    values = {code: score(code, flat, *batch[1:]) for code in SCORES}
    assert all(value.isfinite().all() for value in values.values())
    for code in ("en", "sd", "sf", "ag", "mi_nats", "vif_sum"):
        assert values[code].tolist() == pytest.approx([0.0] * 3, abs=1e-12), code


def test_what_has_no_value_is_nan_for_that_picture_alone(batch):
    fused, ir, vi = (p.clone() for p in batch)
    ir[1] = 0.3
    assert score("VIF", fused, ir, vi).isnan().tolist() == [False, True, False]
    assert score("SCD", fused, ir, vi).isnan().tolist() == [False, True, False]
    assert score("SCD", vi, ir, vi).isnan().all()
    ir[2] = vi[2] = 0.0
    assert score("Qabf", fused, ir, vi).isnan().tolist() == [False, False, True]


def test_rounding_does_not_make_a_constant_picture_correlate():
    """The mean of these 7,700 equal numbers misses them by 4e-14."""
    flat = torch.full((1, 1, 100, 77), 0.37, dtype=torch.float64)
    fused, vi = torch.rand(2, 1, 1, 100, 77, generator=torch.Generator().manual_seed(0))
    assert score("SCD", fused, flat, vi, quantise=False).isnan().all()


@pytest.mark.parametrize("code", SCORES)
def test_the_smallest_size_is_stated_and_smaller_pictures_are_refused(code):
    side = SCORES[code].min_size
    torch.manual_seed(0)
    smallest = torch.rand(3, 1, 1, side, side + 1)
    assert score(code, *smallest).isfinite().all() or side == 1
    if side > 1:
        with pytest.raises(BadRequest, match=f"{side} x {side}.*{side - 1} x {side + 1}"):
            score(code, *smallest[..., :-1, :])


def test_unfit_pictures_are_refused_with_what_is_wrong(batch):
    fused, ir, vi = batch
    with pytest.raises(BadRequest, match=r"ir \(3, 52, 47\)"):
        score("MI", fused, ir[..., :-1, :], vi)
    with pytest.raises(BadRequest, match="uint8"):
        score("EN", to_uint8(fused), ir, vi)
    with pytest.raises(BadRequest, match=r"\(3, 53, 47\)"):
        score("EN", fused[:, 0], ir, vi)
    with pytest.raises(BadRequest, match="NaN"):
        score("EN", torch.full_like(fused, torch.nan), ir, vi)
    with pytest.raises(BadRequest, match="'vi'"):
        SCORES["scd"]()(fused, ir)


# -- names ----------------------------------------------------------------------------------------


def test_codes_and_short_names_are_found_after_install():
    registry = Registry.from_environment()
    assert set(METRICS) <= set(registry.names("metric"))
    assert type(registry.create("metric", "Qabf")) is SCORES["qabf"]
    with pytest.raises(UnknownComponent, match="'ssim_g11_valid_sum'"):
        registry.create("metric", "ssim_g11_valid")
    with pytest.raises(BadRequest, match="quantise"):
        registry.create("metric", "SD", quantize=False)


def test_every_short_name_stands_for_one_code():
    assert len(set(ALIASES.values())) == len(ALIASES)
    assert {METRICS[short].name for short in ALIASES} == set(ALIASES.values()) == set(SCORES)


@pytest.mark.parametrize("code", SCORES)
def test_each_score_states_what_it_is(code):
    metric = SCORES[code]
    assert metric.name == code
    assert metric.source and metric.variant and metric.__doc__
    assert metric.higher_is_better is True
    assert set(metric.needs) <= {"fused", "ir", "vi"}


@pytest.mark.parametrize(
    "module",
    sorted(
        p.stem
        for p in Path(import_module("fusionkit_standard.metrics").__file__).parent.glob("*.py")
    ),
)
def test_examples_in_docstrings_hold(module):
    name = "fusionkit_standard.metrics" + ("" if module == "__init__" else f".{module}")
    assert doctest.testmod(import_module(name)).failed == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no usable GPU.")
@pytest.mark.parametrize("code", SCORES)
def test_a_gpu_gives_the_same_scores(code, batch):
    there = score(code, *(p.cuda() for p in batch))
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), score(code, *batch), rtol=1e-10, atol=0)
