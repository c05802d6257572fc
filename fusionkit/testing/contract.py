"""What every contract shares."""

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from fusionkit.registry import attribution


class Contract:
    """What all kinds share."""

    def build(self, **options: Any) -> Any:
        """Make the thing under test; every contract needs it."""
        raise NotImplementedError(f"{type(self).__name__} must say how to build what it tests")

    def test_says_what_it_is(self):
        described = type(self._any())
        assert described.__doc__ and described.__doc__.strip(), f"{described} has no docstring"

    def test_says_whose_idea_it_is(self):
        thing = self._any()
        described = type(thing)
        assert getattr(thing, "source", None) or attribution(described), (
            f"say in the docstring of {described.__name__}, or of its module, whose idea it is: "
            "a paragraph `Source: authors, title, venue, equation`, or `Source: ours.`"
        )

    def _any(self) -> Any:
        return self.build()


def built_once(test: Contract, **options: Any) -> Any:
    """What the class builds, built for its first test and kept for the others."""
    kind = type(test)
    if "_built" not in vars(kind):
        kind._built = test.build(**options)
    return kind._built


def awake(module: nn.Module) -> nn.Module:
    """The module with small noise on every parameter.

    Many modules start as the identity by a last layer of zeros; what they do shows only off it.
    """
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.add_(0.05 * noise.to(parameter.dtype))
    return module


def check_gradients(module: nn.Module, unreached: tuple[str, ...] = ()) -> None:
    silent = [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
        and parameter.grad is None
        and not any(fnmatch(name, pattern) for pattern in unreached)
    ]
    assert not silent, f"no gradient reaches {silent}"


def bytes_kept(call: Callable[[], Any]) -> int:
    """Bytes of the tensors that a forward pass keeps for its backward pass, each storage once."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = call()
    del result
    return sum(kept.values())
