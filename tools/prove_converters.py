"""Proves every converter on a network of the library whose files it reads, randomly initialised.

    python tools/prove_converters.py [LAYOUT ...] [--out FILE]

The reference network is built by its own library, its weights and the statistics of its batch norms are drawn at
random, and it is saved as a user would have it. That file is converted, and both networks see the same random pixels,
each after its own scaling. The figure is the largest absolute difference between the two embeddings of length one;
more than 1e-4, or than a hundredth of what lies between two of the inputs, fails. Results are kept by layout in
benchmarks/results/converters.json.

Needs, in an environment of its own beside the engine: torch, torchvision, facenet-pytorch, frbench, timm, onnx,
onnxruntime, onnxscript, ai-edge-litert, h5py, tensorflow-cpu, tf-keras and deepface (pip install --no-deps for those
whose pins disagree). The shipped extractors' layouts are proven on their published files, fetched as
tools/convert_weights.py does.
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

from engine import checkpoint  # noqa: E402

LIMIT = 1e-4
_LIBRARIES: list[Any] = []


@dataclass(frozen=True)
class Reference:
    """A network of a library, saved as a file; `embed` takes pixels (b, h, w, 3) in [0, 1], as the library would.

    crops: the pixels it must be given, where it can embed no others; random ones by default.
    """

    file: Path
    embed: Callable[[np.ndarray], np.ndarray]
    crops: np.ndarray | None = None


@dataclass(frozen=True)
class Proof:
    """library: its name, for its version; "" where `what` has it. what: what was built. make: saves it in a folder."""

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
                uniform(module.bias, -0.3, 0.3)
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
    forward: Callable[[Any, Any], Any] = lambda network, x: network(x),
    size: int = 112,
) -> Callable[[Path], Reference]:
    """A PyTorch network as a state dict or, by the exporter `onnx` ("torchscript", "dynamo"), run by onnxruntime."""

    def make(folder: Path) -> Reference:
        import torch

        network = randomise(build())

        def nchw(x: np.ndarray) -> Any:
            return torch.from_numpy(np.ascontiguousarray(scaled(x).transpose(0, 3, 1, 2), np.float32))

        if onnx is None:
            torch.save({rename(name): value for name, value in network.state_dict().items()}, folder / "weights.pt")

            def embed(x: np.ndarray) -> np.ndarray:
                with torch.no_grad():
                    return forward(network, nchw(x)).numpy()

            return Reference(folder / "weights.pt", embed)

        import onnxruntime

        file = folder / "network.onnx"
        example = (torch.zeros(1, 3, size, size),)
        torch.onnx.export(network, example, str(file), dynamo=onnx == "dynamo", external_data=False)
        session = onnxruntime.InferenceSession(str(file))
        (graph_input,) = session.get_inputs()

        def run(x: np.ndarray) -> np.ndarray:
            return np.concatenate([session.run(None, {graph_input.name: image[None].numpy()})[0] for image in nchw(x)])

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
        _LIBRARIES.append(library)  # it lasts as long as somebody holds it
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


def torchvision_densenet121() -> Any:
    """Its features alone: what the classifier sees is the embedding, and the file has the classifier nevertheless."""
    torchvision = import_torchvision()
    return torchvision.models.densenet121(weights=None)


def timm_vit(width: int, depth: int) -> Callable[[], Any]:
    """insightface's transformer of timm's parts: timm's trunk without class token, and the head over all tokens."""

    def build() -> Any:
        import_torchvision()
        import timm.models.vision_transformer as timm
        import torch
        from torch import nn

        class Network(timm.VisionTransformer):
            def __init__(self) -> None:
                super().__init__(
                    img_size=112,
                    patch_size=9,
                    embed_dim=width,
                    depth=depth,
                    num_heads=8,
                    qkv_bias=False,
                    class_token=False,
                    global_pool="",
                    num_classes=0,
                    norm_layer=nn.LayerNorm,
                    act_layer=nn.ReLU6,
                )
                self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
                tokens = self.patch_embed.num_patches
                self.feature = nn.Sequential(
                    nn.Linear(tokens * width, width, bias=False),
                    nn.BatchNorm1d(width, eps=2e-5),
                    nn.Linear(width, 512, bias=False),
                    nn.BatchNorm1d(512, eps=2e-5),
                )

            def forward(self, x: Any) -> Any:
                return self.feature(self.forward_features(x).flatten(1))

        network = Network()
        torch.nn.init.normal_(network.pos_embed)
        return network

    return build


