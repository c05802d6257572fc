"""For plugin authors: tiny synthetic inputs, throw-away plugins, and the contract of each kind.

Subclass a contract in a test module, say how the thing is built, and its whole contract runs::

    from fusionkit.testing import ModulationContract

    class TestFilm(ModulationContract):
        build = staticmethod(Film)

What differs from the rule is said by a class attribute (``uses_text = False``) or by overriding the
method that makes the input. :func:`contracts` does the same for everything a plugin offers.
Nothing here reads a file or the network. Needs pytest.
"""

import pytest

# So that a failed contract shows the values it compared.
_CONTRACTS = (
    *("contract", "data", "encoder", "guide", "loss"),
    *("metric", "modulation", "network", "preset", "recipe"),
)
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _CONTRACTS))

from fusionkit.testing.data import DatasetContract, DegradationContract  # noqa: E402
from fusionkit.testing.encoder import EncoderContract  # noqa: E402
from fusionkit.testing.guide import CaptionerContract, GuideContract  # noqa: E402
from fusionkit.testing.inputs import (  # noqa: E402
    TEXT_DIM,
    TinyEncoder,
    tiny_batch,
    tiny_pairs,
    tiny_text,
)
from fusionkit.testing.loss import LossContract  # noqa: E402
from fusionkit.testing.metric import MetricContract  # noqa: E402
from fusionkit.testing.modulation import ModulationContract  # noqa: E402
from fusionkit.testing.network import NetworkContract  # noqa: E402
from fusionkit.testing.offered import contracts  # noqa: E402
from fusionkit.testing.preset import PresetContract  # noqa: E402
from fusionkit.testing.recipe import RecipeContract  # noqa: E402
from fusionkit.testing.throwaway import install, registry  # noqa: E402

__all__ = [
    "TEXT_DIM",
    "CaptionerContract",
    "DatasetContract",
    "DegradationContract",
    "EncoderContract",
    "GuideContract",
    "LossContract",
    "MetricContract",
    "ModulationContract",
    "NetworkContract",
    "PresetContract",
    "RecipeContract",
    "TinyEncoder",
    "contracts",
    "install",
    "registry",
    "tiny_batch",
    "tiny_pairs",
    "tiny_text",
]
