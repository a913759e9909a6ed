"""The rival in PyTorch: our networks and the paper's solver, written as one would write them well there.

Runs in DIR/torch of `build`, on the CPU. The networks are those of engine/extractors/inception_resnet_v1.py and
mobilefacenet.py ("sirius" form), their batch norms folded as ours are, in channels-last memory; weights have no
gradient, the clean embedding is computed once, the crop is two products with a small matrix, DSSIM's blur is separable,
and faces go through in one batch, their losses summed. The solver is that of engine/cloak/paper.py, step by step, from
the problem's first iterate. `--compile` hands network and objective to torch.compile.

    python benchmarks/rivals/torch_rival.py steps PROBLEM [--batches 1,4,16] [--repeats N] [--compile] [--threads N]
        [--bfloat16]
    python benchmarks/rivals/torch_rival.py solve PROBLEM --out RESULT [--steps N] [--batch N] [--goal G] [--until-goal]
    python benchmarks/rivals/torch_rival.py check PROBLEM

`steps` measures milliseconds of a forward pass with the gradient of the input, for each network alone (its scaled
crops in, the sum of the raw embeddings out) and of a whole step of the solver, by batch size; faces repeat where the
problem has too few. With --bfloat16 weights and activations of the networks are in it, and no whole step is measured.
The physical ceiling is two to three forward passes at the CPU's peak rate. First calls, which compile, are told apart.
`solve` runs one step that it does not count, then the solver, the clean embedding included. It
writes delta (n, c, c, 3), shift (n, k), dssim and gain (n,) of the best feasible iterate (gain -inf where there is
none), reached (n,), the number of steps at which a face was first seen at its goal within the budget, 0 for never, and
reached_seconds (n,), since its batch began. A step judges the iterate it starts from, so the first iterate is seen in
step 1. `check` compares with the reference that the problem carries. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))

import problem_file
from problem_file import Network, Problem, Weights

RATE, BETAS, EPSILON = 0.05, (0.9, 0.999), 1e-8
"""Adam as engine.cloak.paper has it from Optax."""
PENALTY = 1000.0
WINDOW, SIGMA, C1, C2 = 11, 1.5, 0.01**2, 0.03**2
"""SSIM as in engine.dssim."""


class Conv(nn.Module):
    """A convolution with a bias, full or depthwise by its kernel. same: TensorFlow's padding, for even sides."""

    def __init__(self, weights: Weights, path: str, *, stride: int = 1, same: bool = True, scale: float = 1.0):
        super().__init__()
        kernel = weights.take(f"{path}/kernel") * np.float32(scale)
        depthwise = kernel.ndim == 3
        kernel = kernel.transpose(2, 0, 1)[:, None] if depthwise else kernel.transpose(3, 2, 0, 1)
        self.groups = kernel.shape[0] if depthwise else 1
        self.stride = stride
        height, width = kernel.shape[2:]
        self.padding = ((height - 1) // 2, (width - 1) // 2) if same else (0, 0)
        if same and stride == 2:
            # TensorFlow then pads an even side at its end alone. A kernel with zeros before it, padded on both sides,
            # does the same without a copy of the input: a third less time for a depthwise one.
            kernel = np.pad(kernel, ((0, 0), (0, 0), (1, 0), (1, 0)))
        self.register_buffer("kernel", _tensor(kernel).contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", _tensor(weights.take(f"{path}/bias") * np.float32(scale)))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, self.bias, self.stride, self.padding, groups=self.groups)


class Dense(nn.Module):
    """A convolution over all of its input: (b, i, kh, kw) or (b, i) to (b, o)."""

    def __init__(self, weights: Weights, path: str):
        super().__init__()
        kernel = weights.take(f"{path}/kernel")
        self.register_buffer("kernel", _tensor(kernel.reshape(-1, kernel.shape[-1]).T))
        self.register_buffer("bias", _tensor(weights.take(f"{path}/bias")))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.kernel, self.bias)


class _FrozenPReLU(torch.autograd.Function):
    """PReLU whose slope has no gradient: PyTorch's own backward pass takes seven times as long on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.prelu(x, slope)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, slope = ctx.saved_tensors
        (gradient,) = gradients
        positive = torch.ops.aten.threshold_backward(gradient, x, 0)  # vectorised, as torch.where is not
        return torch.lerp(positive, gradient, slope[:, None, None]), None


class PReLU(nn.Module):
    """max(x, 0) + slope * min(x, 0), one slope a channel."""

    def __init__(self, weights: Weights, path: str):
        super().__init__()
        self.register_buffer("slope", _tensor(weights.take(f"{path}/slope")))

    def forward(self, x: Tensor) -> Tensor:
        return _FrozenPReLU.apply(x, self.slope)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32, order="C"))


class Branches(nn.Module):
    """Convolutions with ReLUs, in rows side by side; their outputs, and a max pool where they reduce, concatenated."""

    def __init__(self, weights: Weights, path: str, *, lengths: tuple[int, ...], reduce: bool = False):
        super().__init__()
        self.rows = nn.ModuleList()
        for row, length in enumerate(lengths):
            strided = [reduce and index == length - 1 for index in range(length)]
            self.rows.append(
                nn.ModuleList(
                    Conv(weights, f"{path}/branches/{row}/{index}", stride=2 if last else 1, same=not last)
                    for index, last in enumerate(strided)
                )
            )
        self.reduce = reduce

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for row in self.rows:
            y = x
            for conv in row:
                y = F.relu_(conv(y))
            outputs.append(y)
        if self.reduce:
            outputs.append(F.max_pool2d(x, 3, 2))
        return torch.cat(outputs, 1)


class Residual(nn.Module):
    """x + scale * project(branches of x), the scale folded into the projection."""

    def __init__(self, weights: Weights, path: str, *, lengths: tuple[int, ...], scale: float, activate: bool = True):
        super().__init__()
        self.branches = Branches(weights, path, lengths=lengths)
        self.project = Conv(weights, f"{path}/project", scale=scale)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(self.branches(x)).add_(x)
        return F.relu_(x) if self.activate else x


class InceptionResnetV1(nn.Module):
    """(b, 3, s, s) to (b, 512), not normalised."""

    def __init__(self, weights: Weights):
        super().__init__()
        self.stem = nn.ModuleList(
            [
                Conv(weights, "conv1a", stride=2, same=False),
                Conv(weights, "conv2a", same=False),
                Conv(weights, "conv2b"),
            ]
        )
        self.middle = nn.ModuleList(
            [
                Conv(weights, "conv3b", same=False),
                Conv(weights, "conv4a", same=False),
                Conv(weights, "conv4b", stride=2, same=False),
            ]
        )
        self.stages = nn.Sequential(
            *(Residual(weights, f"block35/{n}", lengths=(1, 2, 3), scale=0.17) for n in range(5)),
            Branches(weights, "reduction_a", lengths=(1, 3), reduce=True),
            *(Residual(weights, f"block17/{n}", lengths=(1, 3), scale=0.1) for n in range(10)),
            Branches(weights, "reduction_b", lengths=(2, 2, 3), reduce=True),
            *(Residual(weights, f"block8/{n}", lengths=(1, 3), scale=0.2) for n in range(5)),
            Residual(weights, "block8_last", lengths=(1, 3), scale=1.0, activate=False),
        )
        self.bottleneck = Dense(weights, "bottleneck")

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.stem:
            x = F.relu_(conv(x))
        x = F.max_pool2d(x, 3, 2)
        for conv in self.middle:
            x = F.relu_(conv(x))
        return self.bottleneck(self.stages(x).mean((2, 3)))


class InvertedResidual(nn.Module):
    """Expand, filter, project; the input is added where the shape allows."""

    def __init__(self, weights: Weights, path: str, *, stride: int, residual: bool):
        super().__init__()
        self.body = nn.Sequential(
            Conv(weights, f"{path}/expand"),
            PReLU(weights, f"{path}/expand_prelu"),
            Conv(weights, f"{path}/depthwise", stride=stride),
            PReLU(weights, f"{path}/depthwise_prelu"),
            Conv(weights, f"{path}/project"),
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return y.add_(x) if self.residual else y


class MobileFaceNet(nn.Module):
    """(b, 3, 112, 112) to (b, d), not normalised; the form of `mobilefacenet-192`."""

    STRIDED = (0, 5, 12)
    BLOCKS = 15

    def __init__(self, weights: Weights):
        super().__init__()
        self.body = nn.Sequential(
            Conv(weights, "stem", stride=2),
            PReLU(weights, "stem_prelu"),
            Conv(weights, "stem_depthwise"),
            PReLU(weights, "stem_depthwise_prelu"),
            Conv(weights, "stem_project"),
            *(
                InvertedResidual(
                    weights, f"blocks/{n}", stride=2 if n in self.STRIDED else 1, residual=n not in self.STRIDED
                )
                for n in range(self.BLOCKS)
            ),
            Conv(weights, "head"),
            PReLU(weights, "head_prelu"),
        )
        kernel = weights.take("global_depthwise/kernel")
        self.register_buffer("whole", _tensor(kernel.transpose(2, 0, 1)))
        self.register_buffer("whole_bias", _tensor(weights.take("global_depthwise/bias")))
        self.global_project = Dense(weights, "global_project")
        self.bottleneck = Dense(weights, "bottleneck")

    def forward(self, x: Tensor) -> Tensor:
        x = (self.body(x) * self.whole).sum((2, 3)) + self.whole_bias
        return self.bottleneck(self.global_project(x))


BUILDERS: dict[str, Callable[[Weights], nn.Module]] = {
    "inception_resnet_v1": InceptionResnetV1,
    "mobilefacenet": MobileFaceNet,
}


def build(network: Network) -> nn.Module:
    """The network with its weights. Raises ValueError for one not written here, or weights that do not fit it."""
    if network.network not in BUILDERS:
        raise ValueError(f"{network.name} is a {network.network}; this rival has {', '.join(BUILDERS)}")
    weights = Weights(network)
    module = BUILDERS[network.network](weights)
    weights.finish()
    return module.eval()


class Crop(nn.Module):
    """Canvases (b, 3, c, c) in [0, 1] to scaled input (b, 3, s, s), channels last."""

    def __init__(self, network: Network, side: int):
        super().__init__()
        self.bgr = network.bgr
        if network.rows is None:
            self.low, self.high = (int(edge) for edge in network.window)
            self.rows = None
        else:
            used = np.flatnonzero(network.rows.any(axis=0))
            self.low, self.high = int(used[0]), int(used[-1]) + 1
            self.register_buffer("rows", _tensor(network.rows[:, self.low : self.high]))
        assert 0 <= self.low < self.high <= side
        self.register_buffer("offset", _tensor(np.array(network.mean)[:, None, None] / network.scale))
        self.factor = 255 / network.scale

    def forward(self, canvas: Tensor) -> Tensor:
        x = canvas[:, :, self.low : self.high, self.low : self.high]
        if self.rows is not None:
            x = self.rows @ x @ self.rows.T
        if self.bgr:
            x = x.flip(1)
        return (x * self.factor - self.offset).contiguous(memory_format=torch.channels_last)


class Extractor(nn.Module):
    """Canvases (b, 3, c, c) to embeddings (b, d) of length one."""

    def __init__(self, network: Network, side: int):
        super().__init__()
        self.crop = Crop(network, side)
        self.network = build(network)

    def forward(self, canvas: Tensor) -> Tensor:
        raw = self.network(self.crop(canvas))
        return raw * raw.square().sum(1, keepdim=True).clamp_min(1e-10).rsqrt()


def blur(image: Tensor) -> Tensor:
    """The VALID Gaussian blur of SSIM, (b, k, c, c) to (b, k, c-10, c-10).

    Two depthwise convolutions, channels last: a third of the time of products with banded matrices.
    """
    taps = torch.exp(-0.5 * ((torch.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    taps = (taps / taps.sum()).expand(image.shape[1], 1, 1, WINDOW)
    image = F.conv2d(image, taps, groups=image.shape[1])
    return F.conv2d(image, taps.transpose(2, 3), groups=image.shape[1])


class Faces(NamedTuple):
    """A batch of faces: image (b, 3, c, c), SSIM's mean and variance of it, mask, windows, grey; clean embeddings."""

    image: Tensor
    mean: Tensor
    variance: Tensor
    mask: Tensor
    windows: Tensor
    grey: Tensor
    clean: tuple[Tensor, ...]


class Judged(NamedTuple):
    """What one look at an iterate tells of every face: cloak (b, 3, c, c), objective and DSSIM (b,)."""

    delta: Tensor
    gain: Tensor
    dssim: Tensor


def cloak(faces: Faces, variable: Tensor) -> Tensor:
    """The change that a variable in tanh space stands for: inside the mask, never past black or white."""
    delta = (torch.tanh(variable) + 1) / 2 - faces.image
    delta = torch.where(faces.grey, delta.mean(1, keepdim=True), delta) * faces.mask
    return (faces.image + delta).clamp(0, 1) - faces.image


def dssim(faces: Faces, delta: Tensor) -> Tensor:
    """DSSIM of the face region, (b,)."""
    shift, square, product = blur(torch.cat([delta, delta * delta, faces.image * delta], 1)).split(3, 1)
    mean = faces.mean + shift
    covariance = product - faces.mean * shift
    joint = faces.variance + covariance
    variance = (joint + covariance + (square - shift * shift).clamp_min(0)).clamp_min(0)
    luminance = (2 * faces.mean * mean + C1) / (faces.mean**2 + mean**2 + C1)
    structure = (2 * joint + C2) / (faces.variance + variance + C2)
    return ((1 - luminance * structure).mean(1) / 2 * faces.windows).sum((1, 2))


class Objective(nn.Module):
    """The loss of the paper's solver, "away", summed over a batch of faces, as a function of the variable."""

    def __init__(self, problem: Problem):
        super().__init__()
        side = problem.canvas.shape[1]
        self.extractors = nn.ModuleList(Extractor(network, side) for network in problem.networks)
        self.shares = tuple(network.share for network in problem.networks)
        self.rho = problem.rho

    @torch.no_grad()
    def faces(self, problem: Problem) -> Faces:
        """The faces of a problem, and all about them that does not change from step to step."""
        image = _planes(problem.canvas)
        mean = blur(image)
        return Faces(
            image,
            mean,
            (blur(image**2) - mean**2).clamp_min(0),
            _planes(problem.mask),
            _tensor(problem.windows),
            torch.from_numpy(problem.grey)[:, None, None, None],
            tuple(extractor(image) for extractor in self.extractors),
        )

    def distances(self, faces: Faces, delta: Tensor) -> Tensor:
        """L2 distance from the clean embedding, (b, k)."""
        canvas = faces.image + delta
        squared = [
            (extractor(canvas) - clean).square().sum(1)
            for extractor, clean in zip(self.extractors, faces.clean, strict=True)
        ]
        return torch.sqrt(torch.stack(squared, 1) + 1e-12)

    def forward(self, faces: Faces, variable: Tensor) -> tuple[Tensor, Judged]:
        delta = cloak(faces, variable)
        distances = self.distances(faces, delta)
        gain = torch.stack([share * distances[:, n] for n, share in enumerate(self.shares)]).sum(0)
        cost = dssim(faces, delta)
        loss = -gain + PENALTY * (cost - self.rho).clamp_min(0)
        return loss.sum(), Judged(delta.detach(), gain.detach(), cost.detach())


def _planes(images: np.ndarray) -> Tensor:
    """(b, h, w, k) to (b, k, h, w), which is channels last: the bytes stay where they are."""
    return _tensor(images).permute(0, 3, 1, 2)


def _pixels(planes: Tensor) -> np.ndarray:
    return planes.permute(0, 2, 3, 1).contiguous().numpy()


class Solver:
    """The paper's solver on a batch of faces: `step` looks at the iterate, keeps it if it is the best, and moves on."""

    def __init__(self, problem: Problem, objective: Objective, look: Callable[..., tuple[Tensor, Judged]]):
        """look: the objective, or it compiled."""
        self.look = look
        self.rho = objective.rho
        self.faces = objective.faces(problem)
        self.variable = _planes(problem.start).requires_grad_()
        self.adam = torch.optim.Adam([self.variable], lr=RATE, betas=BETAS, eps=EPSILON, fused=True)
        self.best = torch.zeros_like(self.variable, requires_grad=False)
        self.best_gain = torch.full((len(self.variable),), -torch.inf)

    def step(self) -> Judged:
        """One Adam step; what is returned is of the iterate that it started from."""
        loss, judged = self.look(self.faces, self.variable)
        (self.variable.grad,) = torch.autograd.grad(loss, self.variable)
        better = (judged.dssim <= self.rho) & (judged.gain > self.best_gain)
        self.best = torch.where(better[:, None, None, None], judged.delta, self.best)
        self.best_gain = torch.where(better, judged.gain, self.best_gain)
        self.adam.step()
        return judged


def solve(
    problem: Problem,
    objective: Objective,
    look: Callable[..., tuple[Tensor, Judged]],
    *,
    steps: int,
    until_goal: bool,
) -> dict[str, np.ndarray]:
    """Cloak one batch; the arrays of the result file, and `steps` and `seconds` of the batch, () each."""
    Solver(problem, objective, look).step()  # compiles, and fills the allocator
    begun = time.perf_counter()
    solver = Solver(problem, objective, look)
    reached = np.zeros(len(problem.canvas), np.int32)
    seconds = np.zeros(len(problem.canvas))
    done = 0
    while done < steps and not (until_goal and reached.all()):
        judged = solver.step()
        done += 1
        there = (judged.dssim.numpy() <= problem.rho) & (judged.gain.numpy() >= problem.goals) & (problem.goals > 0)
        first = there & (reached == 0)
        reached[first], seconds[first] = done, time.perf_counter() - begun
    with torch.no_grad():
        shift, cost = objective.distances(solver.faces, solver.best), dssim(solver.faces, solver.best)
    return {
        "delta": _pixels(solver.best),
        "shift": shift.numpy(),
        "dssim": cost.numpy(),
        "gain": solver.best_gain.numpy(),
        "reached": reached,
        "reached_seconds": seconds,
        "steps": np.array(done),
        "seconds": np.array(time.perf_counter() - begun),
    }


def made(problem: Problem, *, compiled: bool) -> tuple[Objective, Callable[..., tuple[Tensor, Judged]]]:
    """The objective of a problem's networks, and the same compiled if that is asked for."""
    objective = Objective(problem)
    return objective, torch.compile(objective, dynamic=False) if compiled else objective


def solve_command(problem: Problem, options: argparse.Namespace) -> dict[str, object]:
    """Cloak all faces, a batch at a time, and write the result."""
    if options.goal is not None:
        problem = problem._replace(goals=np.full(len(problem.canvas), options.goal, np.float32))
    if options.until_goal and not (problem.goals > 0).all():
        raise SystemExit("--until-goal needs a goal for every face: in the problem, or by --goal")
    objective, look = made(problem, compiled=options.compile)
    count = len(problem.canvas)
    batch = min(options.batch or count, count)
    parts = [
        solve(
            problem.faces(slice(begin, begin + batch)),
            objective,
            look,
            steps=options.steps,
            until_goal=options.until_goal,
        )
        for begin in range(0, count, batch)
    ]
    steps, seconds = ([float(part.pop(key)) for part in parts] for key in ("steps", "seconds"))
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    feasible = np.isfinite(arrays["gain"])
    summary = {
        "faces": count,
        "batch": batch,
        "rho": problem.rho,
        "steps": [int(value) for value in steps],
        "seconds": round(sum(seconds), 3),
        "faces_per_second": round(count / sum(seconds), 4),
        "step_ms": round(1000 * sum(seconds) / sum(steps), 2),
        "feasible": int(feasible.sum()),
        "gain_mean": float(arrays["gain"][feasible].mean()) if feasible.any() else None,
        "dssim_max": float(arrays["dssim"].max()),
        "reached": arrays["reached"].tolist(),
        "reached_seconds": [round(value, 3) for value in arrays["reached_seconds"].tolist()],
    }
    problem_file.write_result(options.out, summary, **arrays)
    return summary


def measured(call: Callable[[], object], *, repeats: int) -> dict[str, float]:
    """Milliseconds of a call: the first, and the median, least and largest of `repeats` more after one to warm up."""
    times = []
    for _ in range(repeats + 2):
        begun = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - begun))
    first, _, *rest = times
    figures = {"first": first, "median": statistics.median(rest), "min": min(rest), "max": max(rest)}
    return {name: round(value, 2) for name, value in figures.items()}


