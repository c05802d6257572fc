"""Equal to what the released code computed with the same weights on the same pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fusionkit_ldfusion.color import recolor
from fusionkit_ldfusion.crops import entropy
from fusionkit_ldfusion.language import Language, similarity
from fusionkit_ldfusion.metrics import difference_norms
from fusionkit_ldfusion.official import official, our_name
from fusionkit_ldfusion.perceptual import VggMax
from torch.nn.functional import interpolate

import fusionkit as fk
from fusionkit.color import luma
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.registry import Registry
from fusionkit.testing import golden

FOLDER = golden.folder("ldfusion", Path(__file__).parent / "golden")
MANIFEST = golden.read(FOLDER / "manifest.json")
OUTPUTS = np.load(FOLDER / "outputs.npz")
LOSSES = golden.read(FOLDER / "losses.json")
INPUTS, VALUES = LOSSES["inputs"], LOSSES["values"]
WITHIN = MANIFEST["tolerances"]
WITHIN_LOSSES = {"rel": WITHIN["losses"]["rtol"]}
ROLES = {"visible": "vis_text", "infrared": "ir_text", "fused": "prompt"}


@pytest.fixture(scope="module")
def state():
    return golden.seeded_state(MANIFEST)


@pytest.fixture(scope="module")
def network(state):
    return fk.load_official("ldfusion", state)


@pytest.fixture(scope="module")
def vgg():
    loss = VggMax(weights="seeded")
    state = golden.seeded_state(MANIFEST["vgg_tensors"])
    loss.features.load_state_dict({k.removeprefix("vgg.features."): v for k, v in state.items()})
    return loss


@pytest.fixture(scope="module")
def clip():
    """The small CLIP of the recording: open_clip's class, seeded weights."""
    encoder = Registry.from_environment().create(
        "encoder",
        "openclip",
        config=INPUTS["tiny_clip"]["config"],
        pretrained=None,
        untrained=True,
        device="cpu",
    )
    state = golden.seeded_state(MANIFEST["tiny_clip_tensors"])
    state = {key.removeprefix("clip."): value for key, value in state.items()}
    encoder.model.load_state_dict(state)
    return encoder


def inputs(case):
    return {name: golden.seeded_input(spec) for name, spec in MANIFEST["cases"][case].items()}


def near(found, name, kind="intermediates"):
    expected = torch.from_numpy(OUTPUTS[name])
    tolerance = {"rtol": 0.0, "atol": 0.0} | WITHIN[kind]
    torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.parametrize("case", MANIFEST["cases"])
@torch.no_grad()
def test_the_fused_picture_is_the_recorded_one(network, case):
    near(network(**inputs(case)), f"{case}/fused", "fused")


@pytest.mark.parametrize("case", ["square64_b2", "small32x40"])
@torch.no_grad()
def test_codes_and_the_map_before_cropping_are_the_recorded_ones(network, case):
    encoder, decoder = network.network.encoder, network.network.decoder
    given = inputs(case)
    v, i, v_style, i_style = encoder(given["vis"], given["ir"])
    near(v_style, f"{case}/vis_style")
    near(i_style, f"{case}/ir_style")
    near(decoder.to_adain(torch.cat([v_style, i_style], 1).flatten(1)), f"{case}/adain_params")
    near(decoder(v, i, v_style, i_style), f"{case}/tanh_full")
    if f"{case}/vis_content" in OUTPUTS:
        near(v, f"{case}/vis_content")
        near(i, f"{case}/ir_content")
        last = []
        hook = decoder.residual[1].register_forward_hook(lambda m, given, out: last.append(out))
        decoder(v, i, v_style, i_style)
        hook.remove()
        near(last[0], f"{case}/after_local")


def test_gradients_through_both_halves_are_the_recorded_ones(state):
    network = official(state).network
    given, recorded = inputs("square64_b2"), VALUES["grad_check_square64_b2"]
    fused = network.fuse(given["vis"], given["ir"])
    loss = (fused - torch.maximum(given["vis"], given["ir"])).abs().mean()
    assert loss.item() == pytest.approx(recorded["l1_to_max"], **WITHIN_LOSSES)
    loss.backward()
    parameters = dict(network.named_parameters())
    for name, expected in recorded["grad_l2"].items():
        found = parameters[our_name(name)].grad.norm().item()
        assert found == pytest.approx(expected, rel=WITHIN["grad_l2"]["rtol"]), name


