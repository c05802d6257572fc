"""The contract of a loss."""

from collections.abc import Mapping

import torch

from fusionkit.batch import Batch, Fused
from fusionkit.testing.contract import Contract
from fusionkit.testing.inputs import tiny_batch


class LossContract(Contract):
    """``factory(**options)``, called ``(batch, fused)``, returns named unweighted scalars."""

    def batch(self, count: int = 2, size: tuple[int, int] = (33, 41)) -> Batch:
        """Pictures and what goes with them; grown to the ``min_size`` a loss names."""
        least = getattr(self.build(), "min_size", 1)
        return tiny_batch(count, tuple(max(side, least) for side in size))

    def fused(self, batch: Batch) -> Fused:
        """What is judged; override to add the maps a term reads."""
        noise = torch.rand(batch.visible.shape, generator=torch.Generator().manual_seed(3))
        return Fused(image=noise.requires_grad_())

    def test_returns_named_finite_scalars(self):
        batch = self.batch()
        terms = self.build()(batch, self.fused(batch))
        assert isinstance(terms, Mapping) and terms
        for name, value in terms.items():
            assert isinstance(name, str)
            assert value.shape == () and value.isfinite(), name

    def test_gradient_reaches_the_picture(self):
        batch = self.batch()
        fused = self.fused(batch)
        sum(self.build()(batch, fused).values()).backward()
        assert fused.image.grad is not None
        assert fused.image.grad.isfinite().all() and fused.image.grad.abs().sum() > 0

    def test_same_input_gives_same_terms(self):
        batch, loss = self.batch(), self.build()
        fused = self.fused(batch)
        first, second = loss(batch, fused), loss(batch, fused)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_constant_pictures_give_finite_terms_and_gradients(self):
        for level in (0.0, 1.0):
            batch = self.batch()
            batch = batch.replace(
                visible=torch.full_like(batch.visible, level),
                infrared=torch.full_like(batch.infrared, level),
                targets={k: torch.full_like(t, level) for k, t in batch.targets.items()},
            )
            fused = self.fused(batch)
            image = torch.full_like(fused.image, level).detach().requires_grad_()
            total = sum(self.build()(batch, Fused(image, fused.maps, fused.terms)).values())
            assert total.isfinite()
            if total.requires_grad:
                total.backward()
                assert image.grad is None or image.grad.isfinite().all()

    def test_works_under_autocast(self):
        batch = self.batch()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            terms = self.build()(batch, self.fused(batch))
        assert all(value.isfinite() for value in terms.values())
