"""Group normalisation that is fast where it is trained: channels-last memory on a CPU."""

from typing import Any

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """The same function, parameters and state dict as :class:`torch.nn.GroupNorm`.

    torch's backward pass for channels-last maps on a CPU took two fifths of a training step of the
    compact network (``benchmarks/control.py``). Written as one scale and one shift per channel,
    from sums per channel, forward and backward are two passes over the map each. Other devices
    and other layouts use torch's own.

    Source: Y. Wu, K. He, "Group Normalization", ECCV 2018, eq. 1-5.
    """

    def forward(self, x: Tensor) -> Tensor:
        fast = x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)
        if not fast:
            return super().forward(x)
        return _Normalise.apply(x, self.weight, self.bias, self.num_groups, self.eps)


class _Normalise(torch.autograd.Function):
    """y = a x + s with a, s per sample and channel; statistics in at least single precision."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        per_group = x.shape[1] // groups
        count = per_group * x.shape[2] * x.shape[3]

        def mean(sums: Tensor) -> Tensor:  # B C -> B C, the mean of each channel's group
            means = sums.unflatten(1, (groups, -1)).sum(-1) / count
            return means.repeat_interleave(per_group, 1)

        centre = mean(x.sum((2, 3), dtype=wide))
        variance = mean((x * x).sum((2, 3), dtype=wide)) - centre.square()
        rate = (variance.clamp(min=0) + eps).rsqrt()
        scale = rate * weight
        ctx.save_for_backward(x, weight, centre, rate)
        ctx.mean = mean
        return _affine(x, scale, bias - centre * scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, centre, rate = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        sums = grad.sum((2, 3), dtype=rate.dtype)  # d/d shift
        scaled = ((grad * x).sum((2, 3), dtype=rate.dtype) - centre * sums) * rate  # d/d weight
        from_mean, from_rate = ctx.mean(sums * weight), ctx.mean(scaled * weight)
        # dx = rate (weight grad - mean(weight grad) - x_hat mean(weight grad x_hat))
        slope = -rate.square() * from_rate
        result = _affine(x, slope, -rate * from_mean - centre * slope)
        result = torch.addcmul(result, grad, _spread(rate * weight, x.dtype))
        return result, scaled.sum(0), sums.sum(0), None, None


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(_spread(shift, x.dtype), x, _spread(scale, x.dtype))


def _spread(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype)[..., None, None]
