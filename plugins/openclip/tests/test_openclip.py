"""The encoder over small random networks; no trained weights, no network."""

import ast
import hashlib
import inspect
import json
import logging
import time
import zlib
from pathlib import Path

import numpy
import pytest
import torch
from fusionkit_openclip import OpenClip, clip_vit_b_32, fusionkit_encoders
from fusionkit_openclip.build import _first_line
from fusionkit_openclip.preprocess import Preprocess
from fusionkit_openclip.sources import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    MissingWeights,
    _openai_cache,
    _preprocess_of_file,
    _same,
    find,
)
from fusionkit_openclip.towers import resize_positions
from PIL import Image
from torch.nn import functional as F

from fusionkit.errors import BadRequest

open_clip = pytest.importorskip("open_clip")
from open_clip.transform import PreprocessCfg, image_transform_v2  # noqa: E402

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
VIT = {
    "embed_dim": 48,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 64,
        "layers": 3,
        "width": 64,
        "head_width": 32,
        "patch_size": 16,
    },
    "text_cfg": TEXT,
}
RESNET = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": TEXT,
}
PROMPTS = ["a person on the left", "fire!!! now", ""]


def untrained(config=VIT, **options):
    return OpenClip(config=config, pretrained=None, untrained=True, device="cpu", **options)


@pytest.fixture(scope="module")
def encoder():
    return untrained()


@pytest.fixture(scope="module")
def resnet():
    return untrained(RESNET)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A machine that has no weights and no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FUSIONKIT_WEIGHTS", raising=False)
    return {"cache_dir": tmp_path / "hub"}


def pictures(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def smooth(*shape):
    """Pictures without edges, on which bicubic interpolation does not overshoot."""
    small = pictures(*shape[:-2], 4, 5) * 0.6 + 0.2
    return F.interpolate(small, shape[-2:], mode="bilinear", align_corners=False)


# -- text ----------------------------------------------------------------------------------------


def test_text_features_have_one_width_and_a_fixed_length(encoder):
    text = encoder.encode_text(PROMPTS)
    assert encoder.text_dim == 48
    assert text.pooled.shape == (3, 48)
    assert text.tokens.shape == (3, 77, 48)
    assert (text.mask.shape, text.mask.dtype) == ((3, 77), torch.bool)
    assert text.pooled.dtype == text.tokens.dtype == torch.float32
    assert encoder.encode_text([]).tokens.shape == (0, 77, 48)


def test_pooled_text_is_the_raw_output_of_open_clip(encoder):
    ids = open_clip.tokenize(PROMPTS)
    expected = encoder.model.encode_text(ids, normalize=False)
    found = encoder.encode_text(PROMPTS).pooled
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found.norm(dim=-1), torch.ones(3), atol=0.05)  # not normalised


def test_the_end_token_carries_the_pooled_feature_and_closes_the_mask(encoder):
    text = encoder.encode_text(PROMPTS)
    ends = open_clip.tokenize(PROMPTS).argmax(-1)
    torch.testing.assert_close(text.tokens[torch.arange(3), ends], text.pooled)
    assert text.mask.sum(1).tolist() == (ends + 1).tolist()
    assert text.mask[2].nonzero().flatten().tolist() == [0, 1]  # the empty prompt: start and end


def test_padding_is_told_from_an_exclamation_mark_whose_number_is_zero(encoder):
    ids = open_clip.tokenize(["!?!?!?"])
    text = encoder.encode_text(["!?!?!?"])
    assert (ids[0, : ids[0].argmax()] == 0).any()
    assert text.mask[0, : ids[0].argmax() + 1].all()


def test_a_prompt_longer_than_the_context_is_announced(encoder):
    with pytest.warns(UserWarning, match="has 100 tokens.*reads the first 75"):
        encoder.encode_text(["word " * 100])


def test_a_sentence_in_place_of_a_list_is_refused(encoder):
    with pytest.raises(BadRequest, match="list of sentences"):
        encoder.encode_text("a person")


