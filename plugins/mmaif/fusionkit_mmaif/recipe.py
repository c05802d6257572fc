"""MMAIF as data: sizes for one GPU, and for a CPU in minutes; both variants of either."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fusionkit.batch import Batch
from fusionkit.recipe import Recipe, Stage
from fusionkit_mmaif.network import LatentFusionDiT
from fusionkit_mmaif.task import DegradedFusion

WARMUP_STEPS = 1000


def step(network: LatentFusionDiT, batch: Batch, losses: Mapping[str, Any]) -> dict[str, Tensor]:
    """The terms of the network's objective, and those of losses on the decoded picture."""
    fused = network.objective(batch, picture=bool(losses))
    terms = dict(fused.terms)
    for loss in losses.values():
        terms |= loss(batch, fused)
    return terms


def mmaif() -> Recipe:
    """The regression variant at a size for one GPU of 24 GB. The protocol is our choice."""
    steps = 100_000
    return Recipe(
        name="mmaif",
        paper=LatentFusionDiT.paper,
        network={
            "name": "mmaif",
            "options": {
                "variant": "regression",
                "dim": 384,
                "depth": 12,
                "heads": 6,
                "patch": 1,
                "hidden": 512,
                "experts": 4,
                "rank": 64,
                "tokenizer": "cosmos",
                "offline_tokenizer": "small",
            },
        },
        encoder="flan-t5",
        offline_encoder="tiny-clip",
        losses=("mmaif-sources",),
        weights={"latent": 1.0, "aux": 0.1, "balance": 0.01, "load_most": 0.0, "load_least": 0.0},
        metrics=("EN", "SD", "SF", "AG", "MI", "SSIM", "VIF", "Qabf"),
        stages=(
            Stage(
                steps=steps,
                batch_size=16,
                crop=256,
                optimizer="adamw",
                learning_rate=1e-4,
                betas=(0.9, 0.95),
                weight_decay=0.01,
                warmup=WARMUP_STEPS / steps,
                clip_norm=1.0,
                trainable=("transformer.*",),
            ),
        ),
        default_text="Fuse the two images",
        task=DegradedFusion,
        step=step,
    )


def mmaif_flow() -> Recipe:
    """The flow-matching variant: 20 Euler steps from noise."""
    return mmaif().with_overrides({"name": "mmaif-flow", "network.options.variant": "flow"})


SMALL = {
    "network.options.dim": 96,
    "network.options.depth": 4,
    "network.options.heads": 4,
    "network.options.hidden": 128,
    "network.options.rank": 16,
    "network.options.tokenizer": "small",
    "encoder": "tiny-clip",
    "offline_encoder": None,
    "standardise_text": True,
    "steps": 800,
    "batch_size": 8,
    "crop": 64,
    "learning_rate": 2e-3,
    "warmup": 0.05,
    "task_options": {"ratios": (0.5, 0.75, 1.0)},
}


def mmaif_small() -> Recipe:
    """The same network in little, minutes on a CPU, with the autoencoder that comes with it."""
    return mmaif().with_overrides({"name": "mmaif-small", **SMALL})


def mmaif_small_flow() -> Recipe:
    """The flow in little, fused in eight steps."""
    return mmaif_flow().with_overrides(
        {
            "name": "mmaif-small-flow",
            **SMALL,
            "network.options.sampling_steps": 8,
        }
    )
