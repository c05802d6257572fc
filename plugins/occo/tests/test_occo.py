"""OCCO against recorded outputs of the authors' network and losses, and what we add to them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fusionkit_occo import vgg as vgg_module
from fusionkit_occo.colour import to_rgb, to_ycbcr
from fusionkit_occo.contextual import contextual, contextual_bilateral
from fusionkit_occo.contrast import ObjectContrast, ratio
from fusionkit_occo.network import Occo, stretch
from fusionkit_occo.official import official
from fusionkit_occo.pixel import PixelTerms, gradient, intensity, ssim
from fusionkit_occo.recipe import occo, occo_small
from fusionkit_occo.regions import regions
from fusionkit_occo.task import ObjectTask
from fusionkit_occo.vgg import Vgg19

import fusionkit as fk
from fusionkit.batch import Batch, Fused
from fusionkit.data import write_image
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.methods import Method
from fusionkit.registry import Registry
from fusionkit.testing import LossContract, golden, install, tiny_batch, tiny_pairs
from fusionkit.training import train

COMPACT = Path(__file__).parent / "golden"
FOLDER = golden.folder("occo", COMPACT)
MANIFEST = golden.read(FOLDER / "manifest.json")
CASES = [case for case in MANIFEST["inputs"] if case != "colour"]
LOSSES = golden.read(FOLDER / "losses.json")
VALUES = LOSSES["values_float32"]


@pytest.fixture(scope="module")
def recorded():
    """Outputs of the released code: the full recording where it is, else the compact one."""
    with np.load(FOLDER / "outputs.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored}


@pytest.fixture(scope="module")
def released():
    return fk.load_official("occo", golden.seeded_state(MANIFEST))


def inputs(case):
    return {name: golden.seeded_input(spec) for name, spec in MANIFEST["inputs"][case].items()}


def close(value, expected, mode):
    torch.testing.assert_close(value, expected, **MANIFEST["tolerances"][mode])


# ---------------------------------------------------------------- the network


def test_the_seeded_inputs_and_weights_are_those_of_the_recording():
    assert len(MANIFEST["tensors"]) == 298
    for name in ("manifest.json", "losses.json", "vgg19_manifest.json"):
        full, compact = golden.read(FOLDER / name), golden.read(COMPACT / name)
        assert all(full[key] == compact[key] for key in compact)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_output_equals_the_released_network(released, recorded, case):
    given = inputs(case)
    fused = released(**given)
    close(fused, recorded[f"{case}/eval/fused_raw"], "eval")
    if f"{case}/eval/fused_minmax" in recorded:
        close(stretch(fused), recorded[f"{case}/eval/fused_minmax"], "eval")


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_output_equals_the_released_test_program_which_normalises_by_the_batch(
    released, recorded, case
):
    given = inputs(case)
    fused = released.network.raw(given["vis"], given["ir"], "batch")
    close(fused, recorded[f"{case}/batchstat/fused_raw"], "batchstat")


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_inner_maps_equal_the_released_ones(released, recorded, case):
    network, given, maps = released.network, inputs(case), {}
    hooks = [
        module.register_forward_hook(lambda m, i, o, name=name: maps.__setitem__(name, (i, o)))
        for name, module in network.named_modules()
    ]
    released(**given)
    for hook in hooks:
        hook.remove()
    gates = torch.stack(maps["fusion.3.channel_gates"][1])[..., None, None]
    found = {
        "fusion4_channel_weight": gates,
        "fusion1": maps["fusion.0"][1][:, :4],
        "fusion3": maps["fusion.2"][1],
        "fusion4": maps["fusion.3"][1],
        "up_concat3": maps["decoder.2"][1],
        "fusion2_cross_attention": network.fusion[1].attended(*maps["fusion.1"][0][:2]),
    }
    names = [name for name in found if f"{case}/eval/{name}" in recorded]
    assert "fusion4_channel_weight" in names
    for name in names:
        expected = recorded[f"{case}/eval/{name}"]
        value = found[name]
        if name == "fusion2_cross_attention" and expected.shape != value.shape:
            value = value[:, :, ::16]  # the compact recording keeps every sixteenth place
        close(value, expected, "eval")


def test_colour_equals_the_released_conversion(recorded):
    given = inputs("colour")
    y, cb, cr = to_ycbcr(given["rgb"])
    for name, value in (("y", y), ("cb", cb), ("cr", cr)):
        torch.testing.assert_close(value, recorded[f"colour/{name}"], rtol=0, atol=1e-6)
    for name, luma in (("rgb_from_y_cb_cr", y), ("rgb_from_fused_y", given["fused_y"])):
        expected = recorded[f"colour/{name}"]
        torch.testing.assert_close(to_rgb(luma, cb, cr).clamp(0, 1), expected, rtol=0, atol=1e-6)


def test_the_released_checkpoint_is_read_whole_and_fuses(tmp_path, recorded):
    state = golden.seeded_state(MANIFEST)
    whole = {"meta": {"epoch": 20, "iter": 3600}, "state_dict": state, "optimizer": {"state": {}}}
    torch.save(whole, tmp_path / "occo.pth")
    method = fk.load_method("occo", tmp_path / "occo.pth", device="cpu", precision="float32")
    given = inputs("a_96x128")
    grey = given["vis"].expand(-1, 3, -1, -1)
    fused = method.fuse(given["ir"], grey)
    expected = stretch(recorded["a_96x128/batchstat/fused_raw"])
    torch.testing.assert_close(fused[:, :1], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("fusion2.cross.norm1.bias"), r"lacks .* fusion\.1\.attention\.norm\.0"),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), r"unknown are extra\.weight"),
        (lambda s: s.update({"final.weight": torch.zeros(3, 32, 1, 1)}), r"final\.weight is \(3"),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("fusion3.space_weight2")],
            r"lacks .* fusion3\.space_weight2",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message):
    state = golden.seeded_state(MANIFEST)
    change(state)
    with pytest.raises(BadRequest, match=message):
        official(state)


def test_the_attention_formed_by_its_gram_matrix_is_the_plain_one():
    torch.manual_seed(0)
    attention = Occo(widths=(8, 8, 8, 8), heads=(2, 1, 1, 1)).fusion[0].attention
    c = [torch.rand(2, 30, 8) for _ in range(2)]
    outputs = attention(*c)
    for i, other in ((0, 1), (1, 0)):
        keys, values = attention.keys_values[other](c[other]).chunk(2, -1)
        heads = [x.unflatten(-1, (2, 4)).transpose(1, 2) for x in (c[i], keys, values)]
        context = (heads[1].mT @ heads[2] / 2).softmax(-2)
        plain = (heads[0] @ context).transpose(1, 2).flatten(2)
        torch.testing.assert_close(outputs[i], plain, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_pictures_of_a_batch_are_fused_as_if_alone_in_both_modes():
    torch.manual_seed(0)
    batch = tiny_batch(3, (33, 47))
    for statistics in ("batch", "running"):
        network = Occo(statistics=statistics).eval()
        together = network(batch).image
        for i in range(3):
            one = Batch(batch.visible[i : i + 1], batch.infrared[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], network(one).image, rtol=0, atol=1e-4)


def test_an_unknown_kind_of_statistics_is_refused():
    with pytest.raises(BadRequest, match="Did you mean 'running'"):
        Occo(statistics="runing")


def test_a_modulation_is_refused():
    recipe = occo().with_overrides({"modulation": "film"})
    with pytest.raises(BadRequest, match="no point at which text meets features"):
        Method(recipe, Registry.from_environment())
    with pytest.raises(BadRequest, match="takes no modulation"):
        Occo(modulation=lambda channels: torch.nn.Identity())


@torch.no_grad()
@pytest.mark.parametrize(("statistics", "most"), [("batch", 3), ("running", 2)])
def test_half_precision_stays_near_even_with_random_weights(released, statistics, most):
    given = inputs("a_96x128")
    network = released.network
    exact = stretch(network.raw(given["vis"], given["ir"], statistics))
    with torch.autocast("cpu", torch.bfloat16):
        rough = stretch(network.raw(given["vis"], given["ir"], statistics))
    assert (exact - rough).abs().mean() < most / 255


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
def test_a_gpu_gives_the_same_picture(released):
    given = inputs("a_96x128")
    exact = stretch(released(**given))
    network = released.network.to("cuda")
    try:
        vis, ir = given["vis"].cuda(), given["ir"].cuda()
        torch.testing.assert_close(stretch(network.raw(vis, ir)).cpu(), exact, rtol=0, atol=1e-3)
        with torch.autocast("cuda", torch.bfloat16):
            rough = stretch(network.raw(vis, ir)).cpu()
        assert (rough - exact).abs().mean() < 2 / 255
    finally:
        network.to("cpu")


# ---------------------------------------------------------------- losses


@pytest.fixture(scope="module")
def seeded_vgg(tmp_path_factory):
    """The VGG of the recording: torchvision's layout, weights from names."""
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(golden.seeded_state(golden.read(FOLDER / "vgg19_manifest.json")), path)
    return path