# -- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (61, 97), (130, 33)])
def test_pooled_picture_is_what_open_clip_makes_of_the_same_preprocessing(encoder, size):
    image = smooth(2, 3, *size)
    settings = {k: v for k, v in encoder.preprocess.as_dict().items() if k != "antialias"}
    transform = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    expected = encoder.model.encode_image(transform(image), normalize=False)
    torch.testing.assert_close(encoder.encode_image(image).pooled, expected)


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (200, 150)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_every_rule_of_preprocessing_is_open_clips_up_to_8_bit_rounding(mode, size, interpolation):
    if mode == "shortest" and size[0] != size[1]:
        interpolation = "bicubic"  # open_clip forgets its own setting in this one case
    rule = Preprocess(size, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), interpolation, mode, 100)
    settings = {k: v for k, v in rule.as_dict().items() if k != "antialias"}
    transform = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    # away from black and white, where Pillow saturates between its two passes
    pixels = (60 + pictures(75, 121, 3) * 135).to(torch.uint8)
    pixels[20:50, 30:90] = torch.tensor([195, 60, 128], dtype=torch.uint8)
    expected = transform(Image.fromarray(pixels.numpy()))[None]
    found = rule.fit(pixels.movedim(2, 0)[None] / 255)
    torch.testing.assert_close(found, expected, rtol=0, atol=1.2 / 255 / 0.2)


def test_bicubic_overshoot_is_cut_as_in_8_bit_pictures_and_keeps_its_gradient():
    rule = Preprocess((8, 8), (0.0,) * 3, (1.0,) * 3)
    image = (torch.arange(16) % 8 > 3).float().expand(1, 3, 16, 16).clone().requires_grad_()
    seen = rule.fit(image)
    assert (seen.min(), seen.max()) == (0, 1)
    seen.sum().backward()
    torch.testing.assert_close(image.grad.sum(), torch.tensor(8.0 * 8 * 3))


