"""Adapting a method to one's own pairs, without labels: the work of ``adapt.ipynb``.

Two parts learn, one after the other. The encoder teaches itself from the pairs, if it can
(``encoder.adapt``, see :class:`fusionkit.protocols.JointEncoder`). Then the network goes on from
the weights it has, by its own task and the one training loop; where the task finds things by heat
maps, these are now the adapted encoder's. Of the training pairs nothing is seen but the two
pictures. What that is worth is measured on held-out pairs, before and after, pair by pair.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from fusionkit import devices
from fusionkit.bench import Bench, default_path
from fusionkit.errors import BadRequest
from fusionkit.methods import Method, load_method
from fusionkit.pointing import pointing
from fusionkit.protocols import Pair
from fusionkit.recipe import Part, Recipe
from fusionkit.registry import Registry
from fusionkit.statistics import paired_difference

FEWEST = 5
"""Held-out pairs that must show a label for it to be measured."""
ENCODER, START, NETWORK = "encoder.safetensors", "start.pt", "network.pt"

Values = Mapping[str, Mapping[str, float]]
"""Measure -> pair -> value."""


class Adaptation:
    """One method, adapted to the training pairs of one data set.

    Everything is kept in one folder: ``encoder.safetensors``, the run ``run.zarr`` with the
    network's checkpoint beside it, ``table.csv``. What an earlier process has left there for the
    same parameters is taken up.

    Args:
        p: :class:`fusionkit.notebook.AdaptParameters`.

    Raises:
        BadRequest: the recipe has no encoder that can be adapted, or the folder holds another
            adaptation.
    """

    def __init__(self, p: Any) -> None:
        self.p, self.registry = p, Registry.from_environment()
        self.device = devices.pick_device(p.device)
        given = p.model_dump(mode="json")
        usual = Path(default_path(f"adapt-{p.dataset}", given)).with_suffix("")
        self.folder = Path(p.output or usual)
        self._own_folder(given)
        self.before = load_method(
            p.recipe, p.checkpoint, device=p.device, precision=p.precision, registry=self.registry
        )
        for offer in ("adapt", "save"):
            if not hasattr(self.before.encoder, offer):
                part = self.before.recipe.encoder
                raise BadRequest(
                    f"the encoder {part and part.name!r} of recipe {p.recipe!r} cannot be adapted "
                    f"(it has no {offer!r}); tiny-clip can."
                )
        print(f"device    {devices.describe(self.device)}")
        print(f"folder    {self.folder}", flush=True)

    def _own_folder(self, given: Mapping[str, Any]) -> None:
        """Refuse a folder of something else, or of other parameters unless it is to be replaced."""
        what = {k: v for k, v in given.items() if k not in ("output", "resume", "store")}
        note = self.folder / "adapt.json"
        if self.folder.is_dir() and any(self.folder.iterdir()) and not note.is_file():
            raise BadRequest(f"{self.folder} holds something else already: choose another output.")
        if self.p.resume and note.is_file():
            before = json.loads(note.read_text(encoding="utf-8"))
            other = sorted(k for k in {*before, *what} if before.get(k) != what.get(k))
            if other:
                raise BadRequest(
                    f"{self.folder} holds an adaptation with another {', '.join(other)}: choose "
                    "another output, or resume=False to replace it."
                )
        else:
            for name in (ENCODER, START, NETWORK):
                (self.folder / name).unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(what, indent=1) + "\n", encoding="utf-8")

    def encoder(self) -> None:
        """Adapt the encoder to the two pictures of every training pair, and keep it."""
        file = self.folder / ENCODER
        if file.is_file():
            print(f"encoder   was adapted before: {file}", flush=True)
            return
        adapted = self.before.encoder.adapt(
            self.train_set,
            steps=self.p.encoder_steps,
            seconds=self.p.seconds,
            seed=self.p.seed,
            say=lambda line: print(f"encoder   {line}", flush=True),
        )
        adapted.save(file)

    @cached_property
    def recipe(self) -> Recipe:
        """That of the network to be adapted: as it was, with the adapted encoder."""
        part = self.before.recipe.encoder
        weights = {"weights": str((self.folder / ENCODER).resolve())}
        said = f"Adapted without labels to {len(self.train_set)} pairs of {self.p.dataset!r}."
        recipe = self.before.recipe.model_copy(
            update={
                "encoder": Part(name=part.name, options={**part.options, **weights}),
                "remark": f"{said} {self.before.recipe.remark}".strip(),
            }
        )
        given = {"steps": self.p.steps, "batch_size": self.p.batch_size}
        return recipe.with_overrides(
            {k: v for k, v in given.items() if v is not None} | dict(self.p.overrides)
        )

    @cached_property
    def bench(self) -> Bench:
        """The run in which the network learns; needs the adapted encoder."""
        start = self.folder / START
        if not start.is_file():  # a run that is taken up must find the very file it began with
            self.before.save(start)
        path = self.p.store or str(self.folder / "run.zarr")
        return Bench.adapting(self.p, self.recipe, str(start), path)

    def network(self) -> None:
        """Train the network on, measure and keep as in every run, and write its checkpoint."""
        arm, seed = self.bench.studied, self.p.seed
        self.bench.train(arm, seed)
        self.bench.measure(arm, seed)
        self.bench.trained[arm, seed].save(self.folder / NETWORK)

    @cached_property
    def train_set(self) -> list[Pair]:
        """Pairs to adapt to: two pictures each, whatever else may be known of them."""
        pairs = self._pairs("train", self.p.train_pairs)
        return [Pair(pair.name, pair.visible, pair.infrared) for pair in pairs]

    @cached_property
    def test_set(self) -> list[Pair]:
        """Held-out pairs, with the boxes or masks by which to measure."""
        return self._pairs("test", self.p.test_pairs)

    def _pairs(self, split: str, count: int) -> list[Pair]:
        return list(
            self.registry.create(
                "dataset", self.p.dataset, root=self.p.data_root, split=split, count=count,
                size=self.p.image_size,
            )
        )  # fmt: skip

    @cached_property
    def after(self) -> Method:
        """The adapted method, as anybody would load it from the folder."""
        return load_method(
            self.p.recipe, self.folder / NETWORK, device=self.p.device,
            precision=self.p.precision, registry=self.registry,
        )  # fmt: skip

    @cached_property
    def labels(self) -> list[str]:
        """What enough held-out pairs show, by boxes or else masks; most frequent first."""
        shown = [{thing.label for thing in p.things} or set(p.masks) for p in self.test_set]
        count = pd.Series([label for some in shown for label in sorted(some)]).value_counts()
        return [label for label, pairs in count.items() if pairs >= FEWEST]

    @cached_property
    def maps(self) -> pd.DataFrame:
        """How well the encoder's heat maps find things, before and after."""
        return compared(
            *(pointing(m.encoder, self.test_set, self.labels) for m in (self.before, self.after))
        )

    @cached_property
    def fusion(self) -> pd.DataFrame:
        """What words do to the fused picture, before and after.

        Measures are those of the recipe's task (``on_pairs``); none where it brings none.
        """
        measure = getattr(self.before.recipe.task, "on_pairs", None)
        if measure is None:
            return compared({}, {})
        return compared(*(with_means(measure(m, self.test_set)) for m in (self.before, self.after)))

    def table(self) -> pd.DataFrame:
        """Both tables in one, written to ``table.csv``."""
        found = pd.concat([self.maps, self.fusion])
        found.to_csv(self.folder / "table.csv")
        return found

    def closing(self) -> str:
        """What was made, how to use it, and what the numbers are of."""
        run, name = self.folder, self.p.recipe
        truth = (
            "by masks" if any(p.masks for p in self.test_set)
            else "by boxes" if self.labels
            else "without boxes or masks (boxes.json beside the pairs would tell where things are)"
        )  # fmt: skip
        return "\n".join(
            [
                f"adapted to {len(self.train_set)} pairs of {self.p.dataset!r} without labels, "
                f"measured on {len(self.test_set)} held-out ones {truth}.",
                f"encoder   {run / ENCODER}",
                f"network   {run / NETWORK}",
                f"run       {self.bench.path}",
                f"fuse      fusionkit fuse IR VI -o OUT --recipe {name} "
                f'--checkpoint {run / NETWORK} --text "highlight the person"',
                f"train     fusionkit train RECIPE --set encoder.options.weights={run / ENCODER}",
            ]
        )


