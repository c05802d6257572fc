"""The contracts of what makes data: data sets and degradations."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fusionkit.testing.contract import Contract, built_once
from fusionkit.testing.inputs import tiny_batch, tiny_pairs


class DegradationContract(Contract):
    """``factory(**options)``, called ``(image, severity, generator, **context)``."""

    @property
    def image(self) -> Tensor:
        batch = tiny_batch(2, (33, 41))
        return getattr(batch, self.build().modality)

    def context(self) -> dict[str, Any]:
        """Further keywords, such as the depth."""
        return {"depth": torch.stack([p.depth for p in tiny_pairs(2, (33, 41))])}

    def damage(self, image: Tensor, severity: float | Tensor, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return self.build()(image, severity, generator, **self.context())

    def test_describes_itself(self):
        degradation = self.build()
        assert isinstance(degradation.name, str) and degradation.name
        assert degradation.modality in ("visible", "infrared")
        assert degradation.prompts and all(isinstance(p, str) for p in degradation.prompts)

    def test_severity_0_changes_nothing(self):
        image = self.image
        torch.testing.assert_close(self.damage(image, 0.0), image, rtol=0, atol=1e-5)

    def test_result_is_a_picture_of_the_same_kind(self):
        image = self.image
        for severity in (0.5, 1.0, torch.tensor([0.2, 0.9])):
            damaged = self.damage(image, severity)
            assert (damaged.shape, damaged.dtype) == (image.shape, image.dtype)
            assert damaged.min() >= 0 and damaged.max() <= 1

    def test_more_severity_is_more_damage(self):
        image = self.image
        little, much = (
            (self.damage(image, severity) - image).abs().mean() for severity in (0.2, 1.0)
        )
        assert 0 < little < much

    def test_each_picture_has_its_own_severity(self):
        image = self.image
        damaged = self.damage(image, torch.tensor([0.0, 1.0]))
        torch.testing.assert_close(damaged[0], image[0], rtol=0, atol=1e-5)
        assert not torch.allclose(damaged[1], image[1], atol=1e-3)

    def test_the_same_generator_gives_the_same_damage(self):
        image = self.image
        assert torch.equal(self.damage(image, 0.7), self.damage(image, 0.7))

    def test_leaves_its_picture_alone(self):
        image = self.image
        before = image.clone()
        self.damage(image, 1.0)
        assert torch.equal(image, before)


class DatasetContract(Contract):
    """``factory(root=None, split="train", count=None, size=None, seed=0)``: a sequence of pairs."""

    count = 3
    """Pairs to ask for; a generated set needs a few, a folder may hold fewer."""

    @pytest.fixture
    def pairs(self) -> Any:
        return built_once(self, count=self.count)

    def _any(self) -> Any:
        return self.build(count=1)

    def test_has_the_number_of_pairs_asked_for(self, pairs):
        assert len(pairs) == self.count
        assert len({pairs[i].name for i in range(len(pairs))}) == self.count

    def test_ends_where_it_says(self, pairs):
        with pytest.raises(IndexError):
            pairs[len(pairs)]

    def test_each_pair_is_aligned_and_in_range(self, pairs):
        for index in range(len(pairs)):
            pair = pairs[index]
            size = pair.visible.shape[1:]
            assert pair.visible.shape == (3, *size) and pair.infrared.shape == (1, *size)
            for picture in (pair.visible, pair.infrared, *pair.masks.values()):
                assert picture.dtype == torch.float32
                assert picture.shape[1:] == size
                assert picture.min() >= 0 and picture.max() <= 1
            if pair.depth is not None:
                assert pair.depth.shape == (1, *size) and pair.depth.isfinite().all()
            for thing in pair.things:
                x0, y0, x1, y1 = thing.box
                assert 0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0], thing

    def test_texts_are_words_by_kind(self, pairs):
        for kind, text in pairs[0].texts.items():
            assert isinstance(kind, str) and isinstance(text, str)

    def test_the_same_pair_is_read_the_same_twice(self, pairs):
        again = self.build(count=self.count)
        assert torch.equal(pairs[0].visible, again[0].visible)
        assert torch.equal(pairs[0].infrared, again[0].infrared)
        assert pairs[0].name == again[0].name

    def test_says_where_it_comes_from(self, pairs):
        for fact in ("layout", "licence", "source"):
            assert isinstance(getattr(pairs, fact), str) and getattr(pairs, fact), fact