def test_a_grey_picture_is_one_with_three_equal_channels(encoder):
    grey = pictures(2, 1, 40, 56)
    one, three = encoder.encode_image(grey), encoder.encode_image(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(one.pooled, three.pooled)
    torch.testing.assert_close(one.patches, three.patches)


@pytest.mark.parametrize(
    "size,grid", [((64, 64), (4, 4)), ((48, 64), (4, 5)), ((33, 130), (4, 16))]
)
def test_patches_cover_the_whole_picture_at_any_size(encoder, size, grid):
    features = encoder.encode_image(pictures(2, 3, *size))
    assert features.pooled.shape == (2, 48)
    assert features.patches.shape == (2, 48, *grid)


def test_dense_size_sets_the_grid_and_leaves_the_pooled_feature_alone(encoder):
    fine = untrained(dense_size=128)
    image = pictures(1, 3, 48, 64)
    assert fine.encode_image(image).patches.shape[-2:] == (8, 11)
    torch.testing.assert_close(fine.encode_image(image).pooled, encoder.encode_image(image).pooled)
    assert untrained(dense_size=(32, 160)).encode_image(image).patches.shape[-2:] == (2, 10)


def test_one_pass_and_two_passes_agree(encoder):
    """A square picture is read once; asked for separately, both halves come out the same."""
    image = pictures(2, 3, 80, 80)
    both = encoder.encode_image(image)
    seen = encoder.preprocess.fit(image)
    torch.testing.assert_close(both.pooled, encoder.tower.pooled(seen))
    torch.testing.assert_close(both.patches, encoder.tower.patches(seen))
    torch.testing.assert_close(both.pooled, encoder.embed_image(image))


def test_interpolated_positions_are_those_of_a_model_loaded_at_that_size(encoder, tmp_path):
    folder = encoder.save(tmp_path / "clip")
    large = OpenClip(model=str(folder), image_size=(96, 80), device="cpu")
    table = resize_positions(encoder.model.visual.positional_embedding, (4, 4), (6, 5))
    torch.testing.assert_close(table, large.model.visual.positional_embedding)
    image = pictures(1, 3, 96, 80)
    here = untrained(dense_size=(96, 80)).encode_image(image).patches
    torch.testing.assert_close(here, large.encode_image(image).patches)


def test_gradient_reaches_the_picture_and_no_parameter(encoder):
    assert not [n for n, p in encoder.model.named_parameters() if p.requires_grad]
    image = pictures(1, 3, 50, 70).requires_grad_()
    features = encoder.encode_image(image)
    (pooled,) = torch.autograd.grad(features.pooled.square().sum(), image, retain_graph=True)
    (dense,) = torch.autograd.grad(features.patches.square().sum(), image)
    assert pooled.abs().sum() > 0
    assert (dense.abs().sum(1) > 0).float().mean() > 0.95  # the ends of the picture, too


def test_the_order_in_memory_that_is_fast_with_a_gradient_changes_no_number(encoder):
    image = pictures(3, 3, 32, 32)
    plain = encoder.embed_image(image)
    wanted = image.clone().requires_grad_()
    found = encoder.embed_image(wanted)
    torch.testing.assert_close(found, plain)
    blocks = encoder.model.visual.transformer.resblocks
    assert all(block.attn.batch_first for block in blocks)  # as it was, for patches
    (gradient,) = torch.autograd.grad(found.square().sum(), wanted)
    alone = [row.clone().requires_grad_() for row in image.split(1)]
    total = sum(encoder.embed_image(row).square().sum() for row in alone)
    torch.testing.assert_close(gradient, torch.cat(torch.autograd.grad(total, alone)))


def test_squash_lets_the_pooled_feature_see_the_ends_of_the_picture(encoder):
    image = pictures(1, 3, 64, 128).requires_grad_()
    squash = untrained(preprocess={"resize_mode": "squash"})
    seen = {}
    for name, one in {"shortest": encoder, "squash": squash}.items():
        (grad,) = torch.autograd.grad(one.encode_image(image).pooled.square().sum(), image)
        seen[name] = grad[..., :8].abs().sum().item()
    assert seen["shortest"] == 0 < seen["squash"]


def test_surrounding_autocast_does_not_change_the_features(encoder):
    image = pictures(1, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, text = encoder.encode_image(image), encoder.encode_text(PROMPTS)
    torch.testing.assert_close(inside.pooled, encoder.encode_image(image).pooled, rtol=0, atol=0)
    torch.testing.assert_close(text.pooled, encoder.encode_text(PROMPTS).pooled, rtol=0, atol=0)


def test_half_precision_inside_gives_float32_features_close_by(encoder):
    half = untrained(precision="bf16")
    image = pictures(1, 3, 48, 64)
    for one, other in [
        (half.encode_text(PROMPTS).pooled, encoder.encode_text(PROMPTS).pooled),
        (half.encode_text(PROMPTS).tokens, encoder.encode_text(PROMPTS).tokens),
        (half.encode_image(image).pooled, encoder.encode_image(image).pooled),
        (half.encode_image(image).patches, encoder.encode_image(image).patches),
    ]:
        assert one.dtype == torch.float32
        assert F.cosine_similarity(one, other, dim=1).min() > 0.99
        assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "bad",
    [torch.zeros(3, 8, 8), torch.zeros(1, 2, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)],
)
def test_what_is_no_picture_is_refused(encoder, bad):
    with pytest.raises(BadRequest, match="float tensor"):
        encoder.encode_image(bad)


# -- patches -------------------------------------------------------------------------------------


def test_value_patches_are_the_last_blocks_values_projected(encoder):
    """MaskCLIP written out: attention of the last block gives way to its own value."""
    visual = encoder.model.visual
    image = pictures(2, 3, 64, 64)
    x = visual.conv1(encoder.preprocess.fit(image)).flatten(2).mT
    x = torch.cat([visual.class_embedding.expand(2, 1, -1), x], 1) + visual.positional_embedding
    x = visual.ln_pre(x)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    last, width = visual.transformer.resblocks[-1], 64
    weight, bias = last.attn.in_proj_weight[2 * width :], last.attn.in_proj_bias[2 * width :]
    x = x + last.attn.out_proj(last.ln_1(x) @ weight.T + bias)
    x = x + last.mlp(last.ln_2(x))
    expected = (visual.ln_post(x) @ visual.proj)[:, 1:].mT.unflatten(2, (4, 4))
    torch.testing.assert_close(encoder.encode_image(image).patches, expected)


def test_token_patches_are_the_states_after_the_last_block(encoder):
    plain = untrained(dense="tokens")
    visual, image = plain.model.visual, pictures(1, 3, 64, 64)
    states = visual.forward_intermediates(
        plain.preprocess.fit(image), indices=[2], intermediates_only=True, output_fmt="NLC"
    )["image_intermediates"][0]
    expected = (visual.ln_post(states) @ visual.proj).mT.unflatten(2, (4, 4))
    found = plain.encode_image(image).patches
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, encoder.encode_image(image).patches)


def test_a_patch_is_at_the_place_of_what_it_shows(encoder):
    """With black elsewhere, the patch that changes most is the one under the bright spot."""
    dark = torch.zeros(1, 3, 64, 96)
    spot = dark.clone()
    spot[..., 34:46, 66:78] = 1  # row 2, column 4 of a grid of 4 x 6
    change = (encoder.encode_image(spot).patches - encoder.encode_image(dark).patches).norm(dim=1)
    assert divmod(change[0].flatten().argmax().item(), 6) == (2, 4)


