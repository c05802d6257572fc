"""The embedded scene generator."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fusionkit_standard.scenes import CLASSES, Scene, render


def test_a_scene_is_a_pure_function_of_seed_and_size():
    first, second = render(7, 64), render(7, 64)
    for field in ("visible", "infrared", "classes", "instances", "depth"):
        assert np.array_equal(getattr(first, field), getattr(second, field))
    assert first.captions == second.captions and first.dense == second.dense
    assert not np.array_equal(first.visible, render(8, 64).visible)


def test_arrays_have_the_promised_shapes_and_types():
    scene = render(3, (96, 128))
    assert isinstance(scene, Scene)
    assert scene.visible.shape == (96, 128, 3) and scene.visible.dtype == np.uint8
    for field, dtype in (
        ("infrared", np.uint8),
        ("classes", np.uint8),
        ("instances", np.int32),
        ("depth", np.float32),
    ):
        value = getattr(scene, field)
        assert value.shape == (96, 128) and value.dtype == dtype
    assert scene.classes.max() < len(CLASSES)
    assert np.isfinite(scene.depth).all() and scene.depth.min() > 0


def test_boxes_and_areas_belong_to_the_instance_map():
    for seed in range(12):
        scene = render(seed)
        areas = [thing.area for thing in scene.things]
        assert areas == sorted(areas, reverse=True)
        for thing in scene.things:
            own = scene.instances == thing.instance
            x0, y0, x1, y1 = thing.box
            assert own.sum() == thing.area == own[y0:y1, x0:x1].sum()
            assert own[y0].any() and own[y1 - 1].any()
            assert own[:, x0].any() and own[:, x1 - 1].any()
            assert (scene.mask(thing.label) & own).sum() == thing.area


def test_the_same_seed_shows_the_same_street_at_another_size():
    small, large = render(5, 64), render(5, 128)
    halved = large.classes[::2, ::2]
    assert (small.classes == halved).mean() > 0.85


@pytest.mark.parametrize(("seed", "size"), [(-1, 64), (0, 8)])
def test_impossible_requests_are_refused_with_a_reason(seed, size):
    with pytest.raises(ValueError, match="counts from 0|too small"):
        render(seed, size)


def test_scenes_do_not_need_torch():
    code = (
        "import sys, types\n"
        "package = types.ModuleType('fusionkit_standard')\n"
        "package.__path__ = [sys.argv[1]]\n"
        "sys.modules['fusionkit_standard'] = package\n"
        "import fusionkit_standard.scenes as scenes\n"
        "scenes.render(0, 64)\n"
        "print('torch' in sys.modules)\n"
    )
    folder = Path(sys.modules[render.__module__].__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
