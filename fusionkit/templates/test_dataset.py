"""The contract of data sets, on a folder made here, and whatever else it promises."""

import numpy as np
import pytest
from fusionkit_component.component_module import Component
from PIL import Image

from fusionkit.registry import Registry
from fusionkit.testing import DatasetContract


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four pairs of noise in the layout."""
    folder = tmp_path_factory.mktemp("pairs")
    noise = np.random.default_rng(0)
    for name in ("thermal", "rgb"):
        (folder / name).mkdir()
        for index in range(4):
            shape = (40, 56) if name == "thermal" else (40, 56, 3)
            values = noise.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(values).save(folder / name / f"{index}.png")
    return folder


class TestComponent(DatasetContract):
    @pytest.fixture(autouse=True)
    def _folder(self, root):
        self.root = root

    def build(self, **options):
        return Component(root=self.root, split="all", **options)


def test_it_is_found():
    registry = Registry.from_environment()
    assert registry.entry("dataset", "component-name").plugin == "component-name"
