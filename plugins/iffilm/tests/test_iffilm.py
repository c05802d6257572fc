"""What the parts of IF-FILM promise beside parity: maps, text, other schemes, data, recipes."""

import h5py
import numpy as np
import pytest
import torch
from fusionkit_iffilm.modulation import TextScan
from fusionkit_iffilm.network import IfFilm
from fusionkit_iffilm.official import official
from fusionkit_iffilm.scan import WIDTH, ScanGate, token_weight
from fusionkit_iffilm.task import ParagraphPairs
from fusionkit_iffilm.vlf import Vlf

import fusionkit as fk
from fusionkit.batch import TextFeatures
from fusionkit.data import write_image
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.methods import load_method
from fusionkit.testing import (
    TEXT_DIM,
    DatasetContract,
    NetworkContract,
    TinyEncoder,
    tiny_batch,
    tiny_pairs,
    tiny_text,
)
from fusionkit.training import train

SMALL = (16, 32)


@pytest.fixture(scope="module")
def registry():
    return fk.Registry.from_environment()


class TestNetwork(NetworkContract):
    """The whole network on a grid of two strips per channel."""

    @staticmethod
    def build(**options):
        return IfFilm(grid=SMALL, channels=16, **options)


class TestVlfFolders(DatasetContract):
    count = 2

    @pytest.fixture(autouse=True)
    def _root(self, vlf_folders):
        self.root = vlf_folders

    def build(self, **options):
        return Vlf(self.root, set="MSRS", **options)


@pytest.fixture(scope="module")
def vlf_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("vlf")
    pictures = root / "VLFDataset" / "Image" / "IVF" / "MSRS"
    features = root / "VLFDataset" / "TextFeature" / "IVF" / "MSRS"
    features.mkdir(parents=True)
    for i, pair in enumerate(tiny_pairs(2, (24, 32))):
        write_image(pictures / "IR" / f"0000{i}N.png", pair.infrared)
        write_image(pictures / "VI" / f"0000{i}N.png", pair.visible)
        values = np.random.RandomState(i).standard_normal((1, 3 + i, 768)).astype("float32")
        np.save(features / f"0000{i}N.npy", values)
    (pictures / "train.txt").write_text("00000N.png\n00001N.png\n")
    return root


@pytest.fixture(scope="module")
def vlf_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("vlf5") / "VLFDataset_h5" / "MSRS_train.h5"
    file.parent.mkdir()
    with h5py.File(file, "w") as content:
        for i, pair in enumerate(tiny_pairs(2, (24, 32))):
            name = f"0000{1 - i}N"
            content[f"imageA/{name}"] = pair.infrared.numpy()
            content[f"imageB/{name}"] = pair.visible.mean(0, keepdim=True).numpy()
            content[f"text/{name}"] = np.full((1, 4, 768), i, "float32")
    return file


def test_features_of_both_layouts_reach_the_network(vlf_folders, vlf_file, registry):
    read = registry.create("encoder", "stored-features")
    pairs = Vlf(vlf_folders)
    assert pairs[0].texts["features"].endswith("00000N.npy")
    text = read.encode_text([pair.texts["features"] for pair in pairs])
    assert text.tokens.shape == (2, 4, 768) and text.mask.tolist()[0] == [True] * 3 + [False]

    stored = Vlf(vlf_file.parents[1])
    assert stored.names == ["00000N", "00001N"]
    text = read.encode_text([pair.texts["features"] for pair in stored])
    assert text.tokens[:, 0, 0].tolist() == [1.0, 0.0]
    task = ParagraphPairs(pairs=list(stored), crop=16, registry=registry)
    batch = task.sample(2, torch.Generator().manual_seed(0))
    assert set(batch.labels["texts"][0]) == {"features"}


def test_grey_pictures_are_whole_numbers_as_released(vlf_folders):
    pair = Vlf(vlf_folders, colour=False)[0]
    assert torch.equal(pair.visible[0], pair.visible[2])
    scaled = pair.visible * 255
    torch.testing.assert_close(scaled, scaled.round(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "IVX"}, "no task 'IVX'"),
        ({"split": "val"}, "not 'val'"),
        ({"set": "M3FD"}, "there is no list"),
        ({"task": "MFF"}, "there is no list"),
    ],
)
def test_what_the_data_lack_is_said(vlf_folders, options, message):
    with pytest.raises(BadRequest, match=message):
        Vlf(vlf_folders, **options)


