"""A feed-forward layer of gated linear units among which a router chooses for every token.

Source: MMAIF (ICCV 2025), the block "MoE GLU": several experts, one of them always on. N. Shazeer,
"GLU Variants Improve Transformer", 2020, for the unit; W. Fedus et al., "Switch Transformers",
JMLR 2022, eq. 4-6, for the balance.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, one_hot, silu, softmax


@dataclass(frozen=True, slots=True)
class Routing:
    """What the router decided for B pictures of N tokens."""

    probabilities: Tensor
    """``(B, N, E)``, sum 1."""
    weights: Tensor
    """``(B, N, E)``: what each expert counts for; 0 for those that are not asked. Sums to 1 where
    no expert was full."""

    @property
    def load(self) -> Tensor:
        """Share of the tokens whose first choice an expert is, ``(E,)``; sums to 1."""
        count = self.probabilities.shape[-1]
        return one_hot(self.probabilities.argmax(-1), count).float().mean((0, 1))

    @property
    def balance(self) -> Tensor:
        """``E sum_e f_e P_e``, f the load (a constant), P the mean probability; 1 when even."""
        mean = self.probabilities.mean((0, 1))
        return len(mean) * (self.load * mean).sum()


class Glu(nn.Module):
    """``W_down (silu(W_gate x) * W_up x)``, without biases."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return glu(x, self.gate_up.weight, self.down.weight)


def glu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The unit of the given weights; the first half of ``gate_up`` makes the gate."""
    gate, up = linear(x, gate_up).chunk(2, -1)
    return linear(silu(gate) * up, down)


class MoeGlu(nn.Module):
    """One expert for all tokens, and the ``top_k`` most probable of ``experts`` for each token.

    Args:
        dim: D.
        hidden: width inside every expert.
        experts: E, those among which is chosen.
        top_k: how many a token asks; their probabilities, brought to a sum of 1, weigh them.
        capacity: an expert serves at most ``ceil(capacity * top_k * N / E)`` tokens of a picture,
            those with the largest weights; whom it turns away it adds nothing to. None: no limit.

    Shape:
        - tokens ``(B, N, D)`` -> ``(B, N, D)`` and :class:`Routing`
    """

    def __init__(
        self, dim: int, hidden: int, experts: int, top_k: int = 2, capacity: float | None = None
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= experts:
            raise ValueError(f"a token cannot ask {top_k} of {experts} experts.")
        self.top_k, self.capacity = top_k, capacity
        self.shared = Glu(dim, hidden)
        self.router = nn.Linear(dim, experts, bias=False)
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * hidden, dim))
        self.down = nn.Parameter(torch.empty(experts, dim, hidden))
        for weights in (self.gate_up, self.down):
            bound = weights.shape[-1] ** -0.5  # of nn.Linear
            nn.init.uniform_(weights, -bound, bound)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Routing]:
        routing, chosen = self.route(tokens)
        return self.shared(tokens) + self._experts(tokens, routing, chosen), routing

    def route(self, tokens: Tensor) -> tuple[Routing, Tensor]:
        """The decision, and the experts asked, ``(B, N, top_k)``; E where one was full."""
        with torch.autocast(tokens.device.type, enabled=False):  # near ties must not depend on it
            logits = self.router(tokens.to(self.router.weight.dtype))
        probabilities = softmax(logits, -1)
        top, chosen = probabilities.topk(self.top_k, -1)
        shares = top / top.sum(-1, keepdim=True)
        weights = torch.zeros_like(probabilities).scatter(-1, chosen, shares)
        if self.capacity is not None:
            _, count, experts = weights.shape
            room = math.ceil(self.capacity * self.top_k * count / experts)
            if room < count:
                last_in = weights.detach().argsort(dim=1, descending=True, stable=True)[:, :room]
                kept = torch.zeros_like(weights, dtype=torch.bool).scatter(1, last_in, True)
                weights = weights * kept
                chosen = chosen.masked_fill(~kept.gather(-1, chosen), experts)
        return Routing(probabilities, weights), chosen

    def _experts(self, tokens: Tensor, routing: Routing, chosen: Tensor) -> Tensor:
        """Tokens sorted by expert, each expert once over its own, sorted back and weighed."""
        experts = len(self.gate_up)
        asked = chosen.flatten()
        order = asked.argsort(stable=True)
        counts = torch.bincount(asked, minlength=experts + 1).tolist()
        served = tokens.flatten(0, 1)[order // self.top_k].split(counts)
        parts = [
            glu(part, gate_up, down)
            for part, gate_up, down in zip(served, self.gate_up, self.down, strict=False)
        ]
        parts.append(torch.zeros_like(served[experts], dtype=parts[0].dtype))
        answers = torch.cat(parts)[order.argsort()].view(*chosen.shape, -1)  # B N k D
        weights = routing.weights.gather(-1, chosen.clamp(max=experts - 1))
        return (answers * weights.to(answers.dtype)[..., None]).sum(2)
