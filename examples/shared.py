"""What the examples of Ray Data have in common: their arguments, their workers, and where things lie."""

import argparse
from pathlib import Path
from typing import Any

from ray.data import ActorPoolStrategy

from engine import Recipe


def parser(description: str | None) -> argparse.ArgumentParser:
    """With IN and OUT, both addresses that every worker understands, and the options of recipe and workers."""
    argument_parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    argument_parser.add_argument("source", metavar="IN", type=address)
    argument_parser.add_argument("out", metavar="OUT", type=address)
    argument_parser.add_argument("--workers", type=int, default=1, help="processes, each with networks of its own")
    argument_parser.add_argument("--rows", type=int, default=64, help="that a worker gets at a time")
    argument_parser.add_argument("--gpus", type=int, default=0, help="of each worker")
    argument_parser.add_argument("--steps", type=int, default=Recipe.steps)
    argument_parser.add_argument("--extractors", default=",".join(Recipe.extractors))
    return argument_parser


def address(text: str) -> str:
    """A path as an absolute one, since Ray's workers have a working folder of their own; others as they are."""
    return text if "://" in text else str(Path(text).resolve())


def recipe(options: argparse.Namespace, **more: Any) -> Recipe:
    """The one that was asked for. more: settings of the example."""
    return Recipe(steps=options.steps, extractors=tuple(options.extractors.split(",")), **more)


def each(options: argparse.Namespace) -> dict[str, Any]:
    """How `map_batches` runs a class of `engine.bulk.ray_data`."""
    return {
        "batch_format": "pyarrow",
        "batch_size": options.rows,
        # Two batches at once share the slots of a worker, so that these do not run empty at the end of each.
        "compute": ActorPoolStrategy(
            size=options.workers, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True
        ),
        "num_cpus": 1,
        "num_gpus": options.gpus,
    }