def test_attention_maps_are_shares_of_even_attention_by_strip():
    network = IfFilm(text_dim=TEXT_DIM, grid=SMALL, channels=8, keep=("attention", "tokens"))
    network.eval()
    with torch.no_grad():
        maps = network(tiny_batch(2, (20, 30)).replace(texts={})).maps
    drawn = maps["block2.visible.attention"]
    assert drawn.shape == (2, 1, *SMALL)
    torch.testing.assert_close(drawn.mean((1, 2, 3)), torch.ones(2))  # shares sum to 1
    rows = drawn.flatten(2).unflatten(2, (-1, WIDTH))
    assert torch.equal(rows.amin(-1), rows.amax(-1)), "a strip has one value"
    tokens, real = maps["block2.visible.tokens"], tiny_text(2).mask
    weight = real / real.sum(1, keepdim=True)
    mean = (tokens * weight[:, :, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(mean, drawn, rtol=1e-4, atol=1e-5)


def test_the_gate_map_is_what_multiplied_the_grid():
    torch.manual_seed(0)
    point = ScanGate(8, SMALL).eval()
    with torch.no_grad():
        feature, text = torch.randn(1, 8, *SMALL), torch.randn(1, 4, WIDTH)
        found = point(feature, text, token_weight(text, None))
        pattern = found.gate.repeat(1, 2).view(1, 1, *SMALL)
        torch.testing.assert_close(found.gate.abs().sum(), torch.tensor(1.0))
        expected = point.activation(point.back(point.into(feature) * pattern))
    torch.testing.assert_close(found.change, expected)


def test_padding_does_not_shift_the_mean_over_tokens():
    torch.manual_seed(0)
    network = IfFilm(text_dim=TEXT_DIM, grid=SMALL, channels=8).eval()
    batch, text = tiny_batch(1, (16, 24)), tiny_text(1)
    padded = TextFeatures(
        pooled=text.pooled,
        tokens=torch.cat([text.tokens, torch.full((1, 3, TEXT_DIM), 9.0)], 1),
        mask=torch.cat([text.mask, torch.zeros(1, 3, dtype=torch.bool)], 1),
    )
    with torch.no_grad():
        alone, beside = (network(batch.replace(text=t, texts={})).image for t in (text, padded))
    torch.testing.assert_close(alone, beside)


def test_both_paragraphs_stand_side_by_side_and_go_before_the_prompt():
    torch.manual_seed(0)
    network = IfFilm(text_dim=TEXT_DIM, grid=SMALL, channels=8).eval()
    batch = tiny_batch(1, (16, 24))
    first, second = batch.texts["ir"], batch.texts["vi"]
    joined = TextFeatures(pooled=first.pooled, tokens=torch.cat([first.tokens, second.tokens], 1))
    with torch.no_grad():
        by_kind = network(batch.replace(texts={"ir": first, "vi": second})).image
        by_hand = network(batch.replace(texts={}, text=joined)).image
        prompt = network(batch.replace(texts={})).image
    torch.testing.assert_close(by_kind, by_hand)
    assert not torch.equal(by_kind, prompt)


def test_without_text_it_fuses_and_says_so():
    network = IfFilm(text_dim=TEXT_DIM, grid=SMALL, channels=8).eval()
    with pytest.warns(UserWarning, match="no text"), torch.no_grad():
        network(tiny_batch(1, (16, 24)).replace(text=None, texts={}))


def test_a_grid_that_cannot_be_cut_and_a_map_that_is_not_kept_are_refused():
    with pytest.raises(BadRequest, match="a grid of 15x20"):
        TextScan(channels=8, text_dim=4, grid=(15, 20))
    with pytest.raises(BadRequest, match="Did you mean 'gate'"):
        IfFilm(text_dim=4, keep=("gates",))


def test_the_scheme_starts_as_plain_addition():
    scheme = TextScan(channels=8, text_dim=TEXT_DIM, grid=SMALL)
    v, r = torch.randn(2, 1, 8, 9, 7).unbind()
    torch.testing.assert_close(scheme(v, r, tiny_text(1), {}), v + r)


def test_another_scheme_takes_the_place_of_its_own_by_name(registry):
    recipe = registry.create("recipe", "iffilm-small").with_overrides(
        {"modulation": "film", "encoder": "tiny-clip", "network.options.channels": 8}
    )
    method = fk.methods.Method(recipe, registry, encoder=TinyEncoder())
    assert method.network.text_process is None
    assert type(method.network.blocks[0].point).__name__ == "Film"
    assert method(tiny_batch(1, (16, 24))).image.shape == (1, 3, 16, 24)


def test_a_pair_without_words_is_described_and_one_with_words_is_not(registry):
    pair = tiny_pairs(1, (48, 64))[0]
    task = ParagraphPairs(pairs=[pair], registry=registry)
    assert task.describe(pair) == {"ir": pair.texts["ir"], "vi": pair.texts["vi"]}
    bare = type(pair)(name="bare", visible=pair.visible, infrared=pair.infrared)
    written = task.describe(bare)
    assert "64X48" in written["ir"] and "infrared" in written["ir"] and "visible" in written["vi"]
    upright = type(pair)(
        name="upright", visible=pair.visible.mT, infrared=pair.infrared.mT, texts=pair.texts
    )
    laid = ParagraphPairs(pairs=[upright], registry=registry).pairs[0]
    whole = ParagraphPairs(pairs=[pair], registry=registry).pairs[0]
    assert laid.visible.shape == (3, 288, 384)
    torch.testing.assert_close(laid.visible, whole.visible)


def test_it_trains_a_little_and_fuses_again_from_its_checkpoint(tmp_path, registry):
    recipe = registry.create("recipe", "iffilm-small").with_overrides(
        {
            "steps": 6,
            "network.options.grid": list(SMALL),
            "network.options.channels": 8,
            "stages.0.crop": 24,
            "encoder": {"name": "paragraphs", "options": {"reader": "tiny-clip"}},
            "learning_rate": 3e-3,
        }
    )
    file = tmp_path / "trained.pt"
    trained = train(
        recipe, tiny_pairs(2, (32, 40)), registry=registry, checkpoint=file, device="cpu",
        precision="float32", log_every=1,
    )  # fmt: skip
    totals = [terms["total"] for terms in trained.history.values()]
    assert totals[-1] < totals[0]
    pair = tiny_pairs(1, (33, 41))[0]
    method = load_method("iffilm-small", file, device="cpu", precision="float32")
    fused = method.fuse(pair.infrared[None], pair.visible[None])
    told = method.fuse(
        pair.infrared[None], pair.visible[None], {"ir": "a person", "vi": "a road at night"}
    )
    assert fused.shape == told.shape == (1, 3, 33, 41)
    assert not torch.equal(fused, told)


def test_released_weights_without_an_encoder_take_stored_features(tmp_path, registry, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    torch.manual_seed(0)
    network = IfFilm()
    names = _released_names(network)
    file = tmp_path / "IVF.pth"
    torch.save({"model": {f"module.{k}": v for k, v in names.items()}}, file)
    method = load_method("iffilm", file, device="cpu", precision="float32", registry=registry)
    pair = tiny_pairs(1, (16, 24))[0]
    text = TextFeatures(pooled=torch.zeros(1, 768), tokens=torch.randn(1, 5, 768))
    fused = method.fuse(pair.infrared[None], pair.visible[None], text)
    assert fused.shape == (1, 3, 16, 24)
    with pytest.raises(MissingWeights, match="features made elsewhere"):
        method.fuse(pair.infrared[None], pair.visible[None], "a person")


def _released_names(network):
    """Our weights under the released names, by asking which name leads to which of ours."""
    from pathlib import Path

    from fusionkit_iffilm.official import our_name

    from fusionkit.testing import golden

    manifest = golden.read(Path(__file__).with_name("golden") / "manifest.json")
    state = network.state_dict()
    named = {
        name: state[our_name(name)].reshape(spec["shape"])
        for name, spec in manifest["tensors"].items()
    }
    assert official(named).network.state_dict().keys() == state.keys()
    return named