def test_colour_is_the_recorded_one():
    visible, fused = (
        golden.seeded_input(MANIFEST["colour_inputs"][name])[None]
        for name in ("vis_rgb", "fused_y")
    )
    near(luma(visible)[0], "colour/vis_y", "colour")
    near(recolor(fused, visible)[0], "colour/rgb_out", "colour")


class Recorded(Language):
    """Sentences whose embeddings were recorded."""

    def __init__(self, embeddings):
        super().__init__(Blind())
        self._embedded = {role: embeddings[name] for role, name in ROLES.items()}


class Blind:
    def encode_text(self, prompts): ...
    def encode_image(self, image): ...


def distances(language, fused, visible, infrared):
    wanted = language.objective(len(fused))
    return 1 - sum(language.cosines(fused, visible, infrared, wanted)) / 2


def test_direction_and_similarity_of_recorded_embeddings():
    e = {name: golden.seeded_input(spec) for name, spec in INPUTS["embeddings"].items()}
    language = Recorded(e)
    found = distances(language, e["fused"], e["vis"], e["ir"]).mean().item()
    assert found == pytest.approx(VALUES["prompt_global"], **WITHIN_LOSSES)
    crops = distances(language, e["fused_patch"], e["vis"].repeat(3, 1), e["ir"].repeat(3, 1))
    valid = torch.tensor(INPUTS["patch_valid"])
    assert crops.mean().item() == pytest.approx(VALUES["prompt_patch_unmasked"], **WITHIN_LOSSES)
    masked = (crops * valid).mean().item()
    assert masked == pytest.approx(VALUES["prompt_patch_masked"], **WITHIN_LOSSES)
    found = similarity(e["fused"], e["vis"], e["ir"]).item()
    assert found == pytest.approx(VALUES["similarity"], **WITHIN_LOSSES)


def test_entropies_and_which_crops_count():
    found = [entropy(golden.seeded_input(spec)).item() for spec in INPUTS["entropy_patches"]]
    assert found == pytest.approx(VALUES["entropy_bits"], **WITHIN_LOSSES)
    assert [bits > 6 for bits in found] == VALUES["entropy_valid_gt_6"]


def test_detail_energy():
    norms = difference_norms(golden.seeded_input(INPUTS["detail"]))
    together = norms.square().sum(1).sqrt().sum().item()  # the recording takes the batch as one
    assert together == pytest.approx(VALUES["detail_sum_of_norms"], **WITHIN_LOSSES)


def test_what_clip_reads(clip):
    picture = golden.seeded_input(INPUTS["clip_norm"])
    squeezed = interpolate(picture, (224, 224), mode="bilinear", align_corners=False)
    read, recorded = clip.preprocess.fit(squeezed), VALUES["clip_norm"]
    assert list(read.shape) == recorded["shape"]
    assert read.mean((0, 2, 3)).tolist() == pytest.approx(recorded["channel_mean"], rel=1e-4)
    spread = read.std((0, 2, 3), correction=0).tolist()
    assert spread == pytest.approx(recorded["channel_std_population"], rel=1e-5)
    for place, expected in recorded["samples_[0,c,y,x]"].items():
        channel, y, x = map(int, place.split(","))
        assert read[0, channel, y, x].item() == pytest.approx(expected, rel=1e-4)


def test_perceptual_terms(vgg):
    pictures = [golden.seeded_input(INPUTS["vgg"][name]) for name in ("fused", "vis", "ir")]
    terms = vgg.terms(*pictures)
    for name, expected in VALUES["vgg_terms"].items():
        # Squares of differences of features: what float32 leaves of them.
        assert terms[name].item() == pytest.approx(expected, rel=3e-5), name
    assert sum(terms.values()).item() == pytest.approx(VALUES["vgg_total"], **WITHIN_LOSSES)
    for name, feature in vgg.taps(pictures[0]).items():
        expected = VALUES["vgg_feature_mean"][name]
        assert feature.mean().item() == pytest.approx(expected, **WITHIN_LOSSES)
        assert feature.min().item() == VALUES["vgg_feature_min"][name]


