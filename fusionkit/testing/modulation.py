"""The contract of a modulation."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusionkit.batch import TextFeatures
from fusionkit.testing.contract import Contract, awake, bytes_kept, check_gradients
from fusionkit.testing.inputs import TEXT_DIM, tiny_text


class ModulationContract(Contract):
    """``factory(channels=C, text_dim=D)``, called ``(visible, infrared, text, guides)``."""

    uses_text = True
    """False for a scheme that ignores text, as ``none`` does; it must then work without any."""
    starts_as_sum = False
    """True for a scheme that promises to be ``visible + infrared`` before it has learned."""
    memory_power = 1
    """Training memory grows with the pixels to this power; 2 for attention between all pixels."""
    channels = 16
    """C of the test maps; a scheme with heads or groups may need another."""

    @pytest.fixture(params=[(1, 8, 12), (2, 33, 17)], ids=["one", "two-of-odd-size"])
    def maps(self, request) -> tuple[Tensor, Tensor]:
        """The two maps, ``(B, C, H, W)`` each."""
        count, height, width = request.param
        generator = torch.Generator().manual_seed(0)
        shape = (count, self.channels, height, width)
        return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)

    def guides(self, visible: Tensor) -> dict[str, Tensor]:
        """Guides of the batch, ``mask`` and ``heatmap`` of ``(B, 1, H, W)``."""
        ramp = torch.linspace(0, 1, visible.shape[-1], dtype=visible.dtype)
        whole = ramp.expand(len(visible), 1, *visible.shape[-2:])
        return {"mask": (whole > 0.5).to(visible.dtype), "heatmap": whole}

    def make(self) -> nn.Module:
        """The module in evaluation mode, moved off its start so that every part acts."""
        torch.manual_seed(0)
        return awake(self.build(channels=self.channels, text_dim=TEXT_DIM)).eval()

    def run(self, module: nn.Module, maps: tuple[Tensor, Tensor], text: TextFeatures) -> Tensor:
        return module(*maps, text, self.guides(maps[0]))

    def _any(self) -> Any:
        return self.build(channels=self.channels, text_dim=TEXT_DIM)

    def test_returns_one_map_of_the_same_shape_and_type(self, maps):
        y = self.run(self.make(), maps, tiny_text(len(maps[0])))
        assert (y.shape, y.dtype) == (maps[0].shape, maps[0].dtype)
        assert y.isfinite().all()

    def test_works_in_double_precision(self, maps):
        maps = tuple(m.double() for m in maps)
        y = self.run(self.make().double(), maps, tiny_text(len(maps[0])).to(torch.float64))
        assert (y.shape, y.dtype) == (maps[0].shape, torch.float64)

    def test_keeps_half_precision_maps_under_autocast(self, maps):
        maps = tuple(m.bfloat16() for m in maps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.run(self.make(), maps, tiny_text(len(maps[0])))
        assert (y.shape, y.dtype) == (maps[0].shape, torch.bfloat16)
        assert y.isfinite().all()

    def test_leaves_its_inputs_alone(self, maps):
        before = [m.clone() for m in maps]
        self.run(self.make(), maps, tiny_text(len(maps[0])))
        assert all(torch.equal(a, b) for a, b in zip(maps, before, strict=True))

    def test_same_input_gives_same_output(self, maps):
        module, text = self.make(), tiny_text(len(maps[0]))
        assert torch.equal(self.run(module, maps, text), self.run(module, maps, text))

    def test_one_picture_does_not_change_another(self, maps):
        module, text = self.make(), tiny_text(len(maps[0]))
        alone = self.run(module, tuple(m[:1] for m in maps), text[:1])
        torch.testing.assert_close(self.run(module, maps, text)[:1], alone, rtol=1e-4, atol=1e-5)

    def test_listens_to_both_maps(self, maps):
        module, text = self.make(), tiny_text(len(maps[0]))
        y = self.run(module, maps, text)
        other = torch.randn(maps[0].shape, generator=torch.Generator().manual_seed(7))
        assert not torch.allclose(y, self.run(module, (other, maps[1]), text))
        assert not torch.allclose(y, self.run(module, (maps[0], other), text))

    def test_listens_to_the_text(self, maps):
        module, count = self.make(), len(maps[0])
        first = self.run(module, maps, tiny_text(count))
        second = self.run(module, maps, tiny_text(count, seed=1))
        assert torch.allclose(first, second) != self.uses_text

    def test_needs_no_text_if_it_uses_none(self, maps):
        if self.uses_text:
            pytest.skip("this scheme uses text")
        assert self.run(self.make(), maps, None).isfinite().all()

    def test_padding_tokens_do_not_count(self, maps):
        text = tiny_text(len(maps[0]))
        loud = torch.where(text.mask[..., None], text.tokens, 50.0)
        other = TextFeatures(pooled=text.pooled, tokens=loud, mask=text.mask)
        module = self.make()
        torch.testing.assert_close(
            self.run(module, maps, text), self.run(module, maps, other), rtol=1e-4, atol=1e-5
        )

    def test_gradient_reaches_maps_text_and_every_parameter(self, maps):
        module = self.make()
        maps = tuple(m.clone().requires_grad_() for m in maps)
        text = tiny_text(len(maps[0]))
        text.pooled.requires_grad_()
        text.tokens.requires_grad_()
        self.run(module, maps, text).square().mean().backward()
        check_gradients(module)
        assert all(m.grad is not None and m.grad.abs().sum() > 0 for m in maps)
        reached = [t for t in (text.pooled, text.tokens) if t.grad is not None]
        assert any(t.grad.abs().sum() > 0 for t in reached) == self.uses_text

    def test_constant_maps_give_numbers_and_finite_gradients(self, maps):
        for level in (0.0, 1.0):
            module = self.make()
            flat = tuple(torch.full_like(m, level).requires_grad_() for m in maps)
            y = self.run(module, flat, tiny_text(len(flat[0])))
            y.square().mean().backward()
            assert y.isfinite().all()
            for name, tensor in [*module.named_parameters(), *zip("vi", flat, strict=True)]:
                assert tensor.grad is None or tensor.grad.isfinite().all(), name

    def test_starts_as_the_sum_if_it_promises_to(self, maps):
        if not self.starts_as_sum:
            pytest.skip("this scheme promises nothing about its start")
        torch.manual_seed(0)
        module = self.build(channels=self.channels, text_dim=TEXT_DIM).eval()
        torch.testing.assert_close(self.run(module, maps, tiny_text(len(maps[0]))), sum(maps))

    def test_memory_grows_as_it_says(self):
        def kept(side: int) -> int:
            shape = (1, self.channels, side, side)
            maps = tuple(torch.rand(shape).requires_grad_() for _ in range(2))
            return bytes_kept(lambda: self.run(module, maps, tiny_text(1)))

        module = self.make()
        ratio = kept(32) / max(1, kept(16))
        assert ratio < 1.25 * 4**self.memory_power, (
            f"four times the pixels keep {ratio:.1f} times the memory for the backward pass; "
            "if that is meant, say so: memory_power = 2"
        )

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    def test_gives_the_same_on_a_gpu(self, maps):
        text = tiny_text(len(maps[0]))
        expected = self.run(self.make(), maps, text)
        found = self.run(self.make().cuda(), tuple(m.cuda() for m in maps), text.to("cuda"))
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)

    def test_state_dict_restores_it(self, maps):
        module, text = self.make(), tiny_text(len(maps[0]))
        torch.manual_seed(1)
        other = self.build(channels=self.channels, text_dim=TEXT_DIM).eval()
        other.load_state_dict(module.state_dict())
        assert torch.equal(self.run(module, maps, text), self.run(other, maps, text))
