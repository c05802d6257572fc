"""fusionkit: ask in words how an infrared and a visible photograph should be merged.

Importing this package costs nothing: each name is fetched from its module when first used, so
looking at a stored run or reading ``--help`` never waits for torch.
"""

from importlib import import_module

_MODULES = {
    "Batch": "batch",
    "Fused": "batch",
    "FusionkitError": "errors",
    "ImageFeatures": "batch",
    "Pair": "protocols",
    "Recipe": "recipe",
    "Registry": "registry",
    "TextFeatures": "batch",
    "Thing": "protocols",
    "compare": "comparison",
    "evaluate": "evaluation",
    "evaluate_folders": "scoring",
    "hookimpl": "hookspecs",
    "hookspec": "hookspecs",
    "inspect": "widgets",
    "load_method": "methods",
    "load_official": "methods",
    "open_run": "store",
    "train": "training",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("fusionkit")
    elif name in _MODULES:
        value = getattr(import_module(f"fusionkit.{_MODULES[name]}"), name)
    else:
        from fusionkit.errors import did_you_mean

        raise AttributeError(f"fusionkit has no {name!r}.{did_you_mean(name, __all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
