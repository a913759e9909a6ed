"""Adversarial training of extractors: robust checkpoints, whose cloaks transfer."""
