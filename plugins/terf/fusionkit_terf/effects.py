"""What an edit does: six published effects, each learnt on the very picture, and one of ours.

Source: the fine-tuning of the released TeRF. Small networks start from scratch for every edit
(noise, illumination), the leaning effects from the fusion network's own weights; none outlives the
edit.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fusionkit.batch import Batch, Fused
from fusionkit.errors import BadRequest, did_you_mean
from fusionkit_terf import denoise, retinex
from fusionkit_terf.instruction import EFFECTS
from fusionkit_terf.losses import LEAN, LeanInfrared, LeanVisible
from fusionkit_terf.network import Terf

SEED = 3407
PUBLISHED = {
    "denoise": (2e-5, 1000),
    "brighten": (5e-4, 1000),
    "darken": (5e-4, 500),
    "texture": (8e-5, 70),
    "salient": (8e-5, 100),
}
"""Learning rate and steps of the effects that learn; the optimiser is Adam."""
QUICK = {
    "denoise": (1e-3, 60),
    "brighten": (1e-3, 20),
    "darken": (1e-3, 20),
    "texture": (2.8e-4, 20),
    "salient": (4e-4, 20),
}
"""The same for a CPU. With fewer steps than here the denoiser still is where it started."""
FASTEST = 1e-3
"""Fewer steps are taken at a higher rate, in proportion, up to this one."""
WHOLE = ("brighten", "darken", "texture", "salient")
"""Effects that the release lets act on the whole picture, whatever the mask."""


@dataclass(frozen=True, slots=True)
class Effects:
    """The effects over one fusion network.

    Called as ``effects(name, image, visible, infrared, mask)`` with pictures of one pair,
    ``(1, C, H, W)``; returns the changed picture ``(1, 3, H, W)`` in [0, 1], all of it.
    """

    network: nn.Module
    """What fused the picture; it stays as it is."""
    max_steps: int | None = None
    """Steps an effect may take; None is the published number, up to 1,000."""
    quick: bool = False
    """Take rate and steps of :data:`QUICK` and not ``max_steps``."""
    work_size: int | None = None
    """Side of the window, around the region, that is learnt on; None is the picture."""

    def __call__(
        self, name: str, image: Tensor, visible: Tensor, infrared: Tensor, mask: Tensor
    ) -> Tensor:
        known: dict[str, Callable[[Batch, Tensor, Tensor], Tensor]] = {
            "denoise": self._denoise,
            "brighten": lambda *a: self._relight(*a, brighter=True),
            "darken": lambda *a: self._relight(*a, brighter=False),
            "texture": lambda *a: self._lean(*a, "texture", LeanVisible()),
            "salient": lambda *a: self._lean(*a, "salient", LeanInfrared()),
            "blur": lambda batch, image, mask: denoise.box_blur(image),
            "deblur": lambda batch, image, mask: denoise.deblur(image),
        }
        if name not in known:
            raise BadRequest(
                f"TeRF has no effect {name!r}.{did_you_mean(name, EFFECTS)} There are "
                f"{', '.join(EFFECTS)}."
            )
        # Learning needs gradients, also where the caller has switched them off.
        with torch.inference_mode(False), torch.enable_grad():
            pair = Batch(visible.detach().float().clone(), infrared.detach().float().clone())
            return known[name](pair, image.detach().float().clone(), mask).clamp(0, 1)

    def budget(self, name: str) -> tuple[float, int]:
        """Learning rate and steps of an effect."""
        if self.quick:
            return QUICK[name]
        rate, steps = PUBLISHED[name]
        if self.max_steps is None or self.max_steps >= steps:
            return rate, steps
        return max(rate, min(FASTEST, rate * steps / self.max_steps)), self.max_steps

    def _denoise(self, pair: Batch, image: Tensor, mask: Tensor) -> Tensor:
        network = _fresh(denoise.NoiseNet(), image.device)
        seen = image[self._window(mask)]
        learn(network, lambda: denoise.noise_to_noise(seen, network), *self.budget("denoise"))
        with torch.no_grad():
            return image - network(image)

    def _relight(self, pair: Batch, image: Tensor, mask: Tensor, *, brighter: bool) -> Tensor:
        network = _fresh(retinex.RetinexNet(), image.device)
        seen = image[self._window(mask)]
        budget = self.budget("brighten" if brighter else "darken")
        learn(network, lambda: retinex.robust_retinex(seen, network(seen)), *budget)
        with torch.no_grad():
            power = retinex.exponent(pair.visible, brighter=brighter)
            return retinex.relit(image, network(image), power)

    def _lean(self, pair: Batch, image: Tensor, mask: Tensor, name: str, loss: nn.Module) -> Tensor:
        network = copy.deepcopy(self.network).float().requires_grad_().train()
        window = self._window(mask)
        seen = Batch(pair.visible[window], pair.infrared[window])

        def objective() -> Tensor:
            terms = loss(seen, _raw(network, seen))
            return sum(LEAN[key] * value for key, value in terms.items())

        learn(network, objective, *self.budget(name))
        with torch.no_grad():
            return _raw(network.eval(), pair).image

    def _window(self, mask: Tensor) -> tuple[slice, ...]:
        """Rows and columns to learn on: all, or a square around the middle of the mask."""
        window = [slice(None), slice(None)]
        for dim in (2, 3):
            extent, side = mask.shape[dim], self.work_size
            if side is None or extent <= side:
                window.append(slice(None))
                continue
            places = mask[0, 0].amax(3 - dim).nonzero().flatten()
            middle = int(places[0] + places[-1]) // 2 if len(places) else extent // 2
            first = min(max(middle - side // 2, 0), extent - side)
            window.append(slice(first, first + side))
        return tuple(window)


def _raw(network: nn.Module, batch: Batch) -> Fused:
    """The fused picture before it is cut to [0, 1], where the network can tell it."""
    if isinstance(network, Terf):
        return Fused(network.raw(batch.visible, batch.infrared))
    return network(batch)


def _fresh(network: nn.Module, device: torch.device) -> nn.Module:
    """Convolution weights drawn anew, cut at two deviations of 0.05; biases zero."""
    generator = torch.Generator().manual_seed(SEED)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.05, a=-0.1, b=0.1, generator=generator)
            nn.init.zeros_(module.bias)
    return network.to(device, memory_format=torch.channels_last)


def learn(
    network: nn.Module, objective: Callable[[], Tensor], rate: float, steps: int
) -> list[float]:
    """Adam on one objective; its values, before each step and after the last."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    values = []
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        value = objective()
        value.backward()
        optimizer.step()
        values.append(value.detach())
    with torch.no_grad():
        values.append(objective())
    return torch.stack(values).tolist()