@pytest.fixture(scope="module")
def scene():
    """Batch, fused luma with gradient, and the masks of the recording."""
    given = {k: golden.seeded_input(s) for k, s in LOSSES["inputs"].items() if k != "functional"}
    masks = {f"mask_{k}": (given[f"mask_{s}"] > 0.55).float() for k, s in
             (("visible", "vis"), ("infrared", "ir"))}  # fmt: skip
    luma = given["fused"].requires_grad_()
    batch = Batch(given["vis"].expand(-1, 3, -1, -1), given["ir"], guides=masks)
    return batch, Fused(luma.detach().expand(-1, 3, -1, -1), maps={"luma": luma}), given


@pytest.fixture(scope="module")
def terms(scene, seeded_vgg):
    batch, fused, _ = scene
    return PixelTerms()(batch, fused) | ObjectContrast(weights=seeded_vgg)(batch, fused)


def tolerance(name):
    return LOSSES["tolerances"].get(name, {"rtol": LOSSES["tolerances"]["default_rtol"]})["rtol"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("ssim", "loss_ssim"),
        ("intensity", "loss_intensity"),
        ("gradient", "loss_gradient"),
        ("contrast_visible", "contrast_vis_unique"),
        ("contrast_infrared", "contrast_ir_unique"),
        ("contrast_shared_visible", "contrast_shared_pos_vis"),
        ("contrast_shared_infrared", "contrast_shared_pos_ir"),
        ("contrast_background", "contrast_background"),
    ],
)
def test_each_term_equals_the_released_one(terms, ours, theirs):
    rtol = tolerance("contrast_*" if "contrast" in ours else "")
    assert float(terms[ours].detach()) == pytest.approx(VALUES[theirs], rel=rtol)