def with_means(values: Values) -> dict[str, Mapping[str, float]]:
    """The values, and the means over wishes that were put to the same pairs.

    Measures are called ``<wish>: <measure>``; the mean is called ``mean of 8: <measure>``.
    """
    alike: dict[tuple[str, tuple[str, ...]], list[Mapping[str, float]]] = {}
    for name, row in values.items():
        alike.setdefault((name.partition(": ")[2], tuple(row)), []).append(row)
    means = {
        f"mean of {len(rows)}: {measure}": {
            p: sum(row[p] for row in rows) / len(rows) for p in pairs
        }
        for (measure, pairs), rows in alike.items()
        if len(rows) > 1
    }
    return {**values, **means}


def compared(before: Values, after: Values) -> pd.DataFrame:
    """One row a measure: means before and after, their difference with its 95 % interval.

    Over the pairs that have a value both times.
    """
    rows = {}
    for name in before:
        pairs = [pair for pair in before[name] if pair in after.get(name, ())]
        a, b = ([values[name][pair] for pair in pairs] for values in (after, before))
        if not pairs:
            continue
        difference = paired_difference(a, b)
        rows[name] = {
            "pairs": difference.interval.n,
            "before": sum(b) / len(b),
            "after": sum(a) / len(a),
            "difference": difference.mean,
            "low": difference.interval.low,
            "high": difference.interval.high,
            "p": difference.p,
        }
    columns = ["pairs", "before", "after", "difference", "low", "high", "p"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("measure")
