"""The bench: train one or several arms on the same pairs and seeds, measure, store, compare.

An *arm* is a recipe, in an ablation the recipe with one part exchanged. Everything that is not
exchanged is shared: pairs, samples (a function of the seed), encoder, questions. Finished work is
found in the store and not done again. ``train.ipynb`` and ``fusionkit train`` are a bench with one
arm, ``ablation.ipynb`` is one with two or three.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fusionkit import control, devices, parallel, store
from fusionkit.batch import Batch, Fused
from fusionkit.capture import capture
from fusionkit.control import CHANCE, Question
from fusionkit.data import collate
from fusionkit.errors import BadRequest, did_you_mean
from fusionkit.evaluation import build_metrics, evaluate, facts
from fusionkit.guides import add_guides
from fusionkit.methods import Method, load_checkpoint, load_method, settle_encoder
from fusionkit.protocols import Metric, Pair
from fusionkit.recipe import Recipe, parts
from fusionkit.registry import Registry
from fusionkit.statistics import Interval, interval_nested, paired_difference
from fusionkit.store.layout import NOT_COMPARED
from fusionkit.training import Trained, build_losses, build_task, check_recipe, train

QUESTION_SEED = 20_240
"""Seed of the held-out questions: the same for every arm and every seed of training."""
REAL, REAL_SIZE = 16, 128
"""How many real pairs are asked about beside rendered ones, and their shorter side in pixels."""
LONG, SHORT = 1000, {"steps": 40, "batch_size": 4}
"""More steps than ``LONG`` are a protocol for a GPU; what of it a CPU does unasked."""


class Bench:
    """One or several arms on one data set, in one store.

    Args:
        arms: recipes by name; the first is the baseline, the last the one under study. With one
            arm there is nothing to compare it with.
        registry: where components come from.
        dataset: name of a data set.
        data_root: its folder, None where it needs none or is found.
        image_size: side of generated pairs, or of the shorter side of photographs; None as is.
        train_pairs, test_pairs: how many pairs at most.
        questions: held-out questions of each kind.
        shown: test pairs whose pictures, feature maps and heat maps are kept.
        prompts: what the shown pairs are asked; None lets the task choose for each.
        metrics: scores of plain fusion.
        seeds: one training per arm and seed.
        device, precision: see :mod:`fusionkit.devices`.
        path: where the store is, or will be.
        resume: take up what is there, or replace it.
        parameters: what goes into the store's attributes.
        notebook: the notebook whose parameters these are.
        start_from: a checkpoint whose weights the arms start from.
        unlabelled: whether training sees of a pair nothing but the two pictures.
        strict_weights: see :func:`fusionkit.training.train`.
        processes: how many train together, started here; under torchrun there are several already,
            and all but the first have no store (``run`` is None) and only train.
        photographs: a data set of real pairs, of which a few are asked about besides rendered ones,
            where it is at hand.
    """

    def __init__(
        self,
        arms: Mapping[str, Recipe],
        *,
        registry: Registry,
        dataset: str,
        data_root: str | None,
        image_size: int | tuple[int, int] | None,
        train_pairs: int,
        test_pairs: int,
        questions: int,
        shown: int,
        prompts: Sequence[str] | None,
        metrics: Sequence[str],
        seeds: Sequence[int],
        device: str,
        precision: str,
        path: str,
        resume: bool,
        parameters: Mapping[str, Any],
        notebook: str,
        start_from: str | None = None,
        strict_weights: bool = True,
        unlabelled: bool = False,
        processes: int = 1,
        photographs: str | None = None,
    ) -> None:
        self._unlabelled, self._photographs = unlabelled, photographs
        self._real: dict[tuple[str, int], dict[str, list[float]]] = {}
        self.arms, self.registry, self.seeds = dict(arms), registry, list(seeds)
        self.baseline, self.studied = next(iter(self.arms)), list(self.arms)[-1]
        if precision == "auto":
            precision = self.arms[self.studied].precision
        self.device, self.precision = devices.pick_device(device), precision
        self.dtype = devices.pick_precision(precision, self.device)
        self.dataset, self.metrics, self.resume = dataset, list(metrics), resume
        if prompts is not None and len(prompts) < 2:
            raise BadRequest("prompts: give two or more, so that their effects can be compared.")
        self.prompts, self.count = prompts, questions
        self._shown, self.start_from, self._strict = shown, start_from, strict_weights
        self._pairs = {
            split: registry.create(
                "dataset", dataset, root=data_root, split=split, count=count, size=image_size
            )
            for split, count in (("train", train_pairs), ("test", test_pairs))
        }
        recipe, self.encoder = settle_encoder(self.arms[self.studied], registry, self.device)
        self.arms = {
            name: arm if arm.encoder is None else arm.model_copy(update={"encoder": recipe.encoder})
            for name, arm in self.arms.items()
        }
        self._check_parts()
        self.path, self._processes, self.run = path, processes, None
        if parallel.rank() == 0:
            self.run = store.create_run(
                path,
                parameters=parameters,
                recipe=recipe.describe(),
                components=components(registry, self.arms.values(), [*metrics], dataset),
                seed=self.seeds,
                device=devices.describe(self.device),
                resume=resume,
                notebook=notebook,
            )
            self.path = self.run.path
        self.trained: dict[tuple[str, int], Method] = {}
        self.weights: dict[str, str] = {}
        """Checkpoints of the arms that are not trained here."""

    def _check_parts(self) -> None:
        """Build what the arms name once: a wrong name or option must not cost an earlier run."""
        for recipe in self.arms.values():
            method = Method(recipe, self.registry, device=self.device, encoder=self.encoder)
            check_recipe(method)
            if self.start_from is not None:
                method.load_state(load_checkpoint(self.start_from))
        self._build_metrics()

    @classmethod
    def ablation(cls, p: Any) -> "Bench":
        """The arms that the parameters of ``ablation.ipynb`` describe."""
        registry = Registry.from_environment()
        recipe = registry.create("recipe", p.recipe).with_overrides(
            {
                "network": p.network,
                "encoder": p.encoder,
                "losses": list(p.losses),
                "steps": p.steps,
                "batch_size": p.batch_size,
            }
        )
        arms = arms_of(recipe, p.baseline, p.modulation, p.guides, registry)
        return cls._of(p, arms, registry, "ablation", f"ablation-{p.dataset}-{p.modulation}")

    @classmethod
    def training(cls, p: Any) -> "Bench":
        """The single arm that the parameters of ``train.ipynb`` describe."""
        registry = Registry.from_environment()
        recipe = bounded(registry.create("recipe", p.recipe), p)
        return cls._of(p, {recipe.name: recipe}, registry, "train", f"{recipe.name}-{p.dataset}")

    @classmethod
    def contender(cls, p: Any, name: str) -> "Bench":
        """One of the recipes that the parameters of ``compare.ipynb`` name.

        Its run says how to make it alone, and is the same whichever recipes stand beside it.
        """
        registry = Registry.from_environment()
        weights = p.checkpoints.get(name)
        recipe = registry.create("recipe", name)
        alone = {"recipes": [name], "checkpoints": {} if weights is None else {name: weights}}
        one = p.model_copy(update=alone)
        if weights is None:
            recipe = bounded(recipe, p)
        else:  # there is nothing to repeat
            one = one.model_copy(update={"seeds": p.seeds[:1]})
        bench = cls._of(
            one,
            {name: recipe},
            registry,
            "compare",
            f"compare/{name}-{p.dataset}",
            path=f"{p.store}/{name}.zarr" if p.store else None,
        )
        bench.weights = {} if weights is None else {name: weights}
        return bench

    @classmethod
    def adapting(cls, p: Any, recipe: Recipe, start_from: str, path: str) -> "Bench":
        """The single arm of ``adapt.ipynb``: a recipe that learns on, from pairs without labels."""
        return cls._of(
            p, {recipe.name: recipe}, Registry.from_environment(), "adapt", "", path=path,
            start_from=start_from, unlabelled=True,
        )  # fmt: skip

    @classmethod
    def _of(
        cls,
        p: Any,
        arms: Mapping[str, Recipe],
        registry: Registry,
        notebook: str,
        stem: str,
        *,
        path: str | None = None,
        start_from: str | None = None,
        unlabelled: bool = False,
    ) -> "Bench":
        parameters = p.model_dump(mode="json")
        own = [*arms.values()][-1].metrics
        bench = cls(
            arms,
            registry=registry,
            dataset=p.dataset,
            data_root=p.data_root,
            image_size=p.image_size,
            train_pairs=p.train_pairs,
            test_pairs=p.test_pairs,
            questions=p.questions,
            shown=p.shown,
            prompts=p.prompts,
            metrics=p.metrics or own,
            seeds=p.seeds,
            device=p.device,
            precision=p.precision,
            path=path or p.store or default_path(stem, parameters),
            resume=p.resume,
            parameters=parameters,
            notebook=notebook,
            start_from=start_from or getattr(p, "checkpoint", None),
            unlabelled=unlabelled,
            strict_weights=notebook != "ablation",  # where losses are parameters, weights are not
            processes=getattr(p, "devices", 1),
            photographs=getattr(p, "photographs", None),
        )
        print(f"arms      {', '.join(bench.arms)}; seeds {', '.join(map(str, bench.seeds))}")
        print(
            f"device    {devices.describe(bench.device)}, {str(bench.dtype).removeprefix('torch.')}"
        )
        print(f"store     {bench.path}", flush=True)
        return bench

    def everything(self) -> str:
        """All of it in order: train, measure, score, keep; returns the result in one line."""
        if self.run is None:
            for seed in self.seeds:
                for arm in self.arms:
                    self.train(arm, seed)
            return ""
        with self.run:
            for seed in self.seeds:
                for arm in self.arms:
                    if arm in self.weights:
                        self.trained[arm, seed] = load_method(
                            arm, self.weights[arm], device=str(self.device),
                            precision=self.precision, registry=self.registry,
                        )  # fmt: skip
                    else:
                        self.train(arm, seed)
                    self.measure(arm, seed)
            self.score()
            self.keep()
            return self.result()

    @property
    def finished(self) -> bool:
        """Whether an earlier process has done everything; the run then only wants completing."""
        scored = all(self.run.done("scores", pair.name) for pair in self.test_set)
        kept = all(self.run.done("images", pair.name) for pair in self.shown)
        every = [(arm, seed) for arm in self.arms for seed in self.seeds]
        asked = not self.questions or all(self.run.has_control(*arm_seed) for arm_seed in every)
        return scored and kept and asked

    @property
    def encoder_name(self) -> str:
        """Its name in quotes, or ``none``."""
        part = self.arms[self.studied].encoder
        return "none" if part is None else repr(part.name)

    @cached_property
    def train_set(self) -> list[Pair]:
        """Pairs to learn from."""
        pairs = list(self._pairs["train"])
        if self._unlabelled:
            pairs = [Pair(pair.name, pair.visible, pair.infrared) for pair in pairs]
        return pairs

    @cached_property
    def test_set(self) -> list[Pair]:
        """Held-out pairs."""
        return list(self._pairs["test"])

    @cached_property
    def shown(self) -> list[Pair]:
        """The first held-out pairs about which something can be asked."""
        return [self.test_set[i] for i in self._shown_indices]

    @cached_property
    def _shown_indices(self) -> list[int]:
        task = self._test_task
        if not hasattr(task, "examples"):
            return list(range(min(self._shown, len(self.test_set))))
        best = sorted(range(len(self.test_set)), key=lambda i: -len(task.examples[i].masks))
        return sorted(best[: self._shown])

    @cached_property
    def _test_task(self) -> Any:
        recipe = self.arms[self.baseline]
        method = Method(recipe, self.registry, device=self.device, encoder=self.encoder)
        return build_task(method, self.test_set, {"crop": None})

    @cached_property
    def questions(self) -> list[Question]:
        """Held-out questions, with the maps of every guide that an arm reads."""
        if not hasattr(self._test_task, "questions"):
            return []  # a method without text at test time has nothing to be asked
        generator = torch.Generator().manual_seed(QUESTION_SEED)
        found = list(self._test_task.questions(self.count, generator))
        if not any(recipe.guides for recipe in self.arms.values()):
            return found
        guided = next(r for r in self.arms.values() if r.guides)
        method = Method(guided, self.registry, device=self.device, encoder=self.encoder)
        return [
            replace(
                question,
                first=add_guides(question.first, method.guides),
                second=add_guides(question.second, method.guides),
            )
            for question in found
        ]

    @cached_property
    def photographs(self) -> list[Question]:
        """Questions about a few real pairs, small ones, where rendered ones are learned from."""
        rendered = any(pair.masks for pair in self.test_set)
        if self._photographs is None or not rendered or not self.questions:
            return []
        try:
            pairs = self.registry.create(
                "dataset", self._photographs, split="test", count=REAL, size=REAL_SIZE
            )
        except BadRequest:
            return []
        method = Method(
            self.arms[self.baseline], self.registry, device=self.device, encoder=self.encoder
        )
        task = build_task(method, list(pairs), {"crop": None})
        generator = torch.Generator().manual_seed(QUESTION_SEED)
        return list(task.questions(min(REAL, self.count), generator))

    def train(self, arm: str, seed: int) -> Trained:
        """Train one arm with one seed, or take up where it was left; history goes to the store."""
        recipe = self.arms[arm]
        total = sum(stage.steps for stage in recipe.stages)
        every = max(1, total // 40)
        marks = [*range(every, total + 1, every)]
        marks += [total] if marks[-1] != total else []
        declared = False
        checkpoint = self.checkpoint(arm, seed)

        def log(step: int, terms: Mapping[str, float]) -> None:
            nonlocal declared
            if self.run is None:
                return
            if not declared:
                self.run.declare_history(list(self.arms), self.seeds, marks, list(terms))
                declared = True
            self.run.put_history(arm, seed, marks.index(step), terms)
            self.run.progress(f"{arm}, seed {seed}: step {step} of {total}")

        options = {
            "seed": seed,
            "device": str(self.device),
            "precision": self.precision,
            "checkpoint": checkpoint,
            "resume": self.resume,
            "log_every": every,
            "label": f"{arm}, seed {seed}",
            "start_from": self.start_from,
            "strict_weights": self._strict,
        }
        if self._processes > 1:  # what they have learned is then taken up from the checkpoint
            parallel.train_on(self._processes, recipe, self.train_set, log=log, **options)
            options["resume"] = True
        result = train(
            recipe, self.train_set, registry=self.registry, encoder=self.encoder, log=log, **options
        )
        if self.run is None:
            return result
        for step, terms in result.history.items():  # what an earlier process had logged
            log(step, terms)
        self.run.flush()
        self.trained[arm, seed] = result.method
        return result

    def measure(self, arm: str, seed: int) -> None:
        """Text control of a trained arm on the held-out questions; stored per scene."""
        if self.photographs:
            real = control.measure(self.trained[arm, seed], self.photographs)
            self._real[arm, seed] = {name: values.tolist() for name, values in real.items()}
        if self.run.has_control(arm, seed) or not self.questions:
            return
        found = control.measure(self.trained[arm, seed], self.questions)
        asked = control.scenes(self.questions)
        scenes = list(dict.fromkeys(name for names in asked.values() for name in names))
        self.run.declare_control(list(self.arms), self.seeds, scenes)
        rows = {}
        for name, values in found.items():
            rows[name] = np.full(len(scenes), np.nan)
            rows[name][[scenes.index(scene) for scene in asked[name]]] = values.double().numpy()
        self.run.put_control(arm, seed, rows)

    def score(self) -> pd.DataFrame:
        """Metrics of plain fusion over every held-out pair, for the first and the last arm."""
        built = self._build_metrics()
        self.run.declare_metrics({name: facts(metric) for name, metric in built.items()})
        self._declare_pairs()
        tables = {}
        for variable, arm in self._compared.items():
            method = self.trained[arm, self.seeds[0]]
            rows = {}
            for group in _of_one_size(self.test_set):
                batch = self._batch(group, method.recipe.default_text)
                found = evaluate(
                    method(batch).image.cpu(), batch.infrared, batch.visible, list(built.values())
                )
                for i, pair in enumerate(group):
                    values = zip(self.metrics, found.values(), strict=True)
                    rows[pair.name] = {name: float(value[i]) for name, value in values}
            for name, row in rows.items():
                self.run.put_scores(variable, name, row)
            tables[arm] = pd.DataFrame.from_dict(rows, orient="index")
        return pd.concat(tables, axis=1)

    def _build_metrics(self) -> dict[str, Metric]:
        sentences = self.arms[self.studied].sentences
        return build_metrics(
            self.metrics, registry=self.registry, encoder=self.encoder, sentences=sentences
        )

    @property
    def _compared(self) -> dict[str, str]:
        """Arm by the name that its results have in the store."""
        if self.baseline == self.studied:
            return {"score": self.studied}
        return {"score": self.studied, "baseline": self.baseline}

    def keep(self) -> None:
        """Pictures, feature maps and heat maps of the shown pairs under their prompts."""
        self._declare_pairs()
        judges = [loss for loss in self._losses.values() if hasattr(loss, "heatmaps")]
        for index in self._shown_indices:
            pair = self.test_set[index]
            prompts = self._prompts(index)
            method = self.trained[self.studied, self.seeds[0]]
            batch = self._batch([pair], prompts[0])
            other = batch.replace(prompts=(prompts[1],))
            plain = batch.replace(prompts=(method.recipe.default_text,))
            self.run.put_image("ir", pair.name, pair.infrared.numpy())
            self.run.put_image("vi", pair.name, pair.visible.numpy())
            if self.baseline != self.studied:
                baseline = self.trained[self.baseline, self.seeds[0]]
                self.run.put_image("fused_baseline", pair.name, _numpy(baseline(batch)))
            self.run.put_image("fused_plain", pair.name, _numpy(method(plain)))
            self.run.put_image("fused_other", pair.name, _numpy(method(other)))
            with capture(method.network) as maps:
                fused = method(batch)
                for layer, values in {**fused.maps, **maps}.items():
                    self.run.put_features(layer, pair.name, values[0].float().cpu().numpy())
            several = Batch(
                visible=batch.visible.expand(len(prompts), -1, -1, -1),
                infrared=batch.infrared.expand(len(prompts), -1, -1, -1),
                prompts=tuple(prompts),
            )
            for guide in self._drawn.values():
                for name, drawn in guide(several).items():
                    if drawn.shape[1] == 1:  # others are features, not places
                        self.run.put_heatmaps(
                            name, pair.name, drawn[:, 0].float().cpu().numpy(), prompts
                        )
            for loss in judges:
                for name, (words, drawn) in loss.heatmaps(batch, fused).items():
                    self.run.put_heatmaps(name, pair.name, drawn[0].float().cpu().numpy(), words)
            self.run.put_image("fused", pair.name, _numpy(fused))

    @cached_property
    def _losses(self) -> dict[str, Any]:
        """Those of the arm under study; one that can show where it is met has ``heatmaps``."""
        return build_losses(self.trained[self.studied, self.seeds[0]])

    def _batch(self, pairs: Sequence[Pair], prompt: str) -> Batch:
        """Pairs of one size under a prompt, with their own descriptions for who reads them."""
        batch = collate(pairs)
        describe = getattr(self._test_task, "describe", lambda pair: pair.texts)
        return Batch(
            visible=batch.visible,
            infrared=batch.infrared,
            prompts=(prompt,) * len(pairs),
            labels={"texts": tuple(map(describe, pairs))},
            names=batch.names,
        )

    def _prompts(self, index: int) -> list[str]:
        if self.prompts:
            return list(self.prompts)
        if hasattr(self._test_task, "prompts_for"):
            return self._test_task.prompts_for(index)
        return [self.arms[self.studied].default_text] * 2

    def table(self) -> pd.DataFrame:
        """The ablation table: mean and 95 % interval over seeds and scenes, read from the store."""
        tree = store.open_run(self.run.path)
        table = control_table(tree, list(self.arms), self.seeds)
        for name in ("raised", "repair_gain_db") if self._real else ():
            cells = {"chance": f"{CHANCE[name]:.1f}"}
            for arm in self.arms:
                values = np.array([self._real[arm, seed][name] for seed in self.seeds])
                cells[arm] = _cell(interval_nested(values[:, ~np.isnan(values).all(0)]))
            table[f"{name}, {self._photographs}"] = pd.Series(cells)
        return table

    def result(self) -> str:
        """The result in one line; it also becomes the store's ``result``."""
        tree = store.open_run(self.run.path)
        if not self.questions:
            why = (
                "the method takes no text"
                if self.arms[self.studied].encoder is None
                else "its task asks no questions of the text"
            )
            line = f"{self.studied}: trained; {why}, so none was measured."
        elif self.baseline == self.studied:
            line = reached(tree, self.studied, self.seeds)
        else:
            line = verdict(tree, self.baseline, self.studied, self.seeds)
        self.run.note(result=line, remarks=self._remarks)
        return line

    def scope(self) -> str:
        """An honest line about what this run can and cannot show."""
        said = [
            f"{len(self.train_set)} training and {len(self.test_set)} held-out pairs of "
            f"{self.dataset!r}, {len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}, "
            f"encoder {self.encoder_name}."
        ]
        if any(pair.masks for pair in self.test_set):
            said.append(
                "These scenes are rendered: the result shows that the machinery works and how the "
                "scheme compares with others under equal conditions. "
                + (
                    f"What carries over to photographs is in the columns {self._photographs!r}: "
                    f"{len({n for q in self.photographs for n in q.first.names})} real pairs that "
                    "nothing here was trained on, boxes as truth, damage done on purpose."
                    if self.photographs
                    else "It says nothing about photographs"
                    + (
                        f", and {self._photographs!r} is not at hand to ask about real pairs"
                        if self._photographs and self.questions
                        else ""
                    )
                    + "; for those, train on photographs with an encoder trained on them."
                )
            )
        elif self.questions:
            said.append(
                "These are photographs without masks: in training, a thing is where the encoder's "
                "heat map says it is, so the network can be no better than the encoder. "
                + (
                    "The highlight measures above use boxes drawn by hand as truth."
                    if any(q.boxes for q in self.questions)
                    else "No boxes are known here, so the highlight measures use the same heat "
                    "maps as truth and only tell whether the network follows its guide."
                )
            )
        if self.questions:
            said.append(
                "Held-out are the pairs, not the words: questions use the phrasings of training, "
                "so nothing is said about other wordings."
            )
        said += self._remarks
        if len(self.seeds) < 3:
            said.append("Fewer than three seeds: the luck of one training run is not covered.")
        return "\n".join(said)

    def checkpoint(self, arm: str, seed: int) -> Path:
        """Where the weights of one arm and seed are kept: beside the store."""
        return store.checkpoint_folder(self.path) / f"{arm}-seed{seed}.pt"

    @cached_property
    def _remarks(self) -> list[str]:
        """What the recipe and its losses have to say about what they made."""
        losses = self._losses.values()
        said = [self.arms[self.studied].remark, *(getattr(loss, "remark", "") for loss in losses)]
        return [line for line in said if line]

    @cached_property
    def _drawn(self) -> dict[str, Any]:
        """Guides whose maps are kept: the encoder's heat map, and those that the task trains by."""
        guides = dict(getattr(self._test_task, "guides", {}))
        if hasattr(self.encoder, "heatmap"):
            guides.setdefault(
                "heatmap", self.registry.create("guide", "heatmap", encoder=self.encoder)
            )
        return guides

    def _declare_pairs(self) -> None:
        sizes = [tuple(p.visible.shape[-2:]) for p in self.test_set]
        height, width = (max(s[axis] for s in sizes) for axis in (0, 1))
        self.run.declare_pairs([p.name for p in self.test_set], height, width, sizes)