def steps_command(problem: Problem, options: argparse.Namespace) -> dict[str, object]:
    """Time the networks alone and the whole step."""
    rows: list[dict[str, object]] = []
    objective, look = made(problem, compiled=options.compile)
    for batch in options.batches:
        some = problem.faces(np.arange(batch) % len(problem.canvas))
        for network, extractor in zip(problem.networks, objective.extractors, strict=True):
            dtype = torch.bfloat16 if options.bfloat16 else torch.float32
            module = extractor.network.to(dtype)
            module = torch.compile(module, dynamic=False) if options.compile else module
            x = _planes(problem_file.inputs(network, some.canvas)).to(dtype)
            x.requires_grad_()

            def both(module=module, x=x) -> Tensor:
                return torch.autograd.grad(module(x).sum(), x)[0]

            rows.append({"what": network.name, "batch": batch, "ms": measured(both, repeats=options.repeats)})
        if not options.bfloat16:
            solver = Solver(some, objective, look)
            rows.append({"what": "step", "batch": batch, "ms": measured(solver.step, repeats=options.repeats)})
    return {"repeats": options.repeats, "rows": rows}


def check_command(problem: Problem, options: argparse.Namespace) -> dict[str, object]:
    """Compare embeddings, loss, gradient and Adam's first step with the reference in the problem."""
    reference = problem.reference
    if not reference:
        raise SystemExit("the problem has no reference: problem.py --reference makes one that has")
    objective, look = made(problem, compiled=options.compile)
    some = problem.faces(slice(0, reference["gain"].shape[1]))
    cosines, points = {}, []
    with torch.no_grad():
        for network, extractor in zip(problem.networks, objective.extractors, strict=True):
            ours = torch.from_numpy(reference[f"embedding/{network.name}"])
            theirs = extractor(_planes(some.canvas))
            cosines[network.name] = F.cosine_similarity(ours.double(), theirs.double()).min().item()
    for n, start in enumerate(reference["point"]):
        solver = Solver(some._replace(start=start), objective, look)
        judged = solver.step()
        gradient = _pixels(solver.variable.grad)
        loss, ours = (
            -gain + PENALTY * np.maximum(cost - problem.rho, 0)
            for gain, cost in [
                (judged.gain.numpy(), judged.dssim.numpy()),
                (reference["gain"][n], reference["dssim"][n]),
            ]
        )
        move = reference["after"][n] - start
        points.append(
            {
                "dssim": judged.dssim.tolist(),
                "loss": loss.tolist(),
                "loss_error": float(np.max(np.abs(loss - ours) / np.abs(ours))),
                "gradient_error": relative(gradient, reference["gradient"][n]),
                "adam_error": relative(_pixels(solver.variable.detach()) - start, move),
            }
        )
    passed = min(cosines.values()) > 0.99999 and all(
        point["loss_error"] < 1e-3 and point["gradient_error"] < 1e-3 for point in points
    )
    return {"passed": passed, "cosine_min": cosines, "points": points}