def test_a_resnet_gives_the_values_of_its_attention_pool(resnet):
    image = pictures(1, 3, 64, 96)
    features = resnet.encode_image(image)
    visual = resnet.model.visual
    x = visual.stem(resnet.preprocess.whole(image, (64, 96)))
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)
    pool = visual.attnpool
    values = F.conv2d(x, pool.v_proj.weight[..., None, None], pool.v_proj.bias)
    expected = F.conv2d(values, pool.c_proj.weight[..., None, None], pool.c_proj.bias)
    assert features.patches.shape == (1, 48, 2, 3)
    torch.testing.assert_close(features.patches, expected)
    square = pictures(1, 3, 64, 64)
    torch.testing.assert_close(
        resnet.encode_image(square).pooled,
        resnet.model.encode_image(resnet.preprocess.fit(square), normalize=False),
    )


def test_a_resnet_has_no_token_patches():
    with pytest.raises(BadRequest, match=r"ResNet.*dense='value'"):
        untrained(RESNET, dense="tokens")


def test_without_patches_one_cell_covers_the_picture_and_heat_maps_are_refused():
    pooled_only = untrained(dense="none")
    features = pooled_only.encode_image(pictures(2, 3, 40, 64))
    torch.testing.assert_close(features.patches[:, :, 0, 0], features.pooled)
    assert features.patches.shape == (2, 48, 1, 1)
    with pytest.raises(BadRequest, match="draws no heat map"):
        pooled_only.heatmap(["a car"], pictures(1, 3, 64, 64))


# -- heat maps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["encoder", "resnet"])
def test_heat_map_has_the_size_of_the_picture_and_follows_the_prompt(name, request):
    encoder, image = request.getfixturevalue(name), pictures(2, 3, 45, 70)
    person, car = encoder.heatmap(["a person"], image), encoder.heatmap(["a car"], image)
    assert person.shape == (2, 1, 45, 70)
    assert person.min() >= 0
    assert person.max() <= 1
    assert (person - car).abs().max() > 0.01
    each = encoder.heatmap(["a person", "a car"], image)
    torch.testing.assert_close(each, torch.stack([person[0], car[1]]))


def test_heat_map_is_the_share_of_the_prompt_in_a_softmax_over_cosines(encoder):
    image = pictures(1, 3, 64, 64)
    words = encoder.encode_text(["a car", *encoder.background]).pooled
    patches = encoder.encode_image(image).patches
    cosines = F.cosine_similarity(patches[:, None], words[None, :, :, None, None], dim=2)
    expected = (encoder.model.logit_scale.exp() * cosines).softmax(1)[:, :1]
    torch.testing.assert_close(encoder.heatmap_grid(["a car"], image), expected)


def test_heat_map_grid_holds_every_prompt_for_every_picture(encoder):
    image = pictures(2, 3, 64, 96)
    grid = encoder.heatmap_grid(["a car", "a tree", "sky"], image)
    assert grid.shape == (2, 3, 4, 6)
    torch.testing.assert_close(grid[:, 1:2], encoder.heatmap_grid(["a tree"], image))
    full = encoder.heatmaps(["a car", "a tree", "sky"], image)
    torch.testing.assert_close(full[:, 2:], encoder.heatmap(["sky"], image))


def test_the_background_is_the_users_choice_and_never_the_prompt_itself(encoder):
    image = pictures(1, 3, 64, 64)
    own = untrained(background=["sky", "road"])
    assert not torch.allclose(own.heatmap(["a car"], image), encoder.heatmap(["a car"], image))
    only_road = untrained(background=["road"])
    torch.testing.assert_close(own.heatmap([" Sky"], image), only_road.heatmap(["Sky"], image))
    with pytest.raises(BadRequest, match="equals the only background"):
        only_road.heatmap(["road"], image)
    with pytest.raises(BadRequest, match="2 prompts for 1 pictures"):
        own.heatmap(["a car", "a tree"], image)


# -- weights -------------------------------------------------------------------------------------


def same_features(one, other):
    image = pictures(1, 3, 50, 70)
    torch.testing.assert_close(one.encode_text(PROMPTS).pooled, other.encode_text(PROMPTS).pooled)
    for part in ("pooled", "patches"):
        torch.testing.assert_close(
            getattr(one.encode_image(image), part), getattr(other.encode_image(image), part)
        )