def test_the_whole_loss_with_a_small_clip(clip, vgg):
    recorded, given = VALUES["tiny_clip"], INPUTS["tiny_clip"]
    language = Language(clip, {role: given["texts"][name] for role, name in ROLES.items()})
    pictures = {name: golden.seeded_input(spec) for name, spec in given["images"].items()}
    patches = golden.seeded_input(given["patches"]["fused"])
    with torch.no_grad():
        v, i, f = (language.see(pictures[name]) for name in ("vis", "ir", "fused"))
        crops = distances(language, language.see(patches), v.repeat(2, 1), i.repeat(2, 1))
        found = {
            "prompt_global": distances(language, f, v, i).mean(),
            "prompt_patch": (crops * torch.tensor(given["patch_valid"])).mean(),
            "similarity": similarity(f, v, i),
            "vgg": sum(vgg.terms(*(pictures[name] for name in ("fused", "vis", "ir"))).values()),
        }
    weights = {"similarity": 6, "prompt_global": 2, "prompt_patch": 10, "vgg": 10}
    found["total_6sim_2g_10p_10vgg"] = sum(weights[name] * found[name] for name in weights)
    for name, value in found.items():
        assert value.item() == pytest.approx(recorded[name], rel=WITHIN["tiny_clip"]["rtol"]), name
    for role, name in ROLES.items():
        expected = recorded["text_embedding_first8"][name]
        assert language.sentence(role)[0, :8].tolist() == pytest.approx(expected, rel=1e-4)
    for name, embedding in (("vis", v), ("ir", i), ("fused", f)):
        expected = recorded["image_embedding_first8_row0"][name]
        assert embedding[0, :8].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_token_ids(clip):
    for name, sentence in INPUTS["tiny_clip"]["texts"].items():
        ids = clip.tokenizer([sentence])[0].tolist()
        expected = VALUES["token_ids"][name]
        assert ids[: len(expected)] == expected and not any(ids[len(expected) :])


# -- the authors' files ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(state, tmp_path_factory):
    """A folder with the two files, as they are released: no prefix."""
    folder = tmp_path_factory.mktemp("released")
    for half in ("Enc", "Dec"):
        part = {k.removeprefix(f"{half}."): v for k, v in state.items() if k.startswith(half)}
        torch.save(part, folder / f"{half}_final.pt")
    return folder


@torch.no_grad()
def test_the_folder_of_the_two_released_files_is_a_checkpoint(released, network):
    given = inputs("odd50x75")
    assert torch.equal(fk.load_official("ldfusion", released)(**given), network(**given))
    method = fk.load_method("ldfusion", released, device="cpu", precision="float32")
    grey = method.fuse(given["ir"], given["vis"])
    torch.testing.assert_close(grey[:, :1], network(**given), rtol=0, atol=5e-5)


def test_fusing_asks_for_no_clip_weights(released):
    method = fk.load_method("ldfusion", released, device="cpu")
    assert method.encoder is None
    with pytest.warns(UserWarning, match="reads no text when it fuses.*training again"):
        method.fuse(torch.rand(1, 1, 32, 32), torch.rand(1, 3, 32, 32), text=["brighter"])


def test_one_half_alone_is_refused_with_the_missing_file(released, tmp_path):
    with pytest.raises(BadRequest, match=r"Dec_final\.pt is the missing one"):
        fk.load_official("ldfusion", released / "Enc_final.pt")
    with pytest.raises(BadRequest, match=r"Enc_final\.pt is the missing one"):
        fk.load_official("ldfusion", released / "Dec_final.pt")
    with pytest.raises(MissingWeights, match="no weights file"):
        fk.load_official("ldfusion", tmp_path)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_weights_that_do_not_fit_are_refused_by_name(state, change):
    state = dict(state)
    if change == "missing":
        del state["Dec.model_up.0.weight"]
    elif change == "unknown":
        state["Enc.something.weight"] = torch.zeros(1)
    else:
        state["Enc.style_encoder1.model.10.bias"] = torch.zeros(9)
    with pytest.raises(BadRequest, match=r"do not fit LDFusion's network"):
        official(state)


def test_weights_of_something_else_are_refused():
    with pytest.raises(BadRequest, match="two halves"):
        official({"conv.weight": torch.zeros(1)})
