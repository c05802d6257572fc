"""Degraded pairs and what they should look like: damages in one, contact sheets, training sets.

A damage is a degradation by name, or several joined by ``+`` (``haze+ir-noise``), which happen in
the order from the scene to the file whatever the order of the words. A training set is written pair
by pair; what a stopped run has left is taken up again, and every sample is a function of the seed,
its pair and its damage alone.
"""

import csv
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fusionkit.batch import Batch
from fusionkit.data import write_image
from fusionkit.errors import BadRequest
from fusionkit.protocols import Degradation, Guide, Pair
from fusionkit.registry import Registry

STAGES = ("light", "air", "weather", "optics", "sampling", "sensor", "file")
"""From the scene to the file; a degradation says its place in an attribute ``stage``."""

SEVERITIES = (0.25, 0.5, 0.75, 1.0)
"""Columns of a contact sheet."""

LEVELS = {"slight": 0.25, "moderate": 0.5, "average": 0.75, "extreme": 1.0}
"""Levels of the layout ``ddl`` and the severities that stand for them here."""

LAYOUTS = {
    "ems": "<damage>/{train,eval}/{Visible,Infrared,Visible_gt,Infrared_gt}/, <damage>/*/text.txt",
    "ddl": "<modality>_<damage>/<modality>_<damage>_<level>/{train,test}/{Visible,Infrared,"
    "Visible_gt,Infrared_gt}/, beside them text.txt",
}
"""Ways to lay out a degraded set, after EMS (Text-IF) and DDL-12 (ControlFusion).

The released sets hold no ground truth for the held-out half, and no text; here both have it. Of
DDL-12 only the folder names that public programs read are known, not the set itself.
"""


class Chain:
    """Several degradations as one, ordered from the scene to the file.

    Called like a single one when all its parts damage the same picture; :meth:`pair` damages both
    pictures of a pair. A part whose ``stage`` is unknown counts as one of the sensor; parts of one
    stage keep the order given.

    Args:
        parts: degradations.
    """

    def __init__(self, parts: Sequence[Degradation]) -> None:
        if not parts:
            raise BadRequest("a chain needs at least one degradation.")
        self.parts = tuple(sorted(parts, key=_stage))
        self.name = "+".join(part.name for part in self.parts)
        self.modalities = tuple(dict.fromkeys(part.modality for part in self.parts))
        self.needs = tuple(sorted({need for p in self.parts for need in getattr(p, "needs", ())}))
        self.source = "; ".join(dict.fromkeys(part.source for part in self.parts))

    @property
    def modality(self) -> str:
        """``visible`` or ``infrared``; of a chain over both there is none."""
        if len(self.modalities) > 1:
            raise BadRequest(f"{self.name} damages both pictures of a pair: call its `pair`.")
        return self.modalities[0]

    @property
    def prompts(self) -> tuple[str, ...]:
        """Requests to undo everything, as many as the part with most has."""
        return self._joined("prompts")

    @property
    def held_out(self) -> tuple[str, ...]:
        """Requests that are not for training; empty where a part has none."""
        return self._joined("held_out")

    @property
    def statements(self) -> tuple[str, ...]:
        """Sentences that state every damage."""
        return self._joined("statements")

    def __call__(
        self,
        image: Tensor,
        severity: float | Tensor,
        generator: torch.Generator | None = None,
        **context: Any,
    ) -> Tensor:
        _ = self.modality
        for part in self.parts:
            image = part(image, severity, generator, **context)
        return image

    def pair(
        self,
        visible: Tensor,
        infrared: Tensor,
        severity: float | Tensor,
        generator: torch.Generator | None = None,
        **context: Any,
    ) -> tuple[Tensor, Tensor]:
        """Both pictures, ``(B, 3, H, W)`` and ``(B, 1, H, W)``, each with its own damages."""
        pictures = {"visible": visible, "infrared": infrared}
        for part in self.parts:
            before = pictures[part.modality]
            pictures[part.modality] = part(before, severity, generator, **context)
        return pictures["visible"], pictures["infrared"]

    def _joined(self, kind: str) -> tuple[str, ...]:
        each = [tuple(getattr(part, kind, ())) for part in self.parts]
        if not all(each):
            return ()
        longest = max(map(len, each))
        rows = zip(*(islice(cycle(sentences), longest) for sentences in each), strict=True)
        return tuple(_listed(row) for row in rows)


def _stage(part: Degradation) -> int:
    stage = getattr(part, "stage", "sensor")
    return STAGES.index(stage if stage in STAGES else "sensor")