def test_sums_and_gradients_equal_the_released_ones(terms, scene):
    luma = scene[1].maps["luma"]
    weights = occo().weights
    pixel = sum(weights[k] * terms[k] for k in ("ssim", "intensity", "gradient"))
    total = sum(weights[k] * terms[k] for k in terms)
    assert float(pixel.detach()) == pytest.approx(VALUES["loss_pixel"], rel=1e-4)
    assert float(total.detach()) == pytest.approx(VALUES["loss_total"], rel=2e-3)
    contrast = float((total - pixel).detach()) / 10
    assert contrast == pytest.approx(VALUES["contrast_sum"], rel=2e-3)
    wanted = {
        "loss_pixel": pixel,
        "contrast_vis_unique": terms["contrast_visible"],
        "contrast_background": terms["contrast_background"],
    }
    for name, term in wanted.items():
        (slope,) = torch.autograd.grad(term, luma, retain_graph=True)
        expected = LOSSES["gradient_wrt_fused_float32"][name]
        found = {"l2_norm": slope.norm(), "mean": slope.mean(), "max_abs": slope.abs().max()}
        for measure, value in found.items():
            assert float(value) == pytest.approx(expected[measure], rel=1e-2), (name, measure)


@torch.no_grad()
def test_parts_of_the_terms_equal_the_released_ones(scene, seeded_vgg):
    batch, _, given = scene
    fused = given["fused"].detach()
    for name in ("vis", "ir"):
        assert float(ssim(given[name], fused)) == pytest.approx(VALUES[f"ssim_{name}"], rel=1e-4)
    vgg = Vgg19(seeded_vgg)
    mask = regions(*batch.guides.values())["visible"]
    for name, share in LOSSES["mask_means"].items():
        ours = {"vis_unique": "visible", "ir_unique": "infrared"}.get(name, name)
        assert float(regions(*batch.guides.values())[ours].mean()) == pytest.approx(share, rel=1e-5)
    anchor, positive = vgg(fused[:2] * mask[:2]), vgg(given["vis"][:2] * mask[:2])
    negative = vgg(given["ir"][2:4] * mask[2:4])
    for layer, place in (("relu4_4", 0), ("relu5_4", 1)):
        a, p, n = (x[place] for x in (anchor, positive, negative))
        near = contextual_bilateral(p, a) if place else contextual_bilateral(a, p)
        order = "(pos,out)" if place else "(out,pos)"
        for key, value in ((order, near), ("(out,neg2)", contextual_bilateral(a, n))):
            expected = VALUES[f"cx_bilateral_{layer}{key}"]
            assert float(value) == pytest.approx(expected, rel=2e-3), (layer, key)