def test_a_saved_folder_gives_the_same_features_normalisation_included(offline, tmp_path):
    settings = {"mean": [0.1, 0.2, 0.3], "std": 0.5, "resize_mode": "squash", "antialias": False}
    first = untrained(preprocess=settings, image_size=80)
    folder = first.save(tmp_path / "clip")
    second = OpenClip(model=f"local-dir:{folder}", device="cpu")
    same_features(first, second)
    assert second.preprocess == first.preprocess
    assert second.untrained and "untrained" in second.description  # random weights stay marked
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert transform.transforms[-1].mean == [0.1, 0.2, 0.3]
    ids = open_clip.tokenize(PROMPTS)
    torch.testing.assert_close(theirs.encode_text(ids), first.encode_text(PROMPTS).pooled)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("form", ["plain", "prefixed", "torchscript"])
def test_weights_are_read_in_the_forms_in_which_they_are_found(encoder, tmp_path, form):
    path = tmp_path / "weights.pt"
    state = encoder.model.state_dict()
    if form == "plain":
        torch.save(state, path)
    elif form == "prefixed":  # a released fusion checkpoint with the frozen CLIP inside
        inside = {f"model_clip.{key}": value for key, value in state.items()}
        torch.save({"model": inside | {"decoder.weight": torch.zeros(2)}, "epoch": 3}, path)
    else:
        archive = torch.nn.Module()
        for key, value in state.items():
            owner = archive
            *parents, leaf = key.split(".")
            for name in parents:
                if not hasattr(owner, name):
                    owner.add_module(name, torch.nn.Module())
                owner = getattr(owner, name)
            owner.register_buffer(leaf, value)
        for name in ("input_resolution", "context_length", "vocab_size"):
            archive.register_buffer(name, torch.tensor(77))
        torch.jit.save(torch.jit.script(archive), path)
    found = OpenClip(
        config={"model_cfg": VIT, "preprocess_cfg": encoder.preprocess.as_dict()},
        pretrained=str(path),
        device="cpu",
    )
    same_features(found, encoder)
    assert not found.untrained and found.source.pretrained == "weights.pt"


def test_weights_of_another_architecture_are_refused_in_one_line(encoder, tmp_path):
    folder = encoder.save(tmp_path / "clip")
    narrow = json.loads(json.dumps(VIT)) | {"embed_dim": 32}
    with pytest.raises(BadRequest, match=r"do not fit custom.*size mismatch") as caught:
        OpenClip(
            config={"model_cfg": narrow, "preprocess_cfg": {"mean": [0] * 3, "std": [1] * 3}},
            pretrained=str(folder / WEIGHTS_FILE),
            device="cpu",
        )
    assert "\n" not in str(caught.value)


def test_a_file_that_holds_no_weights_is_named(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"not weights")
    with pytest.raises(BadRequest, match=r"'weights.pt' cannot be read"):
        OpenClip(
            config={"model_cfg": VIT, "preprocess_cfg": {"mean": [0] * 3, "std": [1] * 3}},
            pretrained=str(path),
            device="cpu",
        )


def test_missing_weights_are_one_line_at_once(offline):
    started = time.perf_counter()
    with pytest.raises(MissingWeights) as caught:
        clip_vit_b_32(device="cpu", **offline)
    assert time.perf_counter() - started < 2
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "'openai'",
        "ViT-B-32-quickgelu",
        "HF_HUB_OFFLINE",
        "FUSIONKIT_WEIGHTS",
        WEIGHTS_FILE,
    ):
        assert part in message


def test_an_unreachable_hub_is_asked_once(offline, monkeypatch):
    asked = []

    class Session:
        def head(self, *args, **kwargs):
            asked.append(args)
            raise OSError("no route")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    with pytest.raises(MissingWeights, match="cannot be reached"):
        find("hf-hub:someone/clip", None, **offline)
    with pytest.raises(MissingWeights, match="cannot be reached"):
        find("ViT-B-16:laion2b_s34b_b88k", "openai", **offline)
    assert len(asked) == 2


