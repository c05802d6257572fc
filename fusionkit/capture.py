"""Feature maps out of a forward pass: listen at named submodules, change nothing."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fusionkit.errors import BadRequest, did_you_mean


@contextlib.contextmanager
def capture(network: nn.Module, layers: Sequence[str] | None = None) -> Iterator[dict[str, Tensor]]:
    """Collect what named submodules put out while the block runs.

    ``layers`` are names as ``network.named_modules()`` gives them; None takes ``network.layers``,
    the ones the network itself holds worth keeping (an empty tuple collects nothing). The block
    gets a dictionary from layer to its latest output: detached from the graph, on the device and in
    the type the layer computed, usually ``(B, C, h, w)``. Of a tuple, list or mapping the first
    tensor counts. A layer that runs several times keeps the last output; one that does not run is
    absent. A later in-place operation does not reach the collected maps.

    After the block the hooks and the maps are gone; take out what is to stay::

        with capture(network) as maps, torch.inference_mode():
            network(batch)
            for layer, value in maps.items():
                run.put_features(layer, name, as_array(value[0]))

    Raises :class:`~fusionkit.errors.BadRequest` for an unknown layer, with the nearest names.
    """
    if layers is None:
        layers = tuple(getattr(network, "layers", ()))
    modules = dict(network.named_modules())
    known = [name for name in modules if name]
    for layer in layers:
        if layer not in modules or not layer:
            raise BadRequest(
                f"{type(network).__name__} has no layer {layer!r}.{did_you_mean(layer, known)} "
                "network.named_modules() lists all of them.",
                asked=layer,
                known=known,
            )
    maps: dict[str, Tensor] = {}
    handles = []
    try:
        for layer in layers:
            handles.append(modules[layer].register_forward_hook(_listener(layer, maps)))
        yield maps
    finally:
        for handle in handles:
            handle.remove()
        maps.clear()


def _listener(layer: str, maps: dict[str, Tensor]) -> Callable[..., None]:
    def listen(module: nn.Module, inputs: Any, output: Any) -> None:
        value = _first_tensor(output)
        if value is not None:
            # A copy, because the next layer may be an in-place activation.
            maps[layer] = value.detach().clone()

    return listen


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return next((t for t in map(_first_tensor, output) if t is not None), None)
    return None


def as_array(value: Tensor) -> Any:
    """A tensor as numpy holds it: on the CPU, bfloat16 as single precision."""
    value = value.detach()
    if value.dtype == torch.bfloat16:
        value = value.float()
    return value.cpu().numpy()