@torch.no_grad()
def test_forms_that_the_release_holds_but_does_not_use_can_be_put_together(scene, seeded_vgg):
    batch, _, given = scene
    vgg, taps = Vgg19(seeded_vgg), [f"relu{block}_1" for block in range(1, 6)]
    fused, visible = given["fused"].detach()[:2], given["vis"][:2]
    apart = zip(vgg(fused, taps, collapsed=True), vgg(visible, taps, collapsed=True), strict=True)
    shares = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)
    perceptual = sum(s * (a - b).abs().mean() for s, (a, b) in zip(shares, apart, strict=True))
    assert float(perceptual) == pytest.approx(VALUES["alt_perceptual(fused,vis)"], rel=1e-4)
    mask = regions(*batch.guides.values())["background"]
    deep = ["relu4_1", "relu5_1"]
    anchor, positive = (vgg(x * mask[:2], deep, collapsed=True) for x in (fused, visible))
    negatives = [layer.split(2) for layer in vgg(given["ir"] * mask, deep, collapsed=True)]
    for name, measure in (("L1", torch.abs), ("L2", torch.square)):
        found = sum(
            share * ratio(measure(a - p).mean(), [measure(a - n).mean() for n in far], least=0)
            for share, a, p, far in zip((0.25, 1), anchor, positive, negatives, strict=True)
        )
        assert float(found) == pytest.approx(VALUES[f"alt_contrast_vgg_{name}_bg"], rel=1e-4)


@pytest.mark.parametrize("name", LOSSES["inputs"]["functional"])
def test_contextual_distances_equal_the_released_ones(name):
    x, y = (golden.seeded_input(s) for s in LOSSES["inputs"]["functional"][name].values())
    found = {
        "contextual_loss_h0.5": contextual(x, y),
        "contextual_bilateral_wsp0.5_h1": contextual_bilateral(x, y),
        "contextual_bilateral_wsp0.1_h0.5": contextual_bilateral(x, y, weight=0.1, bandwidth=0.5),
        "contextual_bilateral_grid_wsp0.5_h1": contextual_bilateral(x, y, spatial="grid"),
    }
    for form, value in found.items():
        assert float(value) == pytest.approx(VALUES[f"functional/{name}/{form}"], rel=1e-4)