def test_weights_in_the_folder_of_the_machine_are_found_by_tag(offline, monkeypatch, tmp_path):
    folder = tmp_path / "openclip" / "ViT-B-16-quickgelu" / "openai"
    folder.mkdir(parents=True)
    monkeypatch.setenv("FUSIONKIT_WEIGHTS", str(tmp_path))
    (folder / "ViT-B-16.pt").write_bytes(b"weights")
    source = find("ViT-B-16-quickgelu", "openai", **offline)
    assert source.checkpoint == folder / "ViT-B-16.pt"
    assert source.preprocess["mean"] == open_clip.OPENAI_DATASET_MEAN
    (folder / CONFIG_FILE).write_text(
        json.dumps(
            {
                "model_cfg": open_clip.get_model_config("ViT-B-16-quickgelu"),
                "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
            }
        )
    )
    (folder / WEIGHTS_FILE).write_bytes(b"weights")
    source = find("ViT-B-16-quickgelu", "openai", **offline)
    assert source.checkpoint == folder / WEIGHTS_FILE
    assert source.preprocess["mean"] == [0.5] * 3
    assert source.preprocess["interpolation"] == "bicubic"  # what the folder leaves out: the tag
    with pytest.raises(BadRequest, match="holds ViT-B-16-quickgelu, not ViT-B-32-quickgelu"):
        find("ViT-B-32-quickgelu", str(folder), **offline)


def test_weights_in_the_hubs_cache_need_no_network(offline, monkeypatch, tmp_path):
    path = tmp_path / WEIGHTS_FILE
    asked = []

    def cached(repository, name, cache_dir):
        asked.append((repository, name, cache_dir))
        return str(path) if name == WEIGHTS_FILE else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    source = find("ViT-B-32-quickgelu", "openai", **offline)
    assert source.checkpoint == path
    assert asked == [("timm/vit_base_patch32_clip_224.openai", WEIGHTS_FILE, offline["cache_dir"])]


def test_a_file_of_openais_own_package_is_used_when_it_is_undamaged(offline, tmp_path):
    folder = tmp_path / ".cache" / "clip"
    folder.mkdir(parents=True)
    (folder / "ViT-B-32.pt").write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    assert _openai_cache(f"https://host/clip/models/{right}/ViT-B-32.pt", None) == (
        folder / "ViT-B-32.pt"
    )
    wrong = hashlib.sha256(b"other").hexdigest()
    assert _openai_cache(f"https://host/clip/models/{wrong}/ViT-B-32.pt", None) is None
    assert _openai_cache(f"https://host/clip/models/{right}/ViT-B-16.pt", None) is None
    assert _openai_cache("", None) is None


def test_a_bare_file_gets_the_normalisation_its_architecture_is_known_for(tmp_path):
    """The mistake of open_clip's issue 1068: SigLIP weights read with CLIP's normalisation."""
    path = tmp_path / "siglip.safetensors"
    settings, whose = _preprocess_of_file(path, "ViT-B-16-SigLIP", ())
    assert settings["mean"] == settings["std"] == (0.5, 0.5, 0.5)
    assert settings["resize_mode"] == "squash"
    assert "ViT-B-16-SigLIP" in whose
    with pytest.raises(BadRequest, match="does not say how pictures are normalised"):
        _preprocess_of_file(path, "ViT-L-14", ())  # its published weights differ
    assert _preprocess_of_file(path, "ViT-L-14", ("mean", "std")) == ({}, "option preprocess")
    path.with_name(CONFIG_FILE).write_text(json.dumps({"preprocess_cfg": {"mean": [0.3] * 3}}))
    assert _preprocess_of_file(path, "ViT-L-14", ())[0] == {"mean": [0.3] * 3}


def test_a_folder_that_does_not_say_its_normalisation_is_refused(encoder, tmp_path):
    folder = encoder.save(tmp_path / "clip")
    stored = json.loads((folder / CONFIG_FILE).read_text())
    del stored["preprocess_cfg"]
    (folder / CONFIG_FILE).write_text(json.dumps(stored))
    with pytest.raises(BadRequest, match="normalised"):
        find(f"local-dir:{folder}", None)


# -- names ---------------------------------------------------------------------------------------


def test_an_unknown_architecture_is_answered_with_the_nearest_name():
    with pytest.raises(BadRequest, match="Did you mean 'ViT-B-32-quickgelu'") as caught:
        OpenClip(model="ViT-B-32-quickgleu")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_named_as_a_folder(tmp_path):
    for model in (f"local-dir:{tmp_path}/clip", f"{tmp_path}/clip", "./clip"):
        with pytest.raises(MissingWeights, match="there is no folder"):
            find(model, "openai")
    with pytest.raises(MissingWeights, match=r"no open_clip_config\.json"):
        find(str(tmp_path), None)


