"""Names become the same numbers on every machine: values recorded once."""

import numpy as np
import torch

from fusionkit.testing import golden

WEIGHT = [0.12737134, -0.19484633, -0.019457497]
IMAGE = [0.9242487, 0.2330097, 0.2333671]


def test_a_name_stands_for_the_same_array_everywhere():
    weight = golden.seeded_array("conv.weight", (4, 3, 3, 3))
    assert weight.dtype == np.float32
    np.testing.assert_allclose(weight.ravel()[:3], WEIGHT, rtol=1e-6)
    np.testing.assert_allclose(golden.seeded_image("a", (2, 8, 8))[1, 3, :3], IMAGE, rtol=1e-5)


def test_kinds_of_tensors_have_their_own_ranges():
    assert abs(golden.seeded_array("norm.bias", (4096,)).std() - 0.05) < 0.005
    assert abs(golden.seeded_array("norm.weight", (4096,)).mean() - 1) < 0.005
    variance = golden.seeded_array("bn.running_var", (4096,))
    assert 0.5 <= variance.min() < variance.max() < 1.5
    assert abs(golden.seeded_array("fc.weight", (64, 400)).std() * 20 - 1) < 0.05
    assert golden.seeded_array("bn.num_batches_tracked", (), "int64") == 0


def test_states_and_inputs_are_read_from_a_manifest():
    state = golden.seeded_state({"tensors": {"fc.weight": {"shape": [2, 3]}}})
    assert state["fc.weight"].shape == (2, 3)
    spec = {"kind": "image", "name": "x", "shape": [1, 3, 8, 9], "scale": 0.5, "offset": 0.25}
    picture = golden.seeded_input(spec)
    assert picture.dtype == torch.float32 and picture.shape == (1, 3, 8, 9)
    assert picture.min() == 0.25 and picture.max() == 0.75


def test_the_full_recording_goes_before_the_compact_one(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONKIT_GOLDEN", str(tmp_path))
    assert golden.folder("nobody", "beside").name == "beside"
    (tmp_path / "nobody").mkdir()
    assert golden.folder("nobody", "beside") == tmp_path / "nobody"
