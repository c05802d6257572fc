"""Equal to what the released modules gave, with weights and inputs rebuilt from their names."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fusionkit_mtgfusion.cube import reorder
from fusionkit_mtgfusion.guidance import CommonGuidance, SpecificGuidance, Words
from fusionkit_mtgfusion.losses import text_distance
from fusionkit_mtgfusion.network import ROLES, load_official
from fusionkit_mtgfusion.transform import domain_transform

import fusionkit as fk
from fusionkit.batch import TextFeatures
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.testing import golden

BESIDE = Path(__file__).with_name("golden")
FULL = golden.folder("mtgfusion", BESIDE)
MANIFEST = golden.read(FULL / "manifest.json")
OUTPUTS = np.load(FULL / "outputs.npz")
CASES = [case for case in MANIFEST["inputs"] if not case.startswith("core")]
CORES = [case for case in MANIFEST["inputs"] if case.startswith("core")]
CALL = {
    "image_a (infrared)": "ir",
    "image_b (visible)": "vis",
    "text_a": "text_ir",
    "text_b": "text_vi",
    "text_common": "text_common",
    "text_a_unique": "text_ir_unique",
    "text_b_unique": "text_vi_unique",
}


@pytest.fixture(scope="module")
def state():
    return golden.seeded_state(MANIFEST)


@pytest.fixture(scope="module")
def official(state):
    return load_official(state)


def inputs(case):
    given = MANIFEST["inputs"][case]
    return {CALL[name]: golden.seeded_input(spec) for name, spec in given.items()}


def check(key, value, outputs=OUTPUTS, tolerances=None):
    """Compare with a recording, of which the compact form holds the first channels only."""
    expected = torch.from_numpy(outputs[key])
    value = value[tuple(slice(n) for n in expected.shape)]
    name = key.split("/")[1]
    tolerances = tolerances or MANIFEST["tolerances"]
    tolerance = {"rtol": 1e-4, "atol": 0.0} | tolerances.get(name, tolerances["default"])
    torch.testing.assert_close(value, expected, **tolerance)


@pytest.mark.parametrize("case", CASES)
def test_the_network_and_its_parts_equal_the_release(official, case):
    with torch.inference_mode():
        fused, parts = official.parts(**inputs(case))
    common = parts["common"]
    found = parts | {
        "fused": fused,
        "log_det": parts["log_det"].reshape(1),
        "text_cube": common.full_cube(),
        "text_cube_reordered": common.reordered,
        "dt_rows": common.rows,
        "dt_rows_cols": common.filtered,
        "cmsf": common.features,
    }
    recorded = [key for key in OUTPUTS if key.startswith(f"{case}/")]
    assert recorded
    for key in recorded:
        check(key, found[key.split("/")[1]])


@pytest.mark.parametrize("case", CORES)
def test_reordering_and_filter_equal_the_release_on_random_cubes(official, case):
    spec = MANIFEST["inputs"][case]
    height, width = spec["V"]["shape"][2:]
    scale = (64 * height * width) ** 0.5
    visual, cube = (golden.seeded_input(spec[k] | {"scale": scale}) for k in ("V", "text_cube"))
    visual = visual.permute(0, 2, 3, 1)
    with torch.inference_mode():
        chosen, index = reorder(visual.flatten(1, 2), cube.flatten(1, 2))
        found = official.network.tgce.filter(visual, chosen.view(cube.shape), index, cube, None)
    values = {
        "text_cube_reordered": found.reordered,
        "dt_rows": found.rows,
        "dt_rows_cols": found.filtered,
        "cmsf": found.features,
    }
    for key in (key for key in OUTPUTS if key.startswith(f"{case}/")):
        check(key, values[key.split("/")[1]])


def test_the_described_variant_equals_its_formulas():
    described = FULL / "seed_variant.json"
    described = described if described.is_file() else BESIDE / "described.json"
    recipe = golden.read(described)
    outputs = np.load(described.with_suffix(".npz"))
    weights = {k.split(".", 1)[1]: v for k, v in golden.seeded_state(recipe).items()}
    tolerances = {"default": recipe["tolerance"]}
    for case, given in recipe["inputs"].items():
        text, features = {}, {}
        for name, spec in given.items():
            values = golden.seeded_array(spec["name"], spec["shape"])
            if name.startswith("text"):
                text[name] = Words(torch.from_numpy((values - 1) * 20)[None, None])
            else:
                scale = np.float32(np.sqrt(spec["shape"][1] * spec["shape"][2]))
                features[name] = torch.from_numpy(values * scale)[None]
        found = {}
        with torch.no_grad():
            for directions in ("forward", "both"):
                common = CommonGuidance(variant="described", directions=directions)
                common.load_state_dict(_under(weights, "tgce."))
                texts = (text[f"text_{name}"] for name in ("a", "b", "common"))
                result = common(features["visual"], *texts)
                found[f"dt_{directions}"] = result.filtered
                found[f"cmsf_{directions}"] = result.features
            found["text_cube"] = result.full_cube()
            found["text_cube_reordered_l2"] = result.reordered
            specific = SpecificGuidance(variant="described", cross_blocks=1)
            specific.load_state_dict(_under(weights, "tgsf."), strict=False)
            first, found["maps_a"] = specific.a(
                features["specific_a"], text["text_a_unique"].pooled
            )
            second, _ = specific.b(features["specific_b"], text["text_b_unique"].pooled)
            found |= {"M_A": first, "M_B": second}
            found["smsf_fused"] = features["specific_a"] * first + features["specific_b"] * second
        for key in (key for key in outputs if key.startswith(f"{case}/")):
            check(key, found[key.split("/")[1]][0], outputs, tolerances)


def _under(weights, prefix):
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def test_the_losses_equal_the_release():
    from fusionkit_mtgfusion.losses import TwoSource, multi_text

    from fusionkit.batch import Batch, Fused

    recorded = golden.read(FULL / "losses.json")
    given = {k: golden.seeded_input(spec) for k, spec in recorded["inputs"].items()}
    expected = recorded["values_float32"]
    a, b, fused = given["image_a"], given["image_b"], given["fused"]
    for name, source in (("a", a), ("b", b)):
        batch = Batch(visible=source.expand(-1, 3, -1, -1), infrared=source)
        terms = TwoSource(ssim="l1")(batch, Fused(image=fused))
        assert float(terms["mse"]) == pytest.approx(expected[f"mse_{name}"], rel=1e-5, abs=1e-6)
        assert float(terms["l1"]) == pytest.approx(expected[f"l1_{name}"], rel=1e-5, abs=1e-6)
    texts = [given[f"t_{name}"] for name in ("a", "b", "gt")]
    for name, text in zip(("a", "b", "gt"), texts, strict=True):
        found = float(text_distance(given["t_fused"], text))
        assert found == pytest.approx(expected[f"text_{name}"], rel=1e-5, abs=1e-6)
    weights = fk.Registry.from_environment().create("recipe", "mtgfusion").weights
    batch = Batch(visible=b.expand(-1, 3, -1, -1), infrared=a)
    terms = TwoSource(ssim="l1")(batch, Fused(image=fused))
    first = sum(weights[name] * value for name, value in terms.items())
    assert float(first) == pytest.approx(expected["stage1_total"], rel=1e-5, abs=1e-6)
    second = first + weights["text"] * multi_text(given["t_fused"], texts)
    assert float(second) == pytest.approx(expected["stage2_total"], rel=1e-5, abs=1e-6)


def test_official_weights_are_read_with_their_keys_and_wrappers(state, tmp_path, monkeypatch):
    def absent(*_):
        raise MissingWeights("the encoder's weights are not here.")

    monkeypatch.setattr("fusionkit.methods.settle_encoder", absent)
    assert (
        sum(v.numel() for k, v in state.items() if "running" not in k and "num_" not in k)
        == (MANIFEST["parameters_excluding_buffers"])
    )
    file = tmp_path / "MTGFusion_stage2.pth"
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, file)
    network = fk.load_official("mtgfusion", file)
    case = CASES[-1]
    with torch.inference_mode():
        check(f"{case}/fused", network(**inputs(case)))
    method = fk.load_method("mtgfusion", file, device="cpu", precision="float32")
    given = inputs(case)
    assert method.network.state_dict().keys() == state.keys()
    pictures = given["ir"], given["vis"].expand(-1, 3, -1, -1)
    with pytest.raises(MissingWeights, match="the encoder's weights are not here"):
        method.fuse(*pictures, "a text")
    fused = method.fuse(*pictures)  # no text needs no encoder
    texts = {
        role: TextFeatures(given[f"text_{role}"][:, 0], given[f"text_{role}"]) for role in ROLES
    }
    assert not torch.equal(method.fuse(*pictures, texts), fused)
    assert fused.shape == (*given["ir"].shape[:1], 3, *given["ir"].shape[2:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("tgce.text_A.fc.weight"), "lack tgce.text_A.fc.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "hold the unknown extra"),
        (lambda s: s.update({"shared.norm_out.bias": torch.zeros(3)}), "another shape at shared"),
        (lambda s: s.pop("text_proj.weight"), "there is no matrix text_proj.weight"),
    ],
)
def test_other_weights_are_refused_by_name(state, change, message):
    changed = dict(state)
    change(changed)
    with pytest.raises(BadRequest, match=message):
        load_official(changed)


def test_the_text_of_the_cube_trains_here_but_not_in_the_release():
    given = torch.randn(1, 4, 9, 11, generator=torch.Generator().manual_seed(0))
    words = Words(torch.randn(1, 3, 4))
    for detach in (True, False):
        common = CommonGuidance(4, detach=detach)
        common(given, words, words, words).features.sum().backward()
        assert (common.text_A.fc.weight.grad is None) == detach


def test_the_filter_takes_any_guide_and_several_iterations():
    picture = torch.rand(1, 10, 12, 3)
    once, _ = domain_transform(picture, picture, distance="text-text", directions="both")
    twice, _ = domain_transform(
        picture, picture, distance="text-text", directions="both", iterations=2
    )
    change = [(x.diff(dim=2).abs().mean()) for x in (picture, once, twice)]
    assert change[0] > change[1] > change[2] > 0
