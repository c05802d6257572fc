"""The doors of fusionkit: everything a plugin may contribute, one hook per kind.

A plugin answers a hook with a mapping from a public name to a factory, usually a class. Answering
only declares: nothing is downloaded, read from disk or put on a device until somebody asks the
registry to build that name. Names are lower-case words joined by hyphens.
"""

from collections.abc import Mapping

import pluggy

from fusionkit.protocols import Factory

hookspec = pluggy.HookspecMarker("fusionkit")
hookimpl = pluggy.HookimplMarker("fusionkit")


@hookspec
def fusionkit_encoders() -> Mapping[str, Factory]:
    """Prompts in, text features out; joint encoders also read pictures and draw heat maps.

    Built as ``factory(**options)``.
    """


@hookspec
def fusionkit_modulations() -> Mapping[str, Factory]:
    """Ways in which text acts on features.

    Built as ``factory(channels=C, text_dim=D, **options)``; called with two ``(B, C, H, W)`` maps
    (visible, infrared), the text features and the guides; returns one ``(B, C, H, W)`` map.
    """


@hookspec
def fusionkit_losses() -> Mapping[str, Factory]:
    """Training terms. Called as ``loss(batch, fused)``; returns named, unweighted scalars."""


@hookspec
def fusionkit_metrics() -> Mapping[str, Factory]:
    """Scores of fused pictures. Called as ``metric(fused, ir, vi)``; returns ``(B,)``."""


@hookspec
def fusionkit_presets() -> Mapping[str, Factory]:
    """Which variants of the metrics make one table.

    ``factory()`` returns a :class:`~fusionkit.protocols.Preset`.
    """


@hookspec
def fusionkit_networks() -> Mapping[str, Factory]:
    """Fusion networks.

    Built as ``factory(modulation=build, text_dim=D, **options)``; called with a Batch, returns
    Fused. ``build(channels)`` makes the module for one of its text points; None asks for the
    network's own scheme.
    """


@hookspec
def fusionkit_recipes() -> Mapping[str, Factory]:
    """Methods as data. ``factory()`` returns a :class:`~fusionkit.recipe.Recipe`."""


@hookspec
def fusionkit_guides() -> Mapping[str, Factory]:
    """Masks and heat maps for a batch. Called as ``guide(batch)``; returns maps by name."""


@hookspec
def fusionkit_captioners() -> Mapping[str, Factory]:
    """Writers: pictures in, one text per picture out."""


@hookspec
def fusionkit_degradations() -> Mapping[str, Factory]:
    """Damage to pictures. Called as ``degradation(image, severity, generator, **context)``."""


@hookspec
def fusionkit_datasets() -> Mapping[str, Factory]:
    """Where pairs come from.

    Built as ``factory(root=None, split="train", count=None, size=None, seed=0, **options)``;
    a sequence of :class:`~fusionkit.protocols.Pair`.
    """