def relative(ours: np.ndarray, wanted: np.ndarray) -> float:
    """The largest relative L2 error of any face."""
    error = np.linalg.norm((ours - wanted).reshape(len(wanted), -1), axis=1)
    return float(np.max(error / np.linalg.norm(wanted.reshape(len(wanted), -1), axis=1)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("problem", type=Path)
    shared.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: the cores")
    shared.add_argument("--compile", action="store_true", help="by torch.compile; needs a C++ compiler")
    steps = commands.add_parser("steps", parents=[shared], help="time networks and steps")
    steps.add_argument("--batches", type=lambda text: [int(part) for part in text.split(",")], default=[1, 4, 16])
    steps.add_argument("--repeats", type=int, default=7)
    steps.add_argument("--bfloat16", action="store_true", help="the networks alone, in bfloat16")
    solving = commands.add_parser("solve", parents=[shared], help="cloak the faces")
    solving.add_argument("--out", type=Path, required=True)
    solving.add_argument("--steps", type=int, default=40)
    solving.add_argument("--batch", type=int, help="faces at a time (default: all)")
    solving.add_argument("--goal", type=float, help="weighted mean shift, instead of the problem's goals")
    solving.add_argument("--until-goal", action="store_true", help="stop a batch when all its faces reached it")
    commands.add_parser("check", parents=[shared], help="compare with our engine")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    problem = problem_file.read(options.problem)
    run = {"steps": steps_command, "solve": solve_command, "check": check_command}[options.command]
    load = round(os.getloadavg()[0], 1)
    result = run(problem, options)
    about = {
        "rival": "torch",
        "command": options.command,
        "version": torch.__version__,
        "threads": options.threads,
        "compiled": options.compile,
        "load": load,
    }
    print(json.dumps(about | result))
    return 1 if result.get("passed") is False else 0


if __name__ == "__main__":
    sys.exit(main())
