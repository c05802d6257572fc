"""The contract of its kind, run on every component that the bundled plugins offer."""

import tomllib
from pathlib import Path

from fusionkit.registry import Registry
from fusionkit.testing import contracts

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

REGISTRY = Registry.from_environment()

NEED_FILES = (
    # They read pictures from a folder; the tests of their plugins run the contract on one.
    ("dataset", "folder"),
    ("dataset", "roadscene"),
    ("dataset", "tno"),
    ("dataset", "ivt"),
    ("dataset", "mtgfusion"),
    ("dataset", "vlf"),
    ("encoder", "stored-features"),
    ("dataset", "ems"),
    ("dataset", "rfc"),
    ("dataset", "mmaif"),
    ("guide", "folder-masks"),
    ("guide", "stored-maps"),
)

NEED_WEIGHTS = (
    # Hundreds of megabytes each; their plugins' tests run the contract on small random models.
    *(
        ("encoder", name)
        for name, entry in REGISTRY.entries("encoder").items()
        if entry.plugin == "openclip"
    ),
    ("guide", "grounding-dino-sam"),
    ("guide", "owlv2"),
    ("guide", "clipseg"),
    ("guide", "rfc-regions"),
    ("encoder", "blip2"),
    ("encoder", "flan-t5"),
    ("captioner", "blip2"),
    ("captioner", "dense"),
    ("captioner", "regions"),
    ("loss", "occo-contrast"),
    ("loss", "vgg-max"),
)

TOO_LARGE = (
    # Its attention has 13,824 strips whatever the picture; its plugin tests a smaller grid.
    ("network", "iffilm"),
)

SAME_CODE = tuple(
    # One class over all scores; plugins/standard/tests weigh every one of them.
    ("metric", name)
    for name in REGISTRY.names("metric")
    if name.endswith("_region") and name != "sd_region"
)

SMALLER = {
    # Of 63.8 million parameters every test takes seconds; its plugin's tests run it as published.
    ("network", "textif"): {"dim": 16, "num_blocks": (1, 1, 1, 1), "refinement": 1, "hidden": 32},
}

CLASSES = contracts(
    REGISTRY,
    *PROJECT["entry-points"]["fusionkit"],
    options=SMALLER,
    leave_out=NEED_FILES + NEED_WEIGHTS + TOO_LARGE + SAME_CODE,
)
globals().update(CLASSES)


def test_every_bundled_plugin_loads():
    named = {name: str(broken) for name, broken in REGISTRY.broken.items()}
    assert not named
    assert not REGISTRY.conflicts


def test_every_bundled_component_has_its_contract_run():
    offered = sum(len(REGISTRY.entries(kind)) for kind in ("modulation", "metric", "loss"))
    assert len(CLASSES) > offered - len(SAME_CODE) > 0
