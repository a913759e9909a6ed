"""Weights for fawkes-engine beyond those that it brings: a folder each, which `engine.checkpoint` finds by its name."""

__version__ = "0.1.0"