def _listed(sentences: Sequence[str]) -> str:
    *before, last = sentences
    return f"{', '.join(before)} and {last}" if before else last


def build(damages: Sequence[str], registry: Registry) -> dict[str, Chain]:
    """Damages by name; none named means every degradation there is.

    Raises:
        UnknownComponent: a name that no plugin offers, with the nearest one.
        BadRequest: a damage that joins one degradation to itself.
    """
    found = {}
    for damage in damages or registry.names("degradation"):
        names = [name.strip() for name in damage.split("+")]
        if len(set(names)) < len(names):
            raise BadRequest(f"damage {damage!r} joins one degradation to itself.")
        found[damage] = Chain([registry.create("degradation", name) for name in names])
    return found


def with_depth(pair: Pair, chains: Mapping[str, Chain], guide: Guide | None) -> dict[str, Tensor]:
    """What the degradations of a pair are told besides the picture: ``depth`` where it is known.

    Raises:
        BadRequest: a damage needs depth, and neither the pair nor a guide has it.
    """
    if pair.depth is not None:
        return {"depth": pair.depth[None]}
    if guide is not None:
        batch = Batch(pair.visible[None], pair.infrared[None], names=(pair.name,))
        return {"depth": guide(batch)["depth"]}
    wanting = [name for name, chain in chains.items() if "depth" in chain.needs]
    if wanting:
        raise BadRequest(
            f"{', '.join(wanting)} needs the depth of the pictures, and pair {pair.name!r} has "
            "none. Put depth/<name>.png (16 bits, white is a kilometre) or .npy (metres) beside "
            "the pictures, name a depth model, let depth be guessed, or leave the damage out."
        )
    return {}


def contact_sheet(
    pair: Pair,
    chains: Mapping[str, Chain],
    *,
    severities: Sequence[float] = SEVERITIES,
    depth: Guide | None = None,
    seed: int = 0,
) -> Any:
    """One row per damage: clean, then each severity. A chain over both pictures shows two rows."""
    from fusionkit import views

    context = with_depth(pair, chains, depth)
    clean = {"visible": pair.visible[None], "infrared": pair.infrared[None]}
    rows, labels = [], []
    for name, chain in chains.items():
        damaged = [
            dict(zip(clean, chain.pair(*clean.values(), s, _generator(seed, name), **context),
                     strict=True))
            for s in severities
        ]  # fmt: skip
        for modality in chain.modalities:
            cells = [views.rgb(np.asarray(cell[modality][0])) for cell in (clean, *damaged)]
            rows.append(np.concatenate(cells, 1))
            labels.append(name)
    # One picture with ticks for headings: hundreds of axes take half a minute to lay out.
    height, width = pair.visible.shape[1:]
    columns = ["clean", *(f"{s:g}" for s in severities)]
    figure = views.Picture(figsize=(9, 1.5 * len(rows) * height / width + 0.4))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    axis.imshow(np.concatenate(rows, 0), interpolation="nearest")
    axis.xaxis.tick_top()
    axis.set_xticks([width * (i + 0.5) for i in range(len(columns))], columns, fontsize=8)
    axis.set_yticks([height * (i + 0.5) for i in range(len(rows))], labels, fontsize=8)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


# ---------------------------------------------------------------------------- training sets


class Sample(NamedTuple):
    """One degraded pair of a set."""

    folder: Path
    """Holds ``Visible/``, ``Infrared/``, ``Visible_gt/`` and ``Infrared_gt/``."""
    stem: str
    pair: str
    damage: str
    level: str
    severity: float
    prompt: str
    generator: torch.Generator

    @property
    def files(self) -> dict[str, Path]:
        """The four pictures of the sample."""
        sides = ("Visible", "Infrared", "Visible_gt", "Infrared_gt")
        return {side: self.folder / side / f"{self.stem}.png" for side in sides}


