"""Guides computed once: the same map serves the network, the losses, the store and the widgets."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from fusionkit.batch import Batch
from fusionkit.color import luma
from fusionkit.errors import BadRequest
from fusionkit.protocols import Guide, Pair

Guides = Mapping[str, Guide]


def add_guides(batch: Batch, guides: Guides) -> Batch:
    """The batch with the maps of every guide added; a map the batch already has is kept."""
    found: dict[str, Tensor] = {}
    for guide in guides.values():
        if not set(getattr(guide, "maps", [""])) <= set(batch.guides):
            found |= guide(batch)
    return batch.replace(guides={**found, **batch.guides})


class GuideCache:
    """The maps of a fixed list of pairs for a fixed list of prompts, at the guide's own grid.

    A guide that can draw many prompts over one picture at once has a method
    ``grid(batch, prompts) -> {name: (B, P, h, w)}``; its maps are computed here once per picture,
    kept in half precision, and cost a look-up in training. Others are asked prompt by prompt, and
    may have any number of channels. Maps are kept in main memory, like the pairs they belong to,
    wherever the guide computes.

    Args:
        guides: what draws the maps.
        pairs: the pictures.
        prompts: everything that will be asked for.
        chunk: pictures per call.
    """

    def __init__(
        self, guides: Guides, pairs: Sequence[Pair], prompts: Sequence[str], *, chunk: int = 32
    ) -> None:
        self.column = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        self.maps: list[dict[str, Tensor]] = []
        if not guides:
            return
        start = 0
        while start < len(pairs):
            stop = start + 1
            shape = pairs[start].visible.shape
            while stop < min(start + chunk, len(pairs)) and pairs[stop].visible.shape == shape:
                stop += 1
            self.maps += _draw(guides, pairs[start:stop], list(self.column))
            start = stop

    def __bool__(self) -> bool:
        return bool(self.maps)

    def __call__(self, index: int, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Maps of one pair for each prompt, ``(len(prompts), C, h, w)`` float, on the CPU."""
        rows = [self.column[p] for p in prompts]
        return {name: maps[rows].float() for name, maps in self.maps[index].items()}