def insightface_mbf() -> Any:
    """frbench's layers in the width and with the groups of insightface's mbf, and under its names."""
    import_torchvision()
    from frbench.backbones import mobilefacenet as parts
    from torch import nn

    class Unit(nn.Module):  # insightface numbers the parts of a unit
        def __init__(self, *layers: Any) -> None:
            super().__init__()
            self.layers = nn.Sequential(*layers)

        def forward(self, x: Any) -> Any:
            return self.layers(x)

    class Residual(Unit):
        def forward(self, x: Any) -> Any:
            return x + self.layers(x)

    def conv(i: int, o: int, size: int = 1, *, stride: int = 1, groups: int = 1, linear: bool = False) -> Any:
        block = parts.LinearBlock if linear else parts.ConvBlock
        padding = 1 if size == 3 else 0
        return Unit(*block(i, o, (size, size), (stride, stride), (padding, padding), groups).children())

    def inverted(i: int, expanded: int, o: int, *, stride: int) -> Any:
        unit = Residual if stride == 1 else Unit
        depthwise = conv(expanded, expanded, 3, stride=stride, groups=expanded)
        return unit(conv(i, expanded), depthwise, conv(expanded, o, linear=True))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                [
                    conv(3, 128, 3, stride=2),
                    conv(128, 128, 3, groups=64),
                    inverted(128, 128, 128, stride=2),
                    Unit(*(inverted(128, 128, 128, stride=1) for _ in range(4))),
                    inverted(128, 256, 256, stride=2),
                    Unit(*(inverted(256, 256, 256, stride=1) for _ in range(6))),
                    inverted(256, 512, 256, stride=2),
                    Unit(*(inverted(256, 256, 256, stride=1) for _ in range(2))),
                ]
            )
            self.conv_sep = conv(256, 512)
            pooled = conv(512, 512, 7, groups=512, linear=True)
            self.features = Unit(pooled, nn.Flatten(), nn.Linear(512, 512, bias=False), nn.BatchNorm1d(512))

        def forward(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x)
            return self.features(self.conv_sep(x))

    return Network()


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


def magface(depth: int) -> Callable[[], Any]:
    """frbench's IR with MagFace's epsilon, wrapped as MagFace saves it, beside a classifier."""

    def build() -> Any:
        from torch import nn

        network = frbench(f"ir-{depth}")()
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eps = 2e-5
        wrapped = nn.Module()
        wrapped.features = nn.Module()
        wrapped.features.module = network
        wrapped.fc = nn.Linear(512, 10, bias=False)
        return wrapped

    return build


def magface_names(name: str) -> str:
    wrapper = "features.module."
    return wrapper + insightface_names(name.removeprefix(wrapper)) if name.startswith(wrapper) else name


# --- Keras and TensorFlow -----------------------------------------------------------------------------------------


def keras_reference(
    build: Callable[[], Any],
    scaled: Callable[[np.ndarray], np.ndarray],
    *,
    weights_only: bool,
    output: str | None = None,
) -> Callable[[Path], Reference]:
    """A Keras 2 network, saved whole or as weights alone; the embedding is what the layer `output` makes, if given."""

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
        if output is not None:
            network = type(network)(network.input, network.get_layer(output).output)
        return Reference(file, lambda x: network(scaled(x).astype(np.float32), training=False).numpy())

    return make


def caffe_pixels(x: np.ndarray) -> np.ndarray:
    """keras.applications.imagenet_utils.preprocess_input(mode="caffe"), as Fawkes 0.x has it."""
    return x[..., ::-1] * 255 - np.array([103.939, 116.779, 123.68], np.float32)


def keras_densenet121(*, top: bool) -> Callable[[], Any]:
    def build() -> Any:
        import tf_keras

        full = tf_keras.applications.DenseNet121(weights=None, input_shape=(224, 224, 3))
        return full if top else tf_keras.Model(full.input, full.get_layer("avg_pool").output)

    return build


