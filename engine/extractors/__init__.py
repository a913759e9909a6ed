'''Networks from an aligned face to an embedding, in Flax NNX. Importing this loads no weights.

An extractor of your own is a network, what it expects of its input, and an Orbax checkpoint. A package announces it by
an entry point, and then `cloak run --extractors my-faces` knows it. A complete one:

    """my_faces.py: an extractor for the Fawkes engine."""

    from pathlib import Path

    import jax
    import jax.numpy as jnp
    from flax import nnx

    from engine import checkpoint
    from engine.extractors import Entry, InputSpec
    from engine.extractors.layers import Conv

    WEIGHTS = Path(__file__).parent / "my_faces_weights"

    class Network(nnx.Module):  # one crop (64, 64, 3) to one embedding (32,); the engine batches and normalises it
        def __init__(self, *, rngs: nnx.Rngs | None):  # rngs=None: any values will do, the weights are loaded next
            self.conv = Conv(3, 16, (5, 5), stride=4, rngs=rngs)
            self.project = Conv(16, 32, (1, 1), rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return jnp.mean(self.project(jax.nn.relu(self.conv(x))), axis=(0, 1))

    def entry() -> Entry:
        # The canvas is 176 pixels wide, with ArcFace's 112-pixel template at 32..144; pixels become (x*255-mean)/scale.
        spec = InputSpec(size=64, window=(32.0, 144.0), mean=(127.5, 127.5, 127.5), scale=127.5)
        return Entry(Network, spec, dim=32, path=WEIGHTS)

    if __name__ == "__main__":  # here random ones; trained ones are saved in the same way
        _, state = nnx.split(Network(rngs=nnx.Rngs(0)))
        print(checkpoint.save(WEIGHTS, nnx.to_pure_dict(state)))

and in its pyproject.toml

    [project.entry-points."fawkes_engine.extractors"]
    my-faces = "my_faces:entry"

Without a package, `register("my-faces", entry())` does the same for one process.
'''

from engine.extractors.card import card
from engine.extractors.crop import crop
from engine.extractors.extractor import Extractor, embed, embed_all, embed_batch, embed_crop, tuned
from engine.extractors.registry import Entry, available, load, register
from engine.extractors.spec import InputSpec

__all__ = [
    "Entry",
    "Extractor",
    "InputSpec",
    "available",
    "card",
    "crop",
    "embed",
    "embed_all",
    "embed_batch",
    "embed_crop",
    "load",
    "register",
    "tuned",
]
