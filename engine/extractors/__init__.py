"""Networks from an aligned face to an embedding, in Flax NNX. Importing this loads no weights."""

from engine.extractors.card import card
from engine.extractors.crop import crop
from engine.extractors.extractor import Extractor, embed, embed_batch
from engine.extractors.registry import Entry, available, load, register
from engine.extractors.spec import InputSpec

__all__ = ["Entry", "Extractor", "InputSpec", "available", "card", "crop", "embed", "embed_batch", "load", "register"]
