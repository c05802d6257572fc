"""The contract of a metric."""

from typing import Any

import torch
from torch import Tensor

from fusionkit.testing.contract import Contract
from fusionkit.testing.inputs import tiny_batch


class MetricContract(Contract):
    """``factory(**options)``, called ``(fused, ir, vi)``, returns one number per picture."""

    size = (70, 81)
    """Height and width of the test pictures, odd on purpose; grown to the ``min_size`` a metric
    states."""

    def _size(self) -> tuple[int, int]:
        least = getattr(self.build(), "min_size", 1)
        return max(self.size[0], least), max(self.size[1], least)

    def context(self, count: int) -> dict[str, Any]:
        """Further keywords, for scores that need a text, a mask or a reference."""
        batch = tiny_batch(count, self._size())
        offers = {
            "text": list(batch.prompts),
            "mask": batch.targets["mask"],
            "reference": batch.visible,
            "confidence": torch.linspace(0.2, 0.8, count),
        }
        return {need: offers[need] for need in self.build().needs if need in offers}

    def pictures(self, count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
        """Fused, infrared, visible."""
        batch = tiny_batch(count, self._size())
        return batch.targets["fused"], batch.infrared, batch.visible

    def score(self, *pictures: Tensor) -> Tensor:
        return self.build()(*pictures, **self.context(len(pictures[0])))

    def test_describes_itself(self):
        metric = self.build()
        assert isinstance(metric.name, str) and metric.name
        assert isinstance(metric.higher_is_better, bool)
        low, high = metric.range
        assert low < high
        for fact in ("unit", "source", "variant"):
            assert isinstance(getattr(metric, fact), str), fact
        assert set(metric.needs) <= {"fused", "ir", "vi", "text", "mask", "reference", "confidence"}

    def test_returns_one_finite_number_per_picture_within_its_range(self):
        values = self.score(*self.pictures())
        assert values.shape == (2,) and values.is_floating_point()
        low, high = self.build().range
        assert values.isfinite().all()
        assert (values >= low - 1e-6).all() and (values <= high + 1e-6).all()

    def test_grey_pictures_score_the_same_with_one_channel_or_three(self):
        pictures = [p.mean(1, keepdim=True) for p in self.pictures()]
        one = self.score(*pictures)
        three = self.score(*(p.expand(-1, 3, -1, -1) for p in pictures))
        torch.testing.assert_close(one, three, rtol=1e-5, atol=1e-6)

    def test_a_picture_scores_the_same_alone(self):
        pictures = self.pictures()
        together = self.score(*pictures)[:1]
        context = {name: value[:1] for name, value in self.context(len(pictures[0])).items()}
        alone = self.build()(*(p[:1] for p in pictures), **context)
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)

    def test_same_pictures_give_same_score(self):
        pictures = self.pictures()
        assert torch.equal(self.score(*pictures), self.score(*pictures))

    def test_leaves_its_pictures_alone(self):
        pictures = self.pictures()
        before = [p.clone() for p in pictures]
        self.score(*pictures)
        assert all(torch.equal(a, b) for a, b in zip(pictures, before, strict=True))

    def test_pictures_of_one_grey_level_score_a_number_or_nan_where_there_is_none(self):
        for level in (0.0, 1.0):
            values = self.score(*(torch.full_like(p, level) for p in self.pictures()))
            assert values.shape == (2,)
            if values.isinf().any():  # a PSNR of equal pictures
                assert set(values.tolist()) <= set(self.build().range)