class MapFolder:
    """Maps of a guide on disk, one file for each pair, in half precision.

    ``<name>.npz`` holds the maps of every prompt asked so far, and what the pictures looked like;
    ``maps.json`` the guide. Files appear whole or not at all.

    Args:
        root: the folder; it need not exist.
        guide: what draws the maps, in words that tell it from another one; None for reading.

    Raises:
        BadRequest: the folder holds the maps of another guide.
    """

    def __init__(
        self, root: str | os.PathLike[str], guide: Mapping[str, Any] | None = None
    ) -> None:
        self.root = Path(root)
        known = self._read_json()
        self.guide = known.get("guide") if guide is None else json.loads(json.dumps(dict(guide)))
        self.maps = tuple(known.get("maps", ()))
        if known and self.guide != known["guide"]:
            raise BadRequest(
                f"{self.root} holds the maps of {known['guide']}, not of {self.guide}: choose "
                "another folder."
            )

    def draw(
        self,
        guide: Guide,
        pairs: Sequence[Pair],
        prompts: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Draw what is not there yet: every prompt over every pair.

        Args:
            guide: what draws.
            pairs: whole pairs, with names.
            prompts: as they will be asked for.
            progress: told ``(pairs done, pairs in all)``.

        Returns:
            How many maps were asked of the guide.

        Raises:
            BadRequest: a pair of a kept name with other pictures.
        """
        asked = 0
        for done, pair in enumerate((pairs[k] for k in range(len(pairs))), 1):
            kept = self._load(pair.name)
            if kept:
                self._check(pair.name, kept, pair.visible, pair.infrared)
            missing = [p for p in dict.fromkeys(prompts) if p not in kept.get("prompts", [])]
            if missing:
                (drawn,) = _draw({"": guide}, [pair], missing)
                self._save(pair, kept, missing, drawn)
                asked += len(missing)
            if progress is not None:
                progress(done, len(pairs))
        return asked

    def read(self, name: str, prompt: str, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        """Maps ``(C, h, w)`` float of a pair under a prompt, on the CPU.

        Args:
            name, prompt: as drawn.
            visible, infrared: ``(3, H, W)`` and ``(1, H, W)``, to see that it is the same pair; a
                resized one is.

        Raises:
            BadRequest: no such pair or prompt, or other pictures.
        """
        kept = self._load(name)
        if not kept:
            raise BadRequest(f"{self.root} holds no maps of pair {name!r}: draw them first.")
        if prompt not in kept["prompts"]:
            raise BadRequest(
                f"{self.root} holds no map of pair {name!r} for {prompt!r}; it was asked "
                f"{', '.join(map(repr, kept['prompts']))}."
            )
        self._check(name, kept, visible, infrared)
        row = kept["prompts"].index(prompt)
        return {n: torch.from_numpy(kept["maps"][n][row]).float() for n in kept["maps"]}

    def _check(self, name: str, kept: Mapping[str, Any], visible: Tensor, infrared: Tensor) -> None:
        difference = (_look(visible, infrared) - torch.from_numpy(kept["look"]).float()).abs()
        if float(difference.mean()) > 0.03:
            raise BadRequest(
                f"the maps of pair {name!r} in {self.root} were drawn over other pictures than "
                "these: a crop, or another pair of that name. Ask for maps of whole pairs."
            )

    def _load(self, name: str) -> dict[str, Any]:
        file = self._file(name)
        if not file.is_file():
            return {}
        try:
            with np.load(file, allow_pickle=False) as stored:
                maps = {k[4:]: stored[k] for k in stored.files if k.startswith("map:")}
                prompts = json.loads(str(stored["prompts"]))
                return {"prompts": prompts, "look": stored["look"], "maps": maps}
        except Exception as error:  # numpy and zipfile raise many types on damaged files
            raise BadRequest(f"{file} is damaged ({error}): delete it and draw it anew.") from error

    def _save(
        self,
        pair: Pair,
        kept: Mapping[str, Any],
        prompts: Sequence[str],
        drawn: Mapping[str, Tensor],
    ) -> None:
        maps = {name: values.numpy() for name, values in drawn.items()}
        if kept:
            if any(kept["maps"][n].shape[1:] != maps[n].shape[1:] for n in maps):
                raise BadRequest(
                    f"the maps of pair {pair.name!r} in {self.root} were drawn at another size: "
                    "choose another folder."
                )
            maps = {name: np.concatenate([kept["maps"][name], maps[name]]) for name in maps}
        file = self._file(pair.name)
        content = {f"map:{name}": values for name, values in maps.items()}
        content["prompts"] = np.array(json.dumps([*kept.get("prompts", []), *prompts]))
        content["look"] = _look(pair.visible, pair.infrared).half().numpy()
        _whole(file, lambda beside: np.savez_compressed(beside, **content))
        if not self.maps:
            self.maps = tuple(maps)
            facts = json.dumps({"guide": self.guide, "maps": self.maps}, indent=2)
            _whole(self.root / "maps.json", lambda beside: beside.write_bytes(facts.encode()))

    def _file(self, name: str) -> Path:
        return self.root / f"{name}.npz"

    def _read_json(self) -> dict[str, Any]:
        file = self.root / "maps.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def draw_maps(
    guide: str,
    output: str | os.PathLike[str],
    *,
    prompts: Sequence[str],
    dataset: str = "scenes",
    data_root: str | os.PathLike[str] | None = None,
    split: str = "train",
    count: int | None = None,
    image_size: int | None = None,
    encoder: str = "tiny-clip",
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    registry: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> MapFolder:
    """Draw a guide's maps for a data set once and keep them: what ``fusionkit guides`` does.

    What is there already is not drawn again, so the same call continues one that was stopped. The
    guide ``stored-maps`` reads the folder.

    Args:
        guide: its name.
        output: the folder of the maps.
        prompts: each is asked over every pair.
        dataset, data_root, split, count, image_size: the pairs, as training reads them.
        encoder: for a guide that is drawn by one.
        options: of the guide.
        device: where encoder and guide compute, if they have a say.
        progress: told ``(pairs done, pairs in all)``.
    """
    from fusionkit.devices import pick_device
    from fusionkit.methods import create
    from fusionkit.registry import Registry

    if not prompts:
        raise BadRequest("name at least one prompt: maps are kept by prompt.")
    registry = registry or Registry.from_environment()
    options = dict(options or {})
    where = str(pick_device(device))
    offers: dict[str, Any] = {"registry": registry, "device": where}
    facts: dict[str, Any] = {"name": guide, "options": options}
    if registry.accepts("guide", guide, "encoder"):
        facts["encoder"] = encoder
        offers["encoder"] = create(registry, "encoder", encoder, {}, device=where)
    folder = MapFolder(output, facts)
    given = {"root": data_root, "split": split, "count": count, "size": image_size}
    given = {key: value for key, value in given.items() if value is not None}
    pairs = registry.create("dataset", dataset, **given)
    folder.draw(create(registry, "guide", guide, options, **offers), pairs, prompts, progress)
    return folder


def _look(visible: Tensor, infrared: Tensor) -> Tensor:
    """A pair in 2x8x8 numbers, which resizing hardly changes and cropping does."""
    both = torch.cat([luma(visible[None].float()), infrared[None].float()], 1)
    return adaptive_avg_pool2d(both, 8)[0].cpu()


def _whole(file: Path, write: Callable[[Path], Any]) -> None:
    """Written beside its place and moved there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{os.getpid()}-{file.name}")
    try:
        write(beside)
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)


@torch.no_grad()
def _draw(guides: Guides, pairs: Sequence[Pair], prompts: Sequence[str]) -> list[dict[str, Tensor]]:
    batch = Batch(
        visible=torch.stack([p.visible for p in pairs]),
        infrared=torch.stack([p.infrared for p in pairs]),
        names=tuple(p.name for p in pairs),
    )
    drawn: dict[str, Tensor] = {}  # each B P C h w
    for guide in guides.values():
        if hasattr(guide, "grid"):
            drawn |= {n: _kept(maps)[:, :, None] for n, maps in guide.grid(batch, prompts).items()}
            continue
        asked = [
            {n: _kept(maps) for n, maps in guide(batch.replace(prompts=(p,) * len(batch))).items()}
            for p in prompts
        ]
        drawn |= {name: torch.stack([maps[name] for maps in asked], 1) for name in asked[0]}
    return [{name: maps[i] for name, maps in drawn.items()} for i in range(len(pairs))]


def _kept(maps: Tensor) -> Tensor:
    return maps.to("cpu", torch.float16)


def enlarge(guide_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps ``(B, C, h, w)`` at the size of the picture."""
    if guide_map.shape[-2:] == size:
        return guide_map
    return interpolate(guide_map, size, mode="bilinear", align_corners=False)