def test_an_unknown_tag_is_answered_with_the_tags_there_are():
    with pytest.raises(BadRequest, match=r"Did you mean 'openai'.*Available: .*laion400m_e32"):
        OpenClip(pretrained="openia")


@pytest.mark.parametrize(
    "name,cure", [("ViT-B-32", "ViT-B-32-quickgelu"), ("ViT-B/16", "ViT-B-16-quickgelu")]
)
def test_weights_are_not_put_behind_the_wrong_activation(name, cure):
    with pytest.raises(BadRequest, match=f"QuickGELU.*model='{cure}'"):
        OpenClip(model=name, pretrained="openai")


def test_random_weights_must_be_asked_for_by_name():
    with pytest.raises(BadRequest, match=r"random weights.*untrained=True"):
        OpenClip(pretrained=None)
    with pytest.raises(BadRequest, match="pass pretrained=None with it"):
        OpenClip(untrained=True)
    with pytest.raises(BadRequest, match="needs weights of its own"):
        OpenClip(config=VIT)


@pytest.mark.parametrize(
    "options,text",
    [
        ({"dense": "tokns"}, "dense is 'tokns'"),
        ({"preprocess": {"meen": 0}}, "Did you mean 'mean'"),
        ({"preprocess": {"resize_mode": "crop"}}, "shortest, squash, longest"),
        ({"preprocess": {"std": [0, 1, 1]}}, "std above 0"),
        ({"dense_size": "large"}, "dense_size"),
        ({"background": "road"}, "list of prompts"),
        ({"precision": "float8"}, "float8"),
        ({"config": {"embed_dim": 3}}, "lacks vision_cfg, text_cfg"),
        ({"config": "nowhere.json"}, "no file"),
        ({"config": VIT | {"text_cfg": TEXT | {"vocab_size": 100}}}, "vocab_size to 49408"),
        ({"config": VIT | {"vision_cfg": {"with": 64}}}, "cannot build custom"),
    ],
)
def test_a_wrong_option_says_what_is_right(options, text):
    with pytest.raises(BadRequest, match=text):
        untrained(**({"config": VIT} | options))


def test_the_description_says_what_was_used(encoder, tmp_path):
    record = encoder.describe()
    assert json.loads(json.dumps(record)) == record
    assert record["untrained"] and "untrained" in record["description"]
    assert record["parameters"] == sum(p.numel() for p in encoder.model.parameters())
    assert record["preprocess"]["size"] == [64, 64]
    assert record["weights_sha256"] is None
    saved = OpenClip(model=str(encoder.save(tmp_path / "clip")), device="cpu").describe()
    assert len(saved["weights_sha256"]) == 64
    assert saved["config"] == record["config"]


def test_a_seed_repeats_random_weights_and_leaves_the_generator_alone(encoder):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    again, other = untrained(), untrained(seed=1)
    assert torch.rand(1) == expected
    assert torch.equal(again.model.visual.proj, encoder.model.visual.proj)
    assert not torch.equal(other.model.visual.proj, encoder.model.visual.proj)


def test_building_is_silent_and_leaves_logging_as_it_was(capfd, caplog):
    handlers = list(logging.getLogger().handlers)
    untrained()
    assert logging.getLogger().handlers == handlers
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_presets_name_their_architecture_and_refuse_unknown_options():
    offered = fusionkit_encoders()
    assert set(offered) == {"openclip", "clip-vit-b-32", "clip-vit-b-16", "clip-vit-l-14"}
    for name in set(offered) - {"openclip"}:
        parameters = inspect.signature(offered[name]).parameters
        assert "device" in parameters and "model" not in parameters
        assert offered[name].__doc__.startswith("CLIP ViT")


def test_declaring_the_plugin_imports_neither_open_clip_nor_torchvision():
    """Both cost seconds; they are paid when an encoder is built."""
    for path in Path(inspect.getfile(OpenClip)).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in getattr(node, "names", [])]
            names.append(getattr(node, "module", None) or "")
            heavy = {name.split(".")[0] for name in names} & {
                "open_clip",
                "torchvision",
                "timm",
                "transformers",
                "huggingface_hub",
            }
            assert not heavy, (path.name, heavy)


def test_configurations_are_compared_by_what_they_mean():
    spelt_out = json.loads(json.dumps(VIT))
    spelt_out["vision_cfg"] |= {"image_size": 80, "mlp_ratio": 4.0}
    assert _same(VIT, spelt_out)
    assert not _same(VIT, VIT | {"quick_gelu": False})