def deepface_facenet() -> Any:
    from deepface.models.facial_recognition.tf.Facenet import InceptionResNetV1

    return InceptionResNetV1(dimension=512)


# --- files that the registries have -------------------------------------------------------------------------------


def shipped(name: str) -> Callable[[Path], Reference]:
    """The published file of a shipped extractor, whose own runtime's embeddings are in tests/goldens."""

    def make(folder: Path) -> Reference:
        import convert_weights
        import jax.numpy as jnp

        from engine import extractors
        from engine.extractors import registry

        file = convert_weights.fetch(convert_weights.SOURCES[name], cache=folder)
        spec = registry.find(name).spec
        with np.load(ROOT / "tests" / "goldens" / "embeddings.npz") as golden:
            canvases, expected = golden["canvases"].astype(np.float32) / 255, golden[name]
        window = jnp.array(spec.window_yx)
        crops = np.stack([extractors.crop(canvas, size=spec.size, window_yx=window) for canvas in canvases])
        return Reference(file, lambda _: expected, crops)

    return make


def dlib_resnet(folder: Path) -> Reference:
    """dlib's face network on chips of its own: it takes whole grey levels, to which crops of ours would be rounded."""
    import convert_weights

    file = convert_weights.fetch(convert_weights.SOURCES["dlib-resnet"], cache=folder)
    with np.load(ROOT / "tests" / "goldens" / "dlib_chips.npz") as golden:
        chips, descriptors = golden["chips"].astype(np.float32) / 255, golden["descriptors"]
    return Reference(file, lambda _: descriptors, chips)


# --- the table ----------------------------------------------------------------------------------------------------


