"""The contracts of what reads a batch beside the network: guides and captioners."""

from collections.abc import Mapping
from typing import Any

import torch

from fusionkit.batch import Batch
from fusionkit.testing.contract import Contract
from fusionkit.testing.inputs import first, tiny_batch


class GuideContract(Contract):
    """``factory(**options)``, called with a Batch, returns maps by name."""

    def batch(self, count: int = 2, size: tuple[int, int] = (57, 83)) -> Batch:
        return tiny_batch(count, size)

    def test_returns_named_maps_of_every_picture(self):
        maps = self.build()(self.batch())
        assert isinstance(maps, Mapping) and maps
        for name, values in maps.items():
            assert isinstance(name, str)
            assert values.ndim == 4 and len(values) == 2, name
            assert values.isfinite().all(), name

    def test_same_batch_gives_same_maps(self):
        guide, batch = self.build(), self.batch()
        first, second = guide(batch), guide(batch)
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_one_picture_does_not_change_another(self):
        guide, batch = self.build(), self.batch()
        together, alone = guide(batch), guide(first(batch))
        for name in together:
            torch.testing.assert_close(together[name][:1], alone[name], rtol=1e-3, atol=1e-4)

    def test_constant_pictures_give_numbers(self):
        batch = self.batch()
        flat = batch.replace(
            visible=torch.full_like(batch.visible, 0.5),
            infrared=torch.full_like(batch.infrared, 0.5),
        )
        for name, values in self.build()(flat).items():
            assert values.isfinite().all(), name


class CaptionerContract(Contract):
    """``factory(**options)``, called with pictures, returns one text per picture."""

    def context(self, batch: Batch) -> dict[str, Any]:
        """Further keywords, such as masks."""
        return {}

    def test_writes_one_text_per_picture(self):
        batch = tiny_batch(2, (57, 83))
        texts = self.build()(batch.visible, **self.context(batch))
        assert isinstance(texts, list) and len(texts) == 2
        assert all(isinstance(text, str) and text.strip() for text in texts)
