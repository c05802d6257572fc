"""The only training loop: device, precision, seeds, checkpoints, resuming, progress, stopping.

A step depends on the seed and its own number alone: samples are drawn from a generator seeded by
both, and the global generator is set likewise. So a run that was killed and resumed passes through
the same numbers as one that was not: bit for bit on a CPU; on a GPU the gradient of bilinear
interpolation adds up in an order that varies.
"""

import fnmatch
import hashlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusionkit import devices, parallel
from fusionkit.batch import Batch
from fusionkit.errors import BadRequest, Interrupted, TrainingDiverged, did_you_mean
from fusionkit.methods import (
    Method,
    channels_last,
    create,
    load_checkpoint,
    save_atomic,
)
from fusionkit.protocols import Pair, Task
from fusionkit.recipe import Recipe, Stage
from fusionkit.registry import Registry, check_options

Log = Callable[[int, Mapping[str, float]], None]


@dataclass
class Trained:
    """What training leaves."""

    method: Method
    task: Task
    history: dict[int, dict[str, float]] = field(default_factory=dict)
    """Mean of each loss term since the entry before, by step; ``total`` is the weighted sum."""
    seconds: float = 0.0
    """Time spent in steps, over all resumed parts."""


def train(
    recipe: Recipe,
    pairs: Sequence[Pair],
    *,
    registry: Registry | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    encoder: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = True,
    log: Log | None = None,
    log_every: int | None = None,
    save_seconds: float = 20.0,
    label: str = "",
    start_from: str | os.PathLike[str] | None = None,
    strict_weights: bool = True,
) -> Trained:
    """Train a recipe on pairs, alone or as one of several processes, see :mod:`parallel`.

    Args:
        recipe: the method; its ``task`` makes the samples.
        pairs: aligned pairs; any sizes if the recipe crops.
        registry: where components come from; None discovers the installed plugins.
        seed: of weights and samples.
        device, precision: ``auto``, or a name; see :mod:`fusionkit.devices`. The recipe's own
            precision takes the place of ``auto``.
        encoder: one already built, shared between runs; None builds the recipe's.
        checkpoint: file for weights and progress, written every ``save_seconds``, at the end and
            when interrupted. An existing one of the same recipe, seed, pairs and start is
            continued; one of another run is refused.
        resume: False starts over and replaces the file.
        log: called as ``log(step, terms)`` every ``log_every`` steps (default: 40 times a run).
        label: stands before the progress.
        start_from: a checkpoint whose weights are the start of a new run.
        strict_weights: whether a weight of a term that no loss gives is an error. An ablation that
            leaves a loss out leaves its weight idle.

    Raises:
        TrainingDiverged: a loss is not finite; names the terms and the last good checkpoint.
        BadRequest: the recipe cannot be trained, or the checkpoint belongs to another run.
    """
    registry = registry or Registry.from_environment()
    where = devices.pick_device(device)
    dtype = devices.pick_precision(recipe.precision if precision == "auto" else precision, where)
    if not len(pairs):
        raise BadRequest("there is no pair to train on.")

    torch.manual_seed(seed % 2**63)
    method = Method(recipe, registry, device=where, dtype=dtype, encoder=encoder)
    recipe = method.recipe
    task = build_task(method, pairs)
    if method.bank is not None:
        method.bank.add(task.prompts)
        method.bank.fit()
    losses = build_losses(method)

    if start_from is not None:
        method.load_state(load_checkpoint(start_from))
    run = Trained(method, task)
    origin = {"pairs": _fingerprint(pairs), "start": _file_fingerprint(start_from)}
    parallel.check_same("pairs", origin["pairs"])
    saved = _resume(method, checkpoint, recipe, seed, origin) if resume and checkpoint else None
    parallel.start_alike(method.network)
    network = method.network
    if recipe.compile is not None:
        network = torch.compile(network, backend=recipe.compile)
    first = 0
    total = sum(stage.steps for stage in recipe.stages)
    if saved is not None:
        first, run.history, run.seconds = saved["step"], saved["history"], saved["seconds"]
        print(
            f"{label or recipe.name}: {'continues at' if first < total else 'has'} step {first} "
            f"of {total}, from {checkpoint}; resume=False starts over",
            flush=True,
        )
    every = log_every or max(1, total // 40)
    progress = Progress(total, label or recipe.name, first)
    start = time.perf_counter()
    last_save = start

    def save(step: int, optimizer: torch.optim.Optimizer | None) -> None:
        if checkpoint is None or parallel.rank():
            return
        broken = [n for n, p in method.network.named_parameters() if not p.isfinite().all()]
        if broken:  # a gradient may overflow under a finite loss: keep the good state on disk
            _check_finite({f"parameter {broken[0]}": math.nan}, step, recipe, checkpoint)
        training = {
            "step": step,
            "seed": seed,
            "origin": origin,
            "history": run.history,
            "seconds": run.seconds + time.perf_counter() - start,
            "sums": sums,
            "counted": counted,
            "optimizer": None if optimizer is None else optimizer.state_dict(),
        }
        save_atomic(method.state() | {"training": training}, checkpoint)

    done = 0
    sums: dict[str, Tensor] = {} if saved is None else saved["sums"]
    counted = 0 if saved is None else saved["counted"]
    settings = recipe.stages[0].crop, {}
    with stop_signals() as stopped:
        for stage in recipe.stages:
            stage_start, done = done, done + stage.steps
            if first >= done:
                continue
            parameters = _trainable(method.network, stage)
            optimizer = _optimizer(stage, parameters, where)
            if saved is not None and stage_start < first:
                optimizer.load_state_dict(saved["optimizer"])
            if settings != (stage.crop, stage.task_options):
                settings = stage.crop, stage.task_options
                crop = {"crop": stage.crop} | recipe.task_options
                task = build_task(method, pairs, crop | stage.task_options)
            weights = recipe.weights if stage.weights is None else stage.weights
            for step in range(max(first, stage_start), done):
                terms = _step(
                    method,
                    task,
                    losses,
                    weights,
                    optimizer,
                    parameters,
                    stage,
                    step=step,
                    within=step - stage_start,
                    seed=seed,
                    strict_weights=strict_weights,
                    network=network,
                )
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0) + value
                counted += 1
                now = step + 1
                if now % every == 0 or now == total:
                    sums = parallel.mean_terms(sums)
                    means = {name: float(value) / counted for name, value in sums.items()}
                    _check_finite(means, now, recipe, checkpoint)
                    run.history[now] = means
                    sums, counted = {}, 0
                    progress(now, means["total"])
                    if log is not None:
                        log(now, means)
                    if time.perf_counter() - last_save > save_seconds and now < total:
                        save(now, optimizer)
                        last_save = time.perf_counter()
                if parallel.anywhere(bool(stopped)) and now < total:
                    sums = parallel.mean_terms(sums)
                    _check_finite({n: float(v) for n, v in sums.items()}, now, recipe, checkpoint)
                    save(now, optimizer)
                    kept = (
                        f"; {checkpoint} keeps them, the same command resumes" if checkpoint else ""
                    )
                    why = stopped[0] if stopped else "another process was stopped"
                    raise Interrupted(f"{why} after {now} of {total} steps{kept}.")
    if first < total:
        save(total, None)
    run.seconds += time.perf_counter() - start
    progress.close()
    method.network.eval()
    return run