def test_an_error_of_torch_is_shortened_to_its_reason():
    text = "Error(s) in loading state_dict for CLIP:\n\tsize mismatch for x\n\tmore\n"
    assert _first_line(RuntimeError(text)) == (
        "Error(s) in loading state_dict for CLIP: size mismatch for x"
    )


# -- numbers of a reference program --------------------------------------------------------------


def seeded_weights(shapes):
    """Weights that are a function of their names, as the golden values were recorded with."""
    for name, shape in shapes.items():
        stream = numpy.random.RandomState(zlib.crc32(name.encode()))
        normal = stream.standard_normal(shape)
        if len(shape) > 1:
            normal /= numpy.sqrt(numpy.prod(shape[1:]))
        elif name.split(".")[-1] == "bias":
            normal *= 0.05
        else:
            normal = 1 + 0.05 * normal
        yield name, torch.as_tensor(numpy.asarray(normal, "float32"))


def seeded_picture(name, shape):
    """A sum of six waves a plane, each plane stretched to [0, 1], as the golden values saw it."""
    stream = numpy.random.RandomState(zlib.crc32(f"image:{name}".encode()))
    height, width = shape[-2:]
    y, x = numpy.mgrid[0:height, 0:width].astype(float)
    planes = []
    for _ in range(int(numpy.prod(shape[:-2]))):
        plane = numpy.zeros((height, width))
        for _ in range(6):
            down, across = stream.uniform(0.5, 12, 2)
            phase, weight = stream.uniform(0, 2 * numpy.pi), stream.uniform(0.2, 1)
            waves = down * y / height + across * x / width
            plane += weight * numpy.sin(2 * numpy.pi * waves + phase)
        plane -= plane.min()
        planes.append(plane / plane.max())
    return torch.as_tensor(numpy.reshape(planes, shape).astype("float32"))


def test_embeddings_equal_those_the_ldfusion_reference_works_with(tmp_path):
    """A two-layer CLIP of 64 numbers: the first eight of three sentences and two pictures.

    Origin: LDFusion's published trainer (wyhlaowang/LDFusion, src/trainer.py) on this seeded
    network; tokenizer, both towers, and its own way to prepare pictures are part of it.
    """
    config = {
        "embed_dim": 64,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 224,
            "layers": 2,
            "width": 64,
            "head_width": 32,
            "patch_size": 32,
        },
        "text_cfg": TEXT,
    }
    shapes = {k: v.shape for k, v in untrained(config).model.state_dict().items()}
    path = tmp_path / "seeded.pt"
    torch.save(dict(seeded_weights({f"clip.{k}": v for k, v in shapes.items()})), path)
    encoder = OpenClip(
        config=config,
        pretrained=str(path),
        preprocess={
            "mean": (0.48145466, 0.4578275, 0.40821073),
            "std": (0.26862954, 0.26130258, 0.27577711),
            "resize_mode": "squash",
            "interpolation": "bilinear",
            "antialias": False,
        },
        device="cpu",
    )
    sentences = {
        "a visible gray image": "0.5513166 -0.5018210 0.5879595 -0.6673087 "
        "0.4174965 -0.4546735 -0.8936119 -0.4560186",
        "an infrared image": "0.1945550 -0.5889713 0.5170636 -0.5919363 "
        "0.6797927 -0.3513359 -0.9642903 -0.5775635",
        "a clear image with detailed background and salient objects": "0.2283237 -1.0279508 "
        "0.7677022 -0.7626963 0.7067778 -0.7042145 -1.0203521 -0.5261787",
    }
    found = encoder.encode_text(list(sentences)).pooled[:, :8]
    torch.testing.assert_close(found, numbers(sentences.values()), rtol=1e-4, atol=1e-5)
    photographs = {
        "ldfusion/tiny/vis": "0.7680158 -1.1422787 0.6436397 0.3456159 "
        "-0.7984554 0.8155184 0.8335019 1.0897528",
        "ldfusion/tiny/ir": "-0.0178479 -1.3814393 0.9534710 -0.1966578 "
        "-0.4455226 0.5209596 0.7953976 1.6654592",
    }
    images = torch.cat([seeded_picture(name, (2, 1, 64, 80))[:1] for name in photographs])
    found = encoder.encode_image(images).pooled[:, :8]
    torch.testing.assert_close(found, numbers(photographs.values()), rtol=1e-4, atol=1e-5)


def numbers(rows):
    return torch.tensor([[float(value) for value in row.split()] for row in rows])
