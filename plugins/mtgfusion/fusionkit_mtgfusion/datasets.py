"""The pairs and texts of the release: infrared-visible and medical, six descriptions a pair."""

import json
import os
from pathlib import Path

from fusionkit.data import FolderPairs, MissingFile, PairPaths, find_data
from fusionkit.errors import BadRequest

SETS = {
    "TNO": ("ir", "vi"),
    "RoadScene": ("ir", "vi"),
    "MRI_CT": ("MRI", "CT"),
    "MRI_PET": ("MRI", "PET"),
    "MRI_SPECT": ("MRI", "SPECT"),
}
"""Sets of the release and their two modalities. The second one's colour survives fusion."""

KEYS = {
    "textA": "ir",
    "textB": "vi",
    "textAB": "common",
    "textAS": "ir_unique",
    "textBS": "vi_unique",
    "textGT": "fused",
}
"""Names in the release's JSON file -> kinds of text here."""


class MtgImages(FolderPairs):
    """Pairs with six texts each, in the layout of the release, or in the form its programs expect.

    The first modality (infrared, MRI) is ``infrared``, the second (visible, CT, PET, SPECT) is
    ``visible``; texts are ``ir``, ``vi``, ``common``, ``ir_unique``, ``vi_unique`` and ``fused``.
    They are machine-written and wrong in places.

    Args:
        root: the folder that holds ``image/`` and ``text/``; with ``listing``, the folder that its
            paths are relative to.
        split: as for any folder: every fifth pair is ``test``; tables use ``all``.
        count: at most so many pairs.
        size: None for pictures as they are, a number for the shorter side, or (height, width).
        seed: not used; files have a fixed order.
        pairs: which set: ``TNO``, ``RoadScene``, ``MRI_CT``, ``MRI_PET`` or ``MRI_SPECT``.
        listing: instead of folders a file with the paths of a pair on each line.
        texts: with ``listing``, a JSON file ``{name: {"textA": ..., "textB": ..., "textAB": ...,
            "textAS": ..., "textBS": ..., "textGT": ...}}``.
    """

    layout = (
        "image/test_<set>/<modality>/<name>.png (or jpg), text/test_<set>/text_*/<name>.txt; "
        "or a list of paths and one JSON file of texts"
    )
    licence = "none stated; pictures derive from TNO, RoadScene and a medical atlas"
    source = "github.com/zhaolb4080/MTG-Fusion, test_img"
    folder = "mtgfusion"

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "train",
        count: int | None = None,
        size: int | tuple[int, int] | None = None,
        seed: int = 0,
        *,
        pairs: str = "TNO",
        listing: str | os.PathLike | None = None,
        texts: str | os.PathLike | None = None,
    ) -> None:
        if pairs not in SETS:
            raise BadRequest(
                f"data set 'mtgfusion' has no pairs {pairs!r}: it has {', '.join(SETS)}.",
                asked=pairs,
                known=SETS,
            )
        if texts is not None and listing is None:
            raise BadRequest("texts belong to a listing; in the folder layout they are found.")
        self._written: dict[str, dict[str, str]] | None = None
        if listing is not None:
            self._read_listing(Path(listing), root, texts, split, count, size)
            return
        root = find_data("mtgfusion") if root is None else Path(root)
        if root is None or not root.is_dir():
            raise BadRequest(
                f"data set 'mtgfusion' is not there: nothing at {root or '$FUSIONKIT_DATA'}. Get "
                f"test_img of {self.source}, laid out as {self.layout}, and pass it as root."
            )
        self.files = root / "text" / f"test_{pairs}"
        self.modalities = SETS[pairs]
        first, second = (root / "image" / f"test_{pairs}" / m for m in self.modalities)
        super().__init__(root, ir=first, vi=second, split=split, count=count, size=size)

    def _texts(self, name: str) -> dict[str, str]:
        if self._written is not None:
            return self._written.get(name, {})
        a, b = (m.lower() for m in self.modalities)
        kinds = {"ir": a, "vi": b, "common": f"{a}_{b}_common", "ir_unique": f"{a}unique"}
        kinds |= {"vi_unique": f"{b}unique", "fused": f"{a}_{b}_GT"}
        files = {kind: self.files / f"text_{of}" / f"{name}.txt" for kind, of in kinds.items()}
        return {
            kind: " ".join(file.read_text(encoding="utf-8-sig").split())
            for kind, file in files.items()
            if file.is_file()
        }

    def _read_listing(
        self,
        listing: Path,
        root: str | os.PathLike | None,
        texts: str | os.PathLike | None,
        split: str,
        count: int | None,
        size: int | tuple[int, int] | None,
    ) -> None:
        """The two files that the released programs read."""
        for file in (listing, *([Path(texts)] if texts else [])):
            if not file.is_file():
                raise MissingFile(f"{file}: no such file.")
        base = listing.parent if root is None else Path(root)
        found = []
        for number, line in enumerate(listing.read_text(encoding="utf-8-sig").splitlines(), 1):
            if not line.strip():
                continue
            both = line.split()
            if len(both) != 2:
                raise BadRequest(
                    f"{listing}, line {number}: {len(both)} words where two paths are expected."
                )
            first, second = (base / name for name in both)
            found.append(PairPaths(first.stem, first, second))
        if not found:
            raise BadRequest(f"{listing} lists no pairs.")
        self.root, self.boxes, self.size, self.scale = None, {}, size, "full"
        divide = split in ("train", "test") and len(found) > 1
        chosen = [p for i, p in enumerate(found) if not divide or (i % 5 == 4) == (split == "test")]
        self.paths = chosen[:count]
        self._written = {}
        if texts is not None:
            try:
                written = json.loads(Path(texts).read_text(encoding="utf-8-sig"))
                self._written = {
                    name: {KEYS[k]: words for k, words in entry.items() if k in KEYS}
                    for name, entry in written.items()
                }
            except (ValueError, AttributeError) as error:
                raise BadRequest(
                    f'{texts} is not of the form {{"name": {{"textA": "...", ...}}}}: {error}.'
                ) from None


def write_listing(pairs: FolderPairs, listing: str | os.PathLike, texts: str | os.PathLike) -> None:
    """Pairs of any folder in the two files that the released programs read.

    Args:
        pairs: a data set of files, with texts by kind.
        listing: written: the two paths of a pair on each line.
        texts: written: one JSON object, name -> the release's keys -> words.
    """
    kinds = {kind: key for key, kind in KEYS.items()}
    lines, written = [], {}
    for index, paths in enumerate(pairs.paths):
        both = [str(path.resolve()) for path in (paths.ir, paths.vi)]
        if any(" " in path for path in both):
            raise BadRequest(
                f"{both[0]}: a path with a blank cannot be listed in this format, which separates "
                "the two paths by one."
            )
        lines.append(" ".join(both))
        found = pairs[index].texts
        written[paths.name] = {kinds[kind]: text for kind, text in found.items() if kind in kinds}
    Path(listing).write_text("\n".join(lines) + "\n", encoding="utf-8")
    Path(texts).write_text(json.dumps(written, ensure_ascii=False, indent=1), encoding="utf-8")
