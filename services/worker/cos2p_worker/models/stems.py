"""Stems: they turn a sample into the sequence of vectors that a transformer works on.

Invariants: a stem makes the same number of vectors for every sample. `present` marks which of them
are not padding. No other vector depends on padding, nor does the prediction. Costs are counted as
in `transformer.py`, without the positions: `kept` is the float32-sized elements per sample that
autograd keeps for the module and `present`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cos2p.errors import SettingsError

PADDING = 0
"""The word number that means padding."""
WORD_STD = 0.2
"""Standard deviation of the initial word vectors: near what patches give."""


@dataclass(frozen=True)
class Patches:
    """Square images, float (batch, channels, side, side), cut into square patches."""

    side: int
    channels: int
    patch: int

    def __post_init__(self) -> None:
        if self.side % self.patch:
            raise SettingsError(f"patch {self.patch} does not divide image {self.side}")

    @property
    def length(self) -> int:
        """Number of patches."""
        return (self.side // self.patch) ** 2

    @property
    def values(self) -> int:
        """Values of one patch."""
        return self.channels * self.patch**2

    def module(self, width: int) -> nn.Module:
        """Make a linear map of each patch: samples to float (batch, length, width)."""
        return _PatchEmbedding(self, width)

    def present(self, samples: Tensor) -> Tensor | None:
        """Return None: no patch is padding."""
        return None

    def flops(self, width: int) -> int:
        """Return the operations of one matrix product."""
        return 2 * self.length * self.values * width

    @property
    def kept(self) -> int:
        """Elements of the patches."""
        return self.length * self.values


class _PatchEmbedding(nn.Linear):
    def __init__(self, stem: Patches, width: int) -> None:
        super().__init__(stem.values, width)
        self.patch = stem.patch

    def forward(self, images: Tensor) -> Tensor:
        batch, channels, height, width = images.shape
        p = self.patch
        tiles = images.reshape(batch, channels, height // p, p, width // p, p)
        return super().forward(tiles.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * p * p))


@dataclass(frozen=True)
class Words:
    """Word numbers, int32 (batch, length) in 0..vocabulary - 1.

    0 is padding, and at least one word is not padding. All rows of the embedding are one core unit.
    """

    length: int
    vocabulary: int

    def module(self, width: int) -> nn.Module:
        """Make an embedding: samples to float (batch, length, width)."""
        embedding = nn.Embedding(self.vocabulary, width)
        nn.init.normal_(embedding.weight, std=WORD_STD)
        return embedding

    def present(self, samples: Tensor) -> Tensor | None:
        """Mark the words that are not padding, bool (batch, length)."""
        return torch.ne(samples, PADDING)

    def flops(self, width: int) -> int:
        """Return the operations of a copy."""
        return self.length * width

    @property
    def kept(self) -> int:
        """Elements of the word numbers, and of the masks of attention and of the mean."""
        return 3 * self.length


Stem = Patches | Words
"""A stem for one kind of samples."""
