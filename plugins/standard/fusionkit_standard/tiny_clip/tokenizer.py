"""Words to numbers for a vocabulary of 1024: known words by rank, all others by a stable hash.

Layout of the ids, with V known words::

    0            padding
    1 .. V       the words of ``vocabulary.json``, in its order
    V+1 .. 1022  buckets: an unknown word always falls into the same one
    1023         end of text, the highest id, so that arg-max finds it
"""

import json
import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

PADDING = 0
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text: compatibility-normalised, case-folded, punctuation dropped."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


class Tokenizer:
    """Texts to ``(B, length)`` ids.

    Args:
        vocabulary: the known words, lower case, without repetition.
        size: number of ids, buckets and the two reserved ids included.
        length: tokens per text. Longer texts are cut; end-of-text is kept.

    Raises:
        ValueError: when the words leave no room for a bucket.
    """

    def __init__(self, vocabulary: Iterable[str], size: int = 1024, length: int = 24) -> None:
        self.vocabulary = tuple(vocabulary)
        self.size, self.length = size, length
        self.end = size - 1
        self.first_bucket = len(self.vocabulary) + 1
        self.buckets = self.end - self.first_bucket
        if self.buckets < 1:
            raise ValueError(
                f"{len(self.vocabulary)} words do not fit into {size} ids: two are reserved and at "
                "least one bucket is needed. Shorten the vocabulary or raise the size."
            )
        self._ids = {word: rank for rank, word in enumerate(self.vocabulary, start=1)}

    @classmethod
    def from_file(cls, path: str | Path, size: int = 1024, length: int = 24) -> "Tokenizer":
        """A tokenizer for the word list stored as JSON at ``path``."""
        return cls(json.loads(Path(path).read_text(encoding="utf-8")), size, length)

    def id(self, word: str) -> int:
        """The id of one word. A plural whose singular is known counts as the singular."""
        known = self._ids.get(word)
        if known is None and word.endswith("s"):
            known = self._ids.get(word[:-1])
        if known is None and word.endswith("es"):
            known = self._ids.get(word[:-2])
        if known is None:
            # Python's own hash differs from process to process; a check sum does not.
            known = self.first_bucket + zlib.crc32(word.encode("utf-8")) % self.buckets
        return known

    def encode(self, text: str) -> list[int]:
        """The ids of one text, end-of-text last, at most ``length`` of them."""
        return [self.id(word) for word in words(text)[: self.length - 1]] + [self.end]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """``(B, length)`` int64, padded with zeros after end-of-text."""
        ids = torch.full((len(texts), self.length), PADDING, dtype=torch.long)
        for row, text in enumerate(texts):
            encoded = self.encode(text)
            ids[row, : len(encoded)] = torch.tensor(encoded)
        return ids
