"""Training in several processes: what the loop of :mod:`fusionkit.training` needs to stay one run.

The samples of a step are a function of seed and step, so nothing of them is sent around, and the
result is that of one process with the same batch, within rounding:

* A step in several parts (a stage's ``accumulate``) whose number divides by that of the processes
  is dealt out by parts. Whatever a part draws, also in the network, and whatever its losses relate
  is the same as in one process. This holds for every recipe.
* Otherwise every process draws each part and takes its own rows. That is the same for networks
  and losses that treat samples one by one. Not for dropout and noise, which are drawn anew; nor for
  terms over a whole batch (contrast between samples, the mean over those that have a mask, batch
  normalisation), which then are over a process' rows.

Running statistics of a normalisation are averaged over the processes after each step.

The processes are those of ``torchrun`` (:func:`joined`), on one machine or many, or are started
here (:func:`train_on`). In a process that is alone every function below does nothing.

This is not torch's ``DistributedDataParallel``: a recipe's ``step`` may call any part of the
network, any number of times, and a parameter may take part in one step and not in the next. The
price is that the exchange of gradients begins when the backward pass has ended.
"""

import contextlib
import datetime
import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fusionkit.batch import Batch
from fusionkit.errors import BadRequest, FusionkitError, Interrupted

PATIENCE = datetime.timedelta(hours=12)
"""How long a process waits for the first one, which alone measures and stores between trainings.
One that died is noticed at once."""
GRACE = 30.0
"""Seconds between asking the processes to stop and stopping them: a step and a checkpoint."""

_devices: Any = None
"""The group whose tensors lie on GPUs; None where everything lies on the host."""


def under_torchrun() -> bool:
    """Whether ``torchrun`` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; the first, 0, alone writes."""
    return dist.get_rank() if count() > 1 else 0


@contextlib.contextmanager
def joined(device: str = "auto", **meeting: Any) -> Iterator[None]:
    """Inside, this process is one of several. Without arguments for the meeting: of torchrun's.

    Each process takes the GPU of its number on the machine, if ``device`` asks for GPUs.

    Raises:
        BadRequest: more processes than GPUs, or one GPU for all of them.
    """
    global _devices
    if device.startswith("cuda:"):
        raise BadRequest(f"device {device!r} is one GPU for several processes: use cuda.")
    gpus = device in ("auto", "cuda") and torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if gpus and local >= torch.cuda.device_count():
        raise BadRequest(
            f"process {local + 1} of this machine finds no GPU of its own: there are "
            f"{torch.cuda.device_count()}. Start that many, or use device cpu."
        )
    # Messages, flags and waiting go over the host: a GPU is never held up for them.
    dist.init_process_group("gloo", timeout=PATIENCE, **meeting)
    try:
        if gpus:
            torch.cuda.set_device(local)
            _devices = dist.new_group(backend="nccl", timeout=PATIENCE)
        with contextlib.ExitStack() as quiet:
            if rank():  # every process says the same
                quiet.enter_context(
                    contextlib.redirect_stdout(quiet.enter_context(open(os.devnull, "w")))
                )
            yield
        dist.barrier()  # nobody hangs up while another is still talking
    finally:
        _devices = None
        dist.destroy_process_group()


def from_first(make: Callable[[], Any]) -> Any:
    """What the first process makes, or the error that it meets, in all of them."""
    if count() == 1:
        return make()
    box: list[Any] = [None]
    if rank() == 0:
        try:
            box = [(make(), None)]
        except FusionkitError as error:
            box = [(None, error)]
    dist.broadcast_object_list(box, src=0)
    value, error = box[0]
    if error is not None:
        raise error
    return value


def check_same(what: str, value: str) -> None:
    """BadRequest unless all processes have the same value."""
    if count() == 1:
        return
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    others = [number for number, other in enumerate(values) if other != values[0]]
    if others:
        raise BadRequest(
            f"processes {others} have other {what} than the first: every machine needs the same."
        )


def start_alike(network: nn.Module) -> None:
    """The first process' parameters and buffers in all of them."""
    if count() > 1:
        for tensor in [*network.parameters(), *network.buffers()]:
            value = tensor.detach().contiguous()
            dist.broadcast(value, src=0, group=_group(value))
            tensor.detach().copy_(value)


@dataclass(frozen=True)
class Rows:
    """Which rows of a batch: those of share ``first`` of ``shares`` equal ones."""

    first: int
    shares: int

    def of(self, batch: Batch) -> Batch:
        """These rows of a batch.

        Raises:
            BadRequest: the batch does not divide by the number of shares.
        """
        if self.shares == 1:
            return batch
        each, rest = divmod(len(batch), self.shares)
        if rest:
            raise BadRequest(
                f"{len(batch)} samples do not divide by {self.shares} processes: choose a "
                "batch_size (divided by accumulate) that does."
            )
        return batch.rows(slice(self.first * each, (self.first + 1) * each))


def share_of(parts: int) -> tuple[range, Rows]:
    """Which of the parts of a step this process passes through the network, and what rows of each.

    >>> share_of(4)  # in a process that is alone
    (range(0, 4), Rows(first=0, shares=1))
    """
    if parts % count() == 0:
        return range(rank(), parts, count()), Rows(0, 1)
    return range(parts), Rows(rank(), count())