def test_a_distance_to_itself_is_nearly_nothing_and_not_symmetric_otherwise():
    x, y = torch.randn(1, 8, 4, 5), torch.randn(1, 8, 4, 5)
    assert float(contextual_bilateral(x, x, weight=0.0, bandwidth=0.1)) < 1e-3
    assert float(contextual_bilateral(x, y)) != float(contextual_bilateral(y, x))


def test_regions_part_the_scene_and_intensity_and_gradient_match_a_hand_count():
    a, b = torch.tensor([1.0, 1, 0, 0]), torch.tensor([1.0, 0, 1, 0])
    found = regions(a, b)
    assert {k: v.tolist() for k, v in found.items()} == {
        "visible": [0, 1, 0, 0],
        "infrared": [0, 0, 1, 0],
        "shared": [1, 0, 0, 0],
        "background": [0, 0, 0, 1],
    }
    fused, visible = torch.full((1, 1, 1, 2), 0.5), torch.tensor([[[[0.1, 0.9]]]])
    infrared = torch.tensor([[[[0.3, 0.2]]]])
    # ((.4)^2 + (.4)^2) / 2 + |.5 - .3| / 2
    assert float(intensity(fused, visible, infrared)) == pytest.approx(0.16 + 0.1)
    step = torch.zeros(1, 1, 5, 6)
    step[..., 3:] = 1
    assert float(gradient(step, step, torch.zeros_like(step))) == 0
    assert float(gradient(torch.zeros_like(step), step, torch.zeros_like(step))) > 0


@pytest.fixture(scope="module")
def thin_vgg(tmp_path_factory):
    """A loss whose VGG is thin, for tests about anything but its numbers."""
    with pytest.MonkeyPatch.context() as patch:
        widths = tuple(w and 8 for w in vgg_module.WIDTHS)
        patch.setattr(vgg_module, "WIDTHS", widths)
        yield lambda **options: ObjectContrast(**({"weights": "untrained"} | options))


class TestObjectContrast(LossContract):
    @pytest.fixture(autouse=True)
    def thin(self, thin_vgg):
        self.build = thin_vgg

    def batch(self, count=4, size=(64, 72)):
        batch = tiny_batch(max(count, 4), size)
        masks = {"mask_visible": batch.guides["mask"], "mask_infrared": 1 - batch.guides["mask"]}
        return batch.replace(guides=masks)