def write_set(
    pairs: Sequence[Pair],
    chains: Mapping[str, Chain],
    output: str | os.PathLike,
    *,
    layout: str = "ems",
    severity: float | tuple[float, float] = (0.5, 1.0),
    split: str = "train",
    seed: int = 0,
    depth: Guide | None = None,
    origin: Mapping[str, Any] | None = None,
    resume: bool = True,
) -> Path:
    """Write degraded pairs with their ground truth and prompts; goes on where it was stopped.

    Beside the pictures, 8 bits per channel, stand ``text.txt`` (requests, one per line: those for
    training, or the held-out ones for another split), ``samples-<split>.csv`` (severity and prompt
    of every sample) and ``degraded-<split>.json`` (the parameters). A sample is complete when its
    four files are there.

    Args:
        pairs: clean pairs.
        chains: damages by name, see :func:`build`.
        output: the folder of the set.
        layout: one of :data:`LAYOUTS`; ``ddl`` writes each damage at each of :data:`LEVELS`.
        severity: of ``ems``: one number, or a range it is drawn from.
        split: ``train`` or ``test``.
        seed: another seed is another draw.
        depth: a guide that gives ``depth`` for pairs without; asked once per pair.
        origin: further facts about the pairs, kept with the parameters.
        resume: False writes everything anew.

    Returns:
        The table of samples.

    Raises:
        BadRequest: an unknown layout or split, or a folder that holds a set of other parameters.
    """
    output = Path(output)
    parameters = _check_parameters(
        {
            "layout": layout,
            "severity": LEVELS if layout == "ddl" else severity,
            "damages": list(chains),
            "split": split,
            "seed": seed,
            "pairs": [pair.name for pair in pairs] if not hasattr(pairs, "names") else pairs.names,
            **(origin or {}),
        },
        output / f"degraded-{split}.json",
        resume,
    )
    from tqdm import tqdm

    levels = LEVELS if layout == "ddl" else {"": severity}
    table = []
    bar = tqdm(total=len(parameters["pairs"]) * len(chains) * len(levels), unit="sample",
               desc=str(output), file=sys.stdout, mininterval=1.0)  # fmt: skip
    with bar:
        for index, name in enumerate(parameters["pairs"]):
            samples = list(_samples(name, chains, output, layout, levels, split, seed))
            table += samples
            missing = [
                s for s in samples if not (resume and all(f.is_file() for f in s.files.values()))
            ]
            bar.update(len(samples) - len(missing))
            if not missing:
                continue
            pair = pairs[index]
            context = with_depth(pair, chains, depth)
            for sample in missing:
                _write(sample, pair, chains[sample.damage], context)
                bar.update()
    for folder, damage in {sample.folder: sample.damage for sample in table}.items():
        said = chains[damage].prompts if split == "train" else chains[damage].held_out
        _write_text(folder / "text.txt", "".join(f"{line}\n" for line in said))
    return _write_table(output / f"samples-{split}.csv", table, output)


def _samples(
    pair: str,
    chains: Mapping[str, Chain],
    output: Path,
    layout: str,
    levels: Mapping[str, Any],
    split: str,
    seed: int,
) -> Iterator[Sample]:
    for damage, chain in chains.items():
        for level, severity in levels.items():
            generator = _generator(seed, split, pair, damage, level)
            low, high = severity if isinstance(severity, tuple | list) else (severity, severity)
            drawn = low + (high - low) * float(torch.rand((), generator=generator))
            said = chain.prompts if split == "train" else chain.held_out
            number = int(torch.randint(max(1, len(said)), (), generator=generator))
            yield Sample(
                folder=output / _folder(layout, damage, chain, level, split),
                stem=pair.replace("/", "-"),
                pair=pair,
                damage=damage,
                level=level,
                severity=drawn,
                prompt=said[number] if said else "",
                generator=generator,
            )


def _folder(layout: str, damage: str, chain: Chain, level: str, split: str) -> Path:
    words = "_".join(_capital(name.strip()) for name in damage.split("+"))
    if layout == "ems":
        return Path(words) / ("train" if split == "train" else "eval")
    marked = words if words.startswith("IR_") else f"VI_{words}"
    return Path(marked) / f"{marked}_{level}" / split


def _capital(name: str) -> str:
    """``ir-low-contrast`` -> ``IR_Low_contrast``, ``low-light`` -> ``Low_light``."""
    mark, rest = ("IR_", name[3:]) if name.startswith("ir-") else ("", name)
    return mark + rest[:1].upper() + rest[1:].replace("-", "_")


def _write(sample: Sample, pair: Pair, chain: Chain, context: Mapping[str, Tensor]) -> None:
    visible, infrared = chain.pair(
        pair.visible[None], pair.infrared[None], sample.severity, sample.generator, **context
    )
    pictures = {
        "Visible_gt": pair.visible,
        "Infrared_gt": pair.infrared,
        "Visible": visible[0],
        "Infrared": infrared[0],
    }
    for side, picture in pictures.items():
        write_image(sample.files[side], picture)