def proofs() -> dict[str, list[Proof]]:
    """By layout; several where a format has several exporters."""
    facenet = torch_reference(facenet_pytorch, facenet_pixels)
    table: dict[str, list[Proof]] = {
        "inception-resnet-v1/facenet-pytorch": [
            Proof("facenet-pytorch", "InceptionResnetV1 with random weights, state dict", facenet)
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
    for layout, name in (
        ("inception-resnet-v1/facenet-pb", "web-incept"),
        ("mobilefacenet/sirius-tflite", "mobilefacenet-192"),
        ("faceres/human-tfjs", "faceres"),
        ("mobileface/human-tfjs", "mobileface"),
        ("sface/opencv-onnx", "sface"),
    ):
        about = checkpoint.manifest()["extractors"][name]
        runtime = about["metric"]["parity_reference"]
        table[layout] = [Proof("", f"{about['source']}, trained weights; tests/goldens, by {runtime}", shipped(name))]
    dlib = checkpoint.manifest()["extractors"]["dlib-resnet"]
    runtime = f"tests/goldens, by {dlib['metric']['parity_reference'].split(' on ')[0]}"
    table["resnet29/dlib"] = [Proof("", f"{dlib['source']}, trained weights; {runtime}", dlib_resnet)]
    imagenet = (np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32))
    table["densenet121/torchvision"] = [
        Proof(
            "torchvision",
            "densenet121 with random weights, state dict; torchvision's forward up to its classifier",
            torch_reference(
                torchvision_densenet121,
                lambda x: (x - imagenet[0]) / imagenet[1],
                forward=lambda network, x: network.features(x).relu().mean((2, 3)),
            ),
        )
    ]
    table["densenet121/keras"] = [
        Proof(
            "tf-keras",
            f"DenseNet121 {architecture} with random weights, {form}",
            keras_reference(keras_densenet121(top=top), caffe_pixels, weights_only=alone, output="avg_pool"),
        )
        for architecture, top, form, alone in (
            ("up to its pooling", False, "whole model", False),
            ("with its classifier", True, "weights alone", True),
        )
    ]
    for name, backbone in (("mobilefacenet", "mobilefacenet-plain"), ("mobilefacenet-eca", "mobilefacenet")):
        build = frbench(backbone)
        table[f"{name}/frbench"] = [
            Proof("frbench", f"{backbone} with random weights, state dict", torch_reference(build, half_pixels))
        ]
    table["mobilefacenet/insightface"] = [
        Proof(
            "frbench",
            "insightface's mbf of frbench's blocks, with random weights, state dict under insightface's names",
            torch_reference(insightface_mbf, half_pixels),
        )
    ]
    for layout, architecture, build in (
        ("mobilefacenet/onnx", "frbench's mobilefacenet-plain", frbench("mobilefacenet-plain")),
        ("mobilefacenet/insightface-onnx", "insightface's mbf of frbench's blocks", insightface_mbf),
    ):
        table[layout] = [
            Proof(
                "onnxruntime",
                f"{architecture} with random weights, {exporter} export",
                torch_reference(build, half_pixels, onnx=exporter),
            )
            for exporter in ("torchscript", "dynamo")
        ]
    for size, width, depth in (("t", 256, 12), ("s", 512, 12), ("b", 512, 24), ("l", 768, 24)):
        table[f"vit-{size}/insightface"] = [
            Proof(
                "timm",
                "timm's VisionTransformer with insightface's head and random weights, state dict",
                torch_reference(timm_vit(width, depth), half_pixels),
            )
        ]
    for depth in (18, 34, 50, 100):
        for name, backbone in ((f"iresnet{depth}", f"ir-{depth}"), (f"iresnet{depth}-se", f"irse-{depth}")):
            build = frbench(backbone)
            architecture = f"{backbone} with random weights"
            table[f"{name}/frbench"] = [
                Proof("frbench", f"{architecture}, state dict", torch_reference(build, half_pixels))
            ]
            table[f"{name}/onnx"] = [
                Proof(
                    "onnxruntime",
                    f"frbench's {architecture}, {exporter} export",
                    torch_reference(build, half_pixels, onnx=exporter),
                )
                for exporter in ("torchscript", "dynamo")
            ]
        table[f"iresnet{depth}/magface"] = [
            Proof(
                "frbench",
                f"ir-{depth} with MagFace's epsilon and random weights, checkpoint under MagFace's names",
                torch_reference(
                    magface(depth),
                    lambda x: x[..., ::-1],
                    rename=magface_names,
                    forward=lambda network, x: network.features.module(x),
                ),
            )
        ]
        table[f"iresnet{depth}/insightface"] = [
            Proof(
                "frbench",
                f"ir-{depth} with random weights, state dict under insightface's names",
                torch_reference(frbench(f"ir-{depth}"), half_pixels, rename=insightface_names),
            )
        ]
    return table


def difference(layout_name: str, proof: Proof) -> tuple[float, float]:
    """Largest absolute difference between the embeddings of length one of three random crops, theirs and ours.

    And, for scale, that between two of the crops: a network that sees no difference between them proves nothing.
    """
    import jax
    from flax import nnx

    from engine.convert import conversion, layouts
    from engine.extractors import registry

    layout = layouts.find(layout_name)
    size = layout.spec.size
    # Patches of colour: pixels drawn one by one look the same to a network that takes means.
    crops = np.random.default_rng(3).random((3, 8, 8, 3), np.float32)
    crops = crops.repeat(-(-size // 8), axis=1).repeat(-(-size // 8), axis=2)[:, :size, :size]
    with tempfile.TemporaryDirectory() as folder:
        reference = proof.make(Path(folder))
        crops = crops if reference.crops is None else reference.crops
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
    return float(np.abs(ours - theirs).max()), float(np.abs(theirs[0] - theirs[1]).max())


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
            error, between = difference(name, proof)
            failed |= not error < min(LIMIT, between / 100)
            print(
                f"{name:40} {error:.1e} of {between:.1e}  {proof.library}: {proof.what}",
                flush=True,
            )
            results[name].append(
                {
                    "library": proof.library,
                    "version": version(proof.library) if proof.library else "",
                    "proven_on": proof.what,
                    "max_abs_difference": float(f"{error:.2e}"),
                    "max_abs_difference_between_crops": float(f"{between:.2e}"),
                }
            )
        options.out.write_text(json.dumps(dict(sorted(results.items())), indent=2) + "\n")
    print(json.dumps({"limit": LIMIT, "failed": failed, "proven": sum(map(len, results.values()))}))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