def test_the_contrast_passes_the_network_of_features_21_times_where_the_release_takes_80(
    scene, thin_vgg
):
    loss, passes = thin_vgg(), []
    loss.vgg.features[34].register_forward_hook(lambda m, i, o: passes.append(len(o)))
    batch, fused, _ = scene
    loss(batch, fused)
    assert sum(passes) / (len(batch) // 4) == 21


def test_the_contrast_says_what_it_lacks(thin_vgg):
    batch = tiny_batch(4, (64, 64))
    fused = Fused(batch.visible)
    with pytest.raises(ValueError, match="mask_visible, mask_infrared"):
        thin_vgg()(batch, fused)
    few = tiny_batch(3, (64, 64))
    guides = {"mask_visible": few.guides["mask"], "mask_infrared": few.guides["mask"]}
    with pytest.raises(ValueError, match="this one has 3"):
        thin_vgg()(few.replace(guides=guides), Fused(few.visible))
    with pytest.raises(BadRequest, match="Did you mean 'grid'"):
        thin_vgg(spatial="gird")


def test_empty_and_full_masks_give_finite_terms_and_gradients(thin_vgg):
    batch = tiny_batch(4, (64, 64))
    for value in (0.0, 1.0):
        mask = torch.full_like(batch.guides["mask"], value)
        fused = torch.rand(4, 1, 64, 64, requires_grad=True)
        given = batch.replace(guides={"mask_visible": mask, "mask_infrared": mask})
        found = thin_vgg()(given, Fused(batch.visible, maps={"luma": fused}))
        sum(found.values()).backward()
        assert all(term.isfinite() for term in found.values())
        assert fused.grad.isfinite().all()


def test_a_ratio_is_no_noise_where_every_place_finds_its_match():
    tiny = torch.tensor(-1e-5)
    assert float(ratio(tiny, [tiny] * 4)) == 0
    assert float(ratio(torch.tensor(1e-3), [tiny] * 4)) == pytest.approx(0.1)
    assert float(ratio(torch.tensor(0.3), [torch.tensor(0.2)] * 3)) == pytest.approx(0.5)


def test_torchvision_builds_the_same_layout():
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        theirs = torchvision.models.vgg19(weights=None).features.state_dict()
    manifest = golden.read(FOLDER / "vgg19_manifest.json")["tensors"]
    shapes = {name: list(spec["shape"]) for name, spec in manifest.items()}
    assert {f"features.{k}": list(v.shape) for k, v in theirs.items()} == shapes


def test_imagenet_weights_come_from_the_folder_of_the_machine_or_are_missed_in_one_line(
    monkeypatch, tmp_path, thin_vgg
):
    state = Vgg19("untrained").state_dict()
    state = {k: v + 1 for k, v in state.items() if k.startswith("features.")}
    torch.save(state | {"classifier.0.weight": torch.zeros(2)}, tmp_path / vgg_module.FILE)
    monkeypatch.setenv("FUSIONKIT_WEIGHTS", str(tmp_path))
    found = Vgg19("imagenet")
    assert torch.equal(found.features[0].weight, state["features.0.weight"])

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.delenv("FUSIONKIT_WEIGHTS")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(MissingWeights, match="no route to host") as caught:
        Vgg19("imagenet")
    assert "\n" not in str(caught.value) and "untrained" in str(caught.value)
    with pytest.warns(UserWarning, match="not those of the paper"):
        Vgg19("imagenet", offline="untrained")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(BadRequest, match="no VGG-19 in torchvision's layout"):
        Vgg19(tmp_path / "other.pth")


# ---------------------------------------------------------------- samples and training


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def task(pairs, **options):
    return ObjectTask(pairs=pairs, registry=Registry.from_environment(), **({"crop": 32} | options))


def test_neighbours_are_crops_of_one_scene_and_each_shows_a_piece_of_an_object():
    batch = task(tiny_pairs(5, (48, 64))).sample(8, generator())
    assert batch.visible.shape == (8, 3, 32, 32)
    assert all(batch.names[i] == batch.names[i + 1] for i in range(0, 8, 2))
    assert len(set(batch.names)) == 4
    shown = batch.guides["mask_visible"] + batch.guides["mask_infrared"]
    assert (shown.sum((1, 2, 3)) > 0).all()
    again = task(tiny_pairs(5, (48, 64))).sample(8, generator())
    assert torch.equal(batch.visible, again.visible) and batch.names == again.names
    other = task(tiny_pairs(5, (48, 64))).sample(8, generator(1))
    assert not torch.equal(batch.visible, other.visible)


def test_a_true_object_counts_where_its_picture_shows_it():
    visible, infrared = torch.full((3, 40, 40), 0.5), torch.full((1, 40, 40), 0.2)
    mask = torch.zeros(1, 40, 40)
    mask[:, 10:20, 10:20] = 1
    infrared[mask > 0] = 0.9
    pair = tiny_pairs(1, 40)[0]
    pair = replace(pair, visible=visible, infrared=infrared, masks={"person": mask}, things=())
    found = task([pair]).masks(0)
    assert not found[0].any() and torch.equal(found[1], mask[0])
    assert not task([pair], objects=("car",)).masks(0).any()


def test_pictures_are_stretched_each_by_itself():
    pair = tiny_pairs(1, (40, 40))[0]
    batch = task([pair], crop=None).sample(4, generator())
    assert float(batch.infrared.min()) == 0 and float(batch.infrared.max()) == 1
    assert float(batch.visible.min()) == 0 and float(batch.visible.max()) == 1


def test_scenes_without_any_object_are_passed_over_or_refused():
    shown, empty = tiny_pairs(2, (40, 40))
    empty = replace(empty, masks={"person": torch.zeros(1, 40, 40)})
    assert set(task([shown, empty]).sample(8, generator()).names) == {shown.name}
    with pytest.raises(BadRequest, match="none of the 1 pairs shows an object"):
        task([empty]).sample(4, generator())
    with pytest.raises(BadRequest, match="3 samples are too few"):
        task([shown]).sample(3, generator())


def test_photographs_get_masks_from_a_guide_and_from_saliency_where_its_weights_are_missing():
    class Left:
        """The left half of the visible picture, the right half of the infrared one."""

        def __init__(self, *, side: int = 20) -> None:
            self.side = side

        def __call__(self, batch):
            assert batch.prompts[0].startswith("person")
            masks = torch.zeros(2, 1, 1, *batch.visible.shape[-2:])
            masks[0, ..., : self.side], masks[1, ..., self.side :] = 1, 1
            return dict(zip(("mask_visible", "mask_infrared"), masks, strict=True))

    class NoWeights:
        """A guide whose weights are not there."""

        def __init__(self) -> None:
            raise MissingWeights("no weights.")

    pairs = [replace(pair, masks={}) for pair in tiny_pairs(2, (40, 40))]
    registry = Registry.from_environment()
    install(registry, "mine", guide={"left": Left, "no-weights": NoWeights})
    options = {"pairs": pairs, "registry": registry, "crop": 32}
    found = ObjectTask(guide="left", guide_options={"side": 10}, **options).masks(0)
    assert found[0].sum() == 400 and found[1].sum() == 1200
    with pytest.warns(UserWarning, match="'saliency' sees them"):
        assert ObjectTask(guide="no-weights", **options).masks(0)[1].any()
    with pytest.raises(MissingWeights):
        ObjectTask(guide="no-weights", offline_guide=None, **options).masks(0)


def test_masks_are_read_from_the_folders_that_the_authors_offer(tmp_path):
    pairs = [replace(pair, masks={}) for pair in tiny_pairs(2, (40, 40))]
    for pair in pairs:
        write_image(tmp_path / "mask_vi" / f"mask_{pair.name}.png", torch.ones(1, 40, 40))
        write_image(tmp_path / "mask_ir" / f"mask_{pair.name}.png", torch.zeros(1, 40, 40))
    found = task(pairs, guide="folder-masks", guide_options={"root": str(tmp_path)})
    batch = found.sample(4, generator())
    assert batch.guides["mask_visible"].all() and not batch.guides["mask_infrared"].any()


def test_the_small_recipe_is_the_full_one_with_other_numbers():
    full, small = occo(), occo_small()
    assert small.weights == full.weights and small.losses == full.losses
    assert full.stages[0].model_dump(include={"batch_size", "crop", "learning_rate"}) == {
        "batch_size": 12, "crop": 256, "learning_rate": 1e-4,
    }  # fmt: skip
    assert json.loads(json.dumps(small.describe()))["name"] == "occo-small"


def test_training_lowers_the_loss_and_the_checkpoint_fuses_any_size(tmp_path, thin_vgg):
    recipe = occo_small().with_overrides(
        {
            "steps": 18, "learning_rate": 3e-3, "crop": 32,
            "network.options": {"widths": [8, 8, 8, 8]},
            "losses.occo-contrast.options": {"weights": "untrained"},
        }
    )  # fmt: skip
    run = train(
        recipe, tiny_pairs(4, (48, 64)), device="cpu", precision="float32",
        checkpoint=tmp_path / "occo.pt", log_every=3,
    )  # fmt: skip
    totals = [entry["total"] for entry in run.history.values()]
    assert totals[-1] < 0.7 * totals[0]
    method = fk.load_method("occo-small", tmp_path / "occo.pt", device="cpu")
    pair = tiny_pairs(1, (37, 53))[0]
    fused = method.fuse(pair.infrared[None], pair.visible[None])
    assert fused.shape == (1, 3, 37, 53) and fused.max() > 0.9
