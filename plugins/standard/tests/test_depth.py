"""Depth: of the scene, from files, by a model (built small, read from disk as a real one)."""

import numpy as np
import pytest
import torch
from fusionkit_standard.depth import FAR, NEAR, Depth, guess, metres
from PIL import Image

from fusionkit import hub
from fusionkit.data import FolderPairs, write_image
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.testing import GuideContract, tiny_batch, tiny_pairs


def small_model(folder, kind="metric"):
    """A Depth Anything with random weights, as a folder."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hub'")
    torch.manual_seed(0)
    config = transformers.DepthAnythingConfig(
        backbone_config=transformers.Dinov2Config(
            image_size=28, patch_size=14, num_hidden_layers=2, hidden_size=16,
            num_attention_heads=2, out_features=["stage1", "stage2"], reshape_hidden_states=False,
        ),
        reassemble_hidden_size=16, patch_size=14, reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 8], fusion_hidden_size=8, head_hidden_size=8,
        depth_estimation_type=kind, max_depth=80,
    )  # fmt: skip
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    transformers.DPTImageProcessor(
        size={"height": 28, "width": 28}, keep_aspect_ratio=True, ensure_multiple_of=14,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("depth"))


class TestGuess(GuideContract):
    def build(self, **options):
        return Depth(model=None, **options)

    def batch(self, count=2, size=(57, 83)):
        return tiny_batch(count, size).replace(guides={})


class TestModel(TestGuess):
    @pytest.fixture(autouse=True)
    def _model(self, model):
        self.model = model

    def build(self, **options):
        return Depth(model=str(self.model), **options)


def test_the_depth_of_the_scene_goes_before_everything(model):
    batch = tiny_batch(2, (28, 42))
    batch = batch.replace(guides={"depth": torch.full((2, 1, 28, 42), 7.0)})
    assert (Depth(model=str(model))(batch)["depth"] == 7).all()


def test_a_file_goes_before_the_model_and_is_read_in_metres(tmp_path, model):
    np.save(tmp_path / "pair-0.npy", np.full((24, 32), 12.5, np.float32))
    deep = np.full((12, 16), 65535 // 4, np.uint16)
    Image.fromarray(deep).save(tmp_path / "pair-1.png")
    batch = tiny_batch(3, (24, 32)).replace(guides={})
    assert batch.names[:2] == ("pair-0", "pair-1")
    depth = Depth(folder=tmp_path, model=str(model))(batch)["depth"]
    assert depth[0].unique().item() == 12.5
    assert depth[1].unique().item() == pytest.approx(250, abs=0.02)
    assert depth[2].std() > 0  # by the model
    with pytest.raises(BadRequest, match="no folder"):
        Depth(folder=tmp_path / "nowhere", model=None)


def test_a_model_of_metres_is_believed_and_one_of_inverse_distances_is_stretched(tmp_path, model):
    batch = tiny_batch(2, (28, 42)).replace(guides={})
    guide = Depth(model=str(model))
    assert guide.metric
    pixels = guide.processor(images=(batch.visible[0] * 255).byte(), return_tensors="pt")
    assert pixels["pixel_values"].shape[-2:] == (28, 42)
    metric = guide(batch)["depth"]
    assert metric.min() >= 0 and metric.max() <= 80
    relative = Depth(model=str(small_model(tmp_path, "relative")))
    assert not relative.metric
    stretched = relative(batch)["depth"]
    for row in stretched:
        assert row.min().item() == pytest.approx(NEAR, rel=0.01)
        assert row.max().item() == pytest.approx(FAR, rel=0.01)


def test_what_is_near_has_a_large_inverse_distance():
    inverse = torch.tensor([[[0.0, 1.0, 2.0]]])
    far, middle, near = metres(inverse).flatten().tolist()
    assert (far, near) == (pytest.approx(200), pytest.approx(2))
    assert middle == pytest.approx(1 / ((1 / 200 + 1 / 2) / 2))


def test_the_guess_takes_the_top_for_far():
    depth = guess(torch.full((3, 48, 64), 0.5))
    assert depth.shape == (1, 48, 64)
    assert (depth[0].diff(dim=0) <= 1e-4).all()
    assert depth.min() >= NEAR and depth.max() <= FAR


def test_a_model_that_cannot_be_had_is_named_with_what_to_do_instead(monkeypatch):
    pytest.importorskip("transformers", reason="needs the extra 'hub'")
    monkeypatch.setattr(hub, "_reachable", lambda endpoint: False)
    with pytest.raises(MissingWeights, match=r"nobody/depth.*guesses"):
        Depth(model="nobody/depth")


def test_a_folder_of_pairs_brings_its_depth_along(tmp_path):
    for pair in tiny_pairs(2):
        write_image(tmp_path / "ir" / f"{pair.name}.png", pair.infrared)
        write_image(tmp_path / "vi" / f"{pair.name}.png", pair.visible)
    (tmp_path / "depth").mkdir()
    np.save(tmp_path / "depth" / "pair-1.npy", tiny_pairs(2)[1].depth[0].numpy())
    first, second = FolderPairs(tmp_path)
    assert first.depth is None
    torch.testing.assert_close(second.depth, tiny_pairs(2)[1].depth)
    assert FolderPairs(tmp_path, size=(12, 16))[1].depth.shape == (1, 12, 16)
    np.save(tmp_path / "depth" / "pair-0.npy", np.ones((3, 3)))
    with pytest.raises(BadRequest, match="depth of pair 'pair-0' is 3x3"):
        FolderPairs(tmp_path)[0]
    np.save(tmp_path / "depth" / "pair-0.npy", -np.ones((24, 32)))
    with pytest.raises(BadRequest, match="finite metres"):
        FolderPairs(tmp_path)[0]