def average_gradients(network: nn.Module, parameters: Sequence[Tensor]) -> None:
    """Gradients of the whole batch in every process, and one set of running statistics.

    A parameter without a gradient counts as zero if it has one elsewhere, and stays without if it
    has none anywhere: the optimiser leaves it alone, as it does in one process.
    """
    if count() == 1:
        return
    has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
    dist.all_reduce(has, op=dist.ReduceOp.MAX)
    shared = [m.get_buffer(name) for m in network.modules() for name in _statistics(m)]
    for parameter, somewhere in zip(parameters, has.tolist(), strict=True):
        if somewhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            shared.append(parameter.grad)
    flat = torch.cat([tensor.flatten() for tensor in shared])
    dist.all_reduce(flat, group=_group(flat))
    parts = (flat / count()).split([tensor.numel() for tensor in shared])
    for tensor, part in zip(shared, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))


def mean_terms(terms: Mapping[str, Tensor]) -> Mapping[str, Tensor | float]:
    """Named numbers, averaged over the processes; they need not have the same names."""
    if count() == 1:
        return terms
    every: list[Any] = [None] * count()
    dist.all_gather_object(every, {name: float(value) for name, value in terms.items()})
    names = dict.fromkeys(name for one in every for name in one)
    return {name: sum(one.get(name, 0.0) for one in every) / count() for name in names}


def anywhere(flag: bool) -> bool:
    """Whether it is so in any process: all stop after the same step, or none."""
    if count() == 1:
        return flag
    found = torch.tensor(int(flag))
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found)


def _group(tensor: Tensor) -> Any:
    return _devices if tensor.is_cuda else None


def _statistics(module: nn.Module) -> list[str]:
    """Names of the running statistics of a normalisation."""
    names = ("running_mean", "running_var")
    return [name for name in names if isinstance(getattr(module, name, None), Tensor)]


# --- starting the processes -------------------------------------------------------------------


def train_on(
    devices: int,
    recipe: Any,
    pairs: Sequence[Any],
    *,
    log: Callable[[int, Mapping[str, float]], None] | None = None,
    **options: Any,
) -> None:
    """:func:`fusionkit.training.train` in so many new processes of this machine.

    What they learn is in the checkpoint, which ``options`` must name; call ``train`` with it to
    take that up. Components come from the installed plugins. SIGTERM and Ctrl-C reach all of them.

    Raises:
        what ``train`` raises; FusionkitError where a process ends without a word.
    """
    from fusionkit.training import stop_signals

    start = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, stop_signals() as stopped:
        # In a file: torch would pass every tensor of every pair as an open file of its own.
        (Path(folder) / "work").write_bytes(pickle.dumps((recipe, list(pairs), options)))
        pipes = [start.Pipe(duplex=False) for _ in range(devices)]
        processes = [
            start.Process(target=_work, args=(number, devices, folder, pipe[1]), daemon=True)
            for number, pipe in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        try:
            for _, ours in pipes:
                ours.close()
            _follow(processes, [reader for reader, _ in pipes], log, stopped)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _follow(
    processes: Sequence[Any],
    readers: Sequence[Connection],
    log: Callable[[int, Mapping[str, float]], None] | None,
    stopped: Sequence[str],
) -> None:
    """Pass on what the processes say until all have ended; raise the first error among them."""
    errors: list[Exception] = []
    talking, deadline = list(readers), None
    while talking:
        for reader in wait(talking, timeout=0.2):
            try:
                message = reader.recv()
            except EOFError:
                talking.remove(reader)
                continue
            if isinstance(message, Exception):
                errors.append(message)
            elif log is not None:
                log(*message)
        dead = any(process.exitcode not in (None, 0) for process in processes)
        if deadline is None and (stopped or errors or dead):
            deadline = time.monotonic() + GRACE
            for process in processes:
                process.terminate()
        if deadline is not None and time.monotonic() > deadline:
            break
    for process in processes:
        process.join(1.0)
    # A process that is asked to stop because another failed reports that it was interrupted.
    errors.sort(key=lambda error: isinstance(error, Interrupted) and not stopped)
    if errors:
        raise errors[0]
    if ended := [(n, p.exitcode) for n, p in enumerate(processes) if p.exitcode != 0]:
        raise FusionkitError(
            f"process {ended[0][0] + 1} of {len(processes)} ended without a word (exit status "
            f"{ended[0][1]}); was there enough memory for all of them?"
        )


def _work(number: int, devices: int, folder: str, parent: Connection) -> None:
    """One of the processes of :func:`train_on`."""
    from fusionkit.training import train

    recipe, pairs, options = pickle.loads((Path(folder) / "work").read_bytes())
    os.environ["LOCAL_RANK"] = str(number)
    meeting = {"init_method": f"file://{folder}/meeting", "rank": number, "world_size": devices}

    def log(step: int, terms: Mapping[str, float]) -> None:
        if number == 0:
            parent.send((step, dict(terms)))

    try:
        with joined(options.get("device", "auto"), **meeting):
            train(recipe, pairs, log=log, **options)
    except FusionkitError as error:
        parent.send(error)
        raise SystemExit(1) from None