def build_task(
    method: Method, pairs: Sequence[Pair], options: Mapping[str, Any] | None = None
) -> Task:
    """The recipe's task over these pairs, with the method's encoder and guides."""
    return method.recipe.task(**_task_arguments(method, pairs, options))


def check_recipe(method: Method) -> None:
    """BadRequest for what is wrong with losses and task options, before any pair is read."""
    build_losses(method)
    for stage in method.recipe.stages:
        _task_arguments(method, (), stage.task_options)


def _task_arguments(
    method: Method, pairs: Sequence[Pair], options: Mapping[str, Any] | None
) -> dict[str, Any]:
    recipe = method.recipe
    if recipe.task is None:
        raise BadRequest(f"recipe {recipe.name!r} has no training task.")
    given = {
        "pairs": pairs,
        "registry": method.registry,
        "encoder": method.encoder,
        "guides": method.guides,
        "crop": recipe.stages[0].crop,
        **recipe.task_options,
        **(options or {}),
    }
    check_options(f"the task of recipe {recipe.name!r}", recipe.task, given)
    return given


def build_losses(method: Method) -> dict[str, Any]:
    """The recipe's losses by name, on the method's device."""
    recipe = method.recipe
    if not recipe.losses and recipe.step is None:
        raise BadRequest(f"recipe {recipe.name!r} names no loss, so there is nothing to train for.")
    offers = {"encoder": method.encoder, "sentences": recipe.sentences}
    return {
        part.name: _to(
            create(method.registry, "loss", part.name, part.options, **offers), method.device
        )
        for part in recipe.losses
    }