def compare_recipes(p: Any) -> dict[str, str]:
    """What ``compare.ipynb`` does: each recipe loaded or trained, fused, scored and kept.

    Every recipe has a store of its own, so what is there is not done again, also when other
    recipes are named beside it.

    Returns:
        The stores by recipe, in the order asked for; :func:`fusionkit.compare` takes them.

    Raises:
        BadRequest: weights for a recipe that is not among those compared, or the request of one
            recipe cannot be met.
    """
    for name in p.checkpoints:
        if name not in p.recipes:
            raise BadRequest(
                f"checkpoints: {name!r} is not among the recipes that are compared."
                f"{did_you_mean(name, p.recipes)}",
                asked=name,
                known=p.recipes,
            )
    stores = {}
    for name in p.recipes:
        bench = Bench.contender(p, name)
        if bench.finished:
            bench.run.complete()
            print(f"done      {name} was finished before", flush=True)
        else:
            bench.everything()
        stores[name] = bench.run.path
    return stores


def control_table(tree: Any, arms: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """Measures of text control from a stored run: one row an arm, ``mean [low, high]``.

    The interval is a 95 % bootstrap over seeds and scenes together.
    """
    if "control" not in tree.children:
        return pd.DataFrame()  # a method without text at test time was asked nothing
    group = tree["control"]
    names = control.order([n for n in group.data_vars if f"{n}_scene" in group.data_vars])
    rows = {}
    for arm in arms:
        row = {}
        for name in names:
            found = _over_seeds_and_scenes(group, name, arm, seeds)
            row[name] = _cell(found)
        rows[arm] = row
    rows["chance"] = {n: f"{CHANCE[n]:.1f}" if n in CHANCE else "" for n in names}
    return pd.DataFrame(rows).T


def _cell(found: Interval) -> str:
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def verdict(tree: Any, baseline: str, arm: str, seeds: Sequence[int]) -> str:
    """Whether the words mattered, in one line, with the numbers that say so.

    Control is judged against chance, which a network that ignores its text reaches by construction:
    a baseline that reads text too says which scheme is better, not whether the words matter.
    """
    group = tree["control"]
    if "named_right_scene" not in group.data_vars:
        return reached(tree, arm, seeds)  # nothing could be named: repairs alone were asked for
    found = _over_seeds_and_scenes(group, "named_right", arm, seeds)
    values = group["named_right_scene"]
    a, b = (values.sel(arm=name, seed=list(seeds)).mean("seed").values for name in (arm, baseline))
    difference = paired_difference(a, b)
    low, high = difference.interval.low, difference.interval.high
    if found.low > CHANCE["named_right"]:
        judged = "controls the result"
    elif found.high < CHANCE["named_right"]:
        judged = "turns the result to the opposite of what was asked for"
    else:
        judged = "is not seen to control the result"
    return (
        f"{arm}: the text {judged}: it is nearer to what was asked for in {found.mean:.0%} "
        f"[{found.low:.0%}, {found.high:.0%}] of the cases, where chance is 50% "
        f"({baseline}: {np.nanmean(b):.0%}, "
        f"difference {difference.mean:+.3f} [{low:+.3f}, {high:+.3f}], p = {difference.p:.1g})"
    )


def _over_seeds_and_scenes(group: Any, name: str, arm: str, seeds: Sequence[int]) -> Interval:
    values = group[f"{name}_scene"].sel(arm=arm, seed=list(seeds)).values
    return interval_nested(values[:, ~np.isnan(values).all(0)])


def reached(tree: Any, arm: str, seeds: Sequence[int]) -> str:
    """Mean of each measure of text control of one arm, in one line."""
    group = tree["control"]
    names = control.order([n for n in group.data_vars if f"{n}_scene" in group.data_vars])
    values = (f"{n} {float(group[n].sel(arm=arm, seed=list(seeds)).mean()):.3f}" for n in names)
    return f"{arm}: {', '.join(values)}"


def arms_of(
    recipe: Recipe, baseline: str, modulation: str, guides: Sequence[str], registry: Registry
) -> dict[str, Recipe]:
    """The baseline and the scheme; with guides, both once more with the guides as input.

    A guide is drawn from the prompt, so a network that reads it is told of the text even without a
    scheme: the guided baseline says how much of the guided scheme's control is the guide's.
    """
    maps = [
        name
        for guide in guides
        for name in getattr(registry.entry("guide", guide).factory, "maps", (guide,))
    ]
    arms = {}
    for inputs in ([], list(guides)) if guides else ([],):
        for name in dict.fromkeys((baseline, modulation)):
            changes = {"modulation": name, "guides": inputs}
            if inputs:
                changes["network.options.guides"] = maps
            arms["+".join([name, *inputs])] = recipe.with_overrides(changes)
    return arms


def bounded(recipe: Recipe, p: Any) -> Recipe:
    """A recipe with the overrides, steps and batch size that ``train.ipynb`` was given.

    Where no number of steps was given, a published protocol of thousands is not begun on a CPU,
    where it would take days: each stage then has 40 steps of four samples at most. That is said at
    once, and stands as the recipe's remark with every result.
    """
    protocol = recipe.with_overrides(p.overrides)
    given = {name: getattr(p, name) for name in SHORT if getattr(p, name) is not None}
    others = {path: value for path, value in p.overrides.items() if path not in given}
    recipe = recipe.with_overrides(others | given)
    named = any(path == "stages" or path.rsplit(".", 1)[-1] == "steps" for path in p.overrides)
    long = sum(stage.steps for stage in recipe.stages) > LONG
    if p.steps is not None or named or not long or devices.pick_device(p.device).type != "cpu":
        return recipe
    stages = []
    for stage in recipe.stages:
        batch = p.batch_size or min(stage.batch_size, SHORT["batch_size"])
        less = {"steps": min(stage.steps, SHORT["steps"]), "batch_size": batch}
        less["accumulate"] = parts(batch, stage.batch_size, stage.accumulate)
        stages.append(stage.model_copy(update=less))
    numbers = [
        ", ".join(f"{stage.steps} x {stage.batch_size}" for stage in these)
        for these in (stages, protocol.stages)
    ]
    remark = (
        f"On a CPU {recipe.name!r} was trained for {numbers[0]} samples in place of its "
        f"protocol's {numbers[1]}: that shows that it runs, not what it can do. Steps that are "
        "given (steps=...) are taken as they are."
    )
    print(f"bounded   {remark}", flush=True)
    return recipe.model_copy(
        update={"stages": tuple(stages), "remark": f"{recipe.remark} {remark}".strip()}
    )


def components(
    registry: Registry, recipes: Any, metrics: Sequence[str], dataset: str
) -> dict[str, Any]:
    """Who made what: plugin and version of every component that takes part."""
    used = {("dataset", dataset)} | {("metric", name) for name in metrics}
    for recipe in recipes:
        for kind in ("network", "modulation", "encoder"):
            if (part := getattr(recipe, kind)) is not None:
                used.add((kind, part.name))
        used |= {("guide", part.name) for part in recipe.guides}
        used |= {("loss", part.name) for part in recipe.losses}
    return {f"{kind}:{name}": registry.provenance(kind, name) for kind, name in sorted(used)}


def default_path(stem: str, parameters: Mapping[str, Any]) -> str:
    """Where a run goes when nothing is said: under ``runs``, named by what it does.

    The same parameters give the same path, so a repeated run resumes, and others never collide.
    Beside the notebooks' folder when the process works in it.
    """
    what = {k: v for k, v in parameters.items() if k not in NOT_COMPARED}
    digest = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()
    here = Path.cwd()
    base = here.parent if here.name == "notebooks" else here
    return str(base / "runs" / f"{stem}-{digest[:6]}.zarr")


def _of_one_size(pairs: Sequence[Pair], most: int = 32) -> Iterator[list[Pair]]:
    """The pairs in groups that can be stacked."""
    for _, group in groupby(pairs, key=lambda p: p.visible.shape):
        while part := list(islice(group, most)):
            yield part


def _numpy(fused: Fused) -> np.ndarray:
    return fused.image[0].float().cpu().numpy()