def _generator(*facts: Any) -> torch.Generator:
    digest = hashlib.sha256("/".join(map(str, facts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _check_parameters(given: dict[str, Any], file: Path, resume: bool) -> dict[str, Any]:
    """The parameters, kept in the file; refused where the file holds others."""
    if given["layout"] not in LAYOUTS:
        raise BadRequest(
            f"no layout {given['layout']!r}: there are {', '.join(LAYOUTS)}.",
            asked=given["layout"],
            known=LAYOUTS,
        )
    if given["split"] not in ("train", "test"):
        raise BadRequest(f"split={given['split']!r}: a degraded set has train and test.")
    severity = given["severity"]
    bounds = severity.values() if isinstance(severity, Mapping) else np.atleast_1d(severity)
    if not all(0 < bound <= 1 for bound in bounds):
        raise BadRequest(f"severity={severity}: numbers above 0, up to 1.")
    stems = [name.replace("/", "-") for name in given["pairs"]]
    if len(set(stems)) < len(stems):
        raise BadRequest("two pairs have one name, so their pictures would overwrite each other.")
    plain = json.loads(json.dumps(given))
    if resume and file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        different = [key for key in plain if plain[key] != kept.get(key)]
        if different:
            raise BadRequest(
                f"{file.parent} holds a set made with other {', '.join(different)}: choose "
                "another output, or resume=False to write it anew."
            )
    _write_text(file, json.dumps(plain, indent=1) + "\n")
    return given


def _write_table(file: Path, table: Sequence[Sample], base: Path) -> Path:
    stream = io.StringIO(newline="")
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(["file", "pair", "damage", "level", "severity", "prompt"])
    for s in table:
        where = s.files["Visible"].relative_to(base).as_posix()
        rows.writerow([where, s.pair, s.damage, s.level, f"{s.severity:.4f}", s.prompt])
    _write_text(file, stream.getvalue())
    return file


def _write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}-{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, file)


# ---------------------------------------------------------------------------- the notebook


class Workshop:
    """What ``degrade.ipynb`` works with: pairs, damages and depth, as its parameters say.

    Args:
        p: the parameters, see :class:`fusionkit.notebook.DegradeParameters`.
        registry: where components come from.
    """

    def __init__(self, p: Any, registry: Registry | None = None) -> None:
        registry = registry or Registry.from_environment()
        self.p = p
        self.chains = build(p.degradations, registry)
        given = {"split": p.split, "count": p.pairs, "size": p.image_size}
        if p.data_root is not None:
            given["root"] = p.data_root
        self.pairs = registry.create("dataset", p.dataset, **given)
        self.depth = None
        if p.depth != "scene":
            model = None if p.depth == "guess" else p.depth
            options = {"model": model, "device": p.device}
            self.depth = registry.create("guide", "depth", **options)
        first = self.pairs[0]
        if first.depth is None and self.depth is None and not p.degradations:
            # Nobody named them, so what cannot be shown is left out.
            blind = [name for name, chain in self.chains.items() if "depth" in chain.needs]
            print(f"left out, because these pairs have no depth: {', '.join(blind)}")
            self.chains = {n: c for n, c in self.chains.items() if n not in blind}
        self.shown = first

    def sheet(self) -> Any:
        """Every damage at rising severity, on the first pair."""
        return contact_sheet(self.shown, self.chains, depth=self.depth, seed=self.p.seed)

    def words(self) -> Any:
        """A request for training and a held-out one of every damage, and how many there are."""
        import pandas as pd

        rows = {
            name: {
                "picture": " and ".join(chain.modalities),
                "model": chain.source,
                "requests": len(chain.prompts),
                "for example": next(iter(chain.prompts), ""),
                "held out": len(chain.held_out),
                "for example ": next(iter(chain.held_out), ""),
            }
            for name, chain in self.chains.items()
        }
        return pd.DataFrame(rows).T

    def write(self) -> Any:
        """The degraded set, and its table of samples."""
        import pandas as pd

        p = self.p
        table = write_set(
            self.pairs, self.chains, p.output or f"runs/degraded-{p.dataset}-{p.layout}",
            layout=p.layout, severity=p.severity, split=p.split, seed=p.seed, depth=self.depth,
            origin={"dataset": p.dataset, "image_size": p.image_size, "depth": p.depth},
            resume=p.resume,
        )  # fmt: skip
        print(table.parent)
        return pd.read_csv(table, keep_default_na=False)