def step_generator(seed: int, step: int, part: int = 0) -> torch.Generator:
    """The generator of one step, or part of it: a function of the run's seed and the numbers."""
    number = seed * 1_000_003 + step * 7919 + 17 + part * 2**40
    return torch.Generator().manual_seed(number % 2**63)


def _step(
    method: Method,
    task: Task,
    losses: Mapping[str, Any],
    weights: Mapping[str, float],
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    stage: Stage,
    *,
    step: int,
    within: int,
    seed: int,
    strict_weights: bool = True,
    network: Any = None,
) -> dict[str, Tensor]:
    """One step of the optimiser; ``network`` is what is called for the method's, compiled, say."""
    network = method.network if network is None else network
    method.network.train()
    factor = (method.recipe.rate or rate)(stage, within)
    for group in optimizer.param_groups:
        group["lr"] = stage.learning_rate * factor
    optimizer.zero_grad(set_to_none=True)
    means: dict[str, Tensor] = {}
    parts, rows = parallel.share_of(stage.accumulate)
    for part in parts:
        torch.manual_seed((seed * 1_000_003 + step + (part + rows.first) * 2**40) % 2**63)
        generator = step_generator(seed, step, part)
        batch: Batch = task.sample(stage.batch_size // stage.accumulate, generator)
        batch = method.with_text(rows.of(batch).to(method.device))
        if method.recipe.channels_last:
            batch = channels_last(batch)
        with devices.autocast(method.device, method.dtype):
            terms = _terms(method.recipe, network, batch, losses)
        unknown = sorted(set(weights) - set(terms))
        if unknown and strict_weights:
            raise BadRequest(
                f"recipe {method.recipe.name!r} weights the terms {unknown}, which no loss "
                f"gives; the terms are {sorted(terms)}.{did_you_mean(unknown[0], terms)}"
            )
        total = sum(weights.get(name, 1.0) * value for name, value in terms.items())
        (total / len(parts) if len(parts) > 1 else total).backward()
        for name, value in {**terms, "total": total}.items():
            means[name] = means.get(name, 0) + value.detach().float() / len(parts)
    parallel.average_gradients(method.network, parameters)
    if stage.clip_norm is not None:
        means["gradient_norm"] = torch.nn.utils.clip_grad_norm_(parameters, stage.clip_norm)
    optimizer.step()
    return means


def _terms(
    recipe: Recipe, network: Any, batch: Batch, losses: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The named terms of one pass through the network."""
    if recipe.step is not None:
        return dict(recipe.step(network, batch, losses))
    fused = network(batch)
    terms = dict(fused.terms)
    for loss in losses.values():
        terms |= loss(batch, fused)
    return terms


def rate(stage: Stage, step: int) -> float:
    """Share of the peak learning rate at a step of the stage, by its warm-up and schedule."""
    rise = stage.warmup * stage.steps
    if step < rise:
        return (step + 1) / (rise + 1)
    if stage.schedule == "constant":
        return 1.0
    if stage.schedule == "steps":
        return stage.decay ** sum(step >= milestone for milestone in stage.milestones)
    position = (step - rise) / max(1.0, stage.steps - rise)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * position)) / 2


def _trainable(network: torch.nn.Module, stage: Stage) -> list[Tensor]:
    chosen = []
    for name, parameter in network.named_parameters():
        learns = any(fnmatch.fnmatchcase(name, pattern) for pattern in stage.trainable)
        parameter.requires_grad_(learns)
        if learns:
            chosen.append(parameter)
    if not chosen:
        raise BadRequest(f"stage {stage.name!r}: no parameter matches {list(stage.trainable)}.")
    return chosen


def _optimizer(
    stage: Stage, parameters: Sequence[Tensor], device: torch.device
) -> torch.optim.Optimizer:
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[stage.optimizer]
    return kind(
        parameters,
        lr=stage.learning_rate,
        betas=stage.betas,
        weight_decay=stage.weight_decay,
        fused=stage.fused and device.type in ("cpu", "cuda"),
    )


def _resume(
    method: Method,
    checkpoint: str | os.PathLike[str],
    recipe: Recipe,
    seed: int,
    origin: Mapping[str, str],
) -> dict[str, Any] | None:
    """What an earlier process had reached, its weights loaded; None where nothing is there."""
    state = parallel.from_first(lambda: _earlier(checkpoint, recipe, seed, origin))
    if state is None:
        return None
    method.load_state(state)
    return state["training"]


def _earlier(
    checkpoint: str | os.PathLike[str], recipe: Recipe, seed: int, origin: Mapping[str, str]
) -> dict[str, Any] | None:
    """The checkpoint, if there is one; refused if it is of another run."""
    if not Path(checkpoint).exists():
        return None
    state = load_checkpoint(checkpoint)
    training = state.get("training")
    if (
        training is None
        or training["seed"] != seed
        or state["parts"] != recipe.model_dump(mode="json")
    ):
        raise BadRequest(
            f"{checkpoint} belongs to a run with other settings; choose another file, "
            "or resume=False to replace it."
        )
    if (before := training.get("origin", origin)) != origin:
        what = "pairs" if before["pairs"] != origin["pairs"] else "starting weights"
        raise BadRequest(
            f"{checkpoint} belongs to a run with other {what}; choose another file, "
            "or resume=False to replace it."
        )
    return state


def _fingerprint(pairs: Sequence[Pair]) -> str:
    """Which pairs: changes with names, sizes and pixels."""
    digest = hashlib.sha256()
    for pair in pairs:
        facts = pair.name, tuple(pair.visible.shape), *map(_sum, (pair.visible, pair.infrared))
        digest.update(repr(facts).encode())
    return digest.hexdigest()


def _sum(picture: Tensor) -> int:
    """In whole numbers, so that the order of summation does not show."""
    return int((picture * 65_535).round().long().sum())


def _file_fingerprint(path: str | os.PathLike[str] | None) -> str:
    return "" if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _check_finite(terms: Mapping[str, float], step: int, recipe: Recipe, checkpoint: Any) -> None:
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    if bad:
        kept = f" The last good state is in {checkpoint}." if checkpoint else ""
        raise TrainingDiverged(
            f"recipe {recipe.name!r}: {', '.join(bad)} not finite by step {step}. Lower the "
            f"learning rate, set clip_norm, or use precision float32.{kept}"
        )


def _to(loss: Any, device: torch.device) -> Any:
    return loss.to(device) if isinstance(loss, torch.nn.Module) else loss


@contextmanager
def stop_signals() -> Iterator[list[str]]:
    """Collects the first SIGTERM or Ctrl-C, so that a step is finished and saved before stopping.

    A second one acts at once. Only the main thread may set handlers; elsewhere nothing is caught.
    """
    caught: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {}

    def note(number: int, frame: Any) -> None:
        caught.append(signal.Signals(number).name)
        signal.signal(number, before[number])

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """A bar in a terminal, a line now and then in a notebook or a log file."""

    def __init__(self, total: int, label: str, first: int = 0) -> None:
        self.total, self.label = total, label
        self.bar = None
        if sys.stderr is not None and sys.stderr.isatty() and not parallel.rank():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=first, desc=label, unit="step")
        self.next_line = 0.0

    def __call__(self, step: int, loss: float) -> None:
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self.bar.update(step - self.bar.n)
            return
        share = step / self.total
        if share >= self.next_line:
            print(f"{self.label}: step {step}/{self.total}, loss {loss:.4f}", flush=True)
            self.next_line = share + 0.25 if share < 0.75 else 1.0

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def train_from_options(recipe: str, **options: Any) -> str:
    """What ``fusionkit train`` does: the work of ``train.ipynb`` without a notebook.

    Args:
        recipe: name of a recipe.
        **options: parameters of the notebook, besides ``encoder``, ``modulation``, ``network``,
            ``steps`` and ``batch_size``, which override the recipe's.

    Returns:
        The result in one line.
    """
    from fusionkit.bench import Bench
    from fusionkit.notebook import TrainParameters, check_values

    overrides = dict(options.pop("overrides", {}))
    for key in ("encoder", "modulation", "network", "steps", "batch_size"):
        if options.get(key) is not None:
            overrides[key] = options.pop(key)
    if "seed" in options:
        options["seeds"] = [options.pop("seed")]
    values = check_values("train", {"recipe": recipe, "overrides": overrides, **options})
    parameters = TrainParameters(**values)
    several = parallel.under_torchrun()
    if several and parameters.devices > 1:
        raise BadRequest("devices starts processes, and torchrun has started them: leave it out.")
    with parallel.joined(parameters.device) if several else nullcontext():
        bench = Bench.training(parameters)
        result = bench.everything()
    if bench.run is None:  # the first process alone has something to say
        return result
    print(f"weights   {bench.checkpoint(bench.studied, bench.seeds[0])}")
    print(f"result    {result}")
    return result
