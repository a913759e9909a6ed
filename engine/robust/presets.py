"""Named recipes of adversarial training. Each runs on any machine at some scale; `paper` at full length is for GPUs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from engine.robust.adversary import Attack
from engine.robust.data import Augmentation
from engine.robust.guard import Guard
from engine.robust.train import Losses, Optimiser, Training

EPSILON = 0.5 / 255
"""Largest change of a pixel if no paper states one. For transfer slight robustness serves and much does harm (Springer
et al., NeurIPS 2021). So it was here. Cloaks of mobilefacenet-192 carried furthest after training against .5 of 255,
and about as far with 1. With 2 and 4 they carried less far than on the clean network (benchmarks/README.md)."""


@dataclass(frozen=True)
class Preset:
    """description: what it is and what it is for. epochs: times every face is seen. batch: faces. The rest as in
    `train.Training`; guard: None if the adversary is not the kind that is overfitted to.
    """

    description: str
    attack: Attack
    losses: Losses
    epochs: float
    batch: int
    optimiser: Optimiser = field(default_factory=Optimiser)
    replays: int = 0
    guard: Guard | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)

    def steps(self, faces: int) -> int:
        """Updates (batches, for replays) that its epochs are on so many faces."""
        return max(1, round(self.epochs * faces / (self.batch * self.optimiser.accumulate)))

    def training(self, steps: int) -> Training:
        """Settings for `train`."""
        return Training(self.attack, self.losses, steps, self.optimiser, self.replays)


PAPER = Preset(
    description=(
        "The paper's section 5.3: cross-entropy on the examples of PGD with 100 steps of .01 on the classification "
        "head, 10 further epochs. It states no bound; .05 is 13 of 255, what its cloaks' largest changes are like, and "
        "what 5 of its steps reach. 101 passes through the network for each face: a full run is for an accelerator"
    ),
    attack=Attack(0.05, 100, 0.01, aim="head"),
    losses=Losses(classification=1.0),
    epochs=10,
    batch=32,
)
PGD = Preset(
    description=(
        "PGD with 7 steps that moves the embedding away, the network pulled back to the clean extractor's embedding of "
        "the plain photo. Few faces without labels serve. 8 passes through the network for each face"
    ),
    attack=Attack(EPSILON, 7, EPSILON / 4),
    losses=Losses(distillation=1.0),
    epochs=5,
    batch=16,
)
FAST = Preset(
    description=(
        "As pgd with one step from a random start (Wong et al., ICLR 2020) and a guard against catastrophic "
        "overfitting. 2 passes through the network for each face: what a CPU can do"
    ),
    attack=Attack(EPSILON, 1, EPSILON),
    losses=Losses(distillation=1.0),
    epochs=10,
    batch=16,
    guard=Guard(),
)
FREE = Preset(
    description=(
        "Every batch 4 times, each gradient moving both the weights and the pixels (Shafahi et al., NeurIPS 2019; "
        "there the change is carried to the next batch, here each starts anew). 4 passes for each face and 4 updates"
    ),
    attack=Attack(EPSILON, 1, EPSILON / 2),
    losses=Losses(distillation=1.0),
    epochs=3,
    batch=16,
    replays=4,
    guard=Guard(),
)
PRESETS: dict[str, Preset] = {"paper": PAPER, "pgd": PGD, "fast": FAST, "free": FREE}


def find(name: str) -> Preset:
    """The preset of that name. Raises ValueError naming all if there is none."""
    if name not in PRESETS:
        raise ValueError(f"the preset must be one of {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name]


def strengthened(
    preset: Preset,
    *,
    epsilon: float | None = None,
    attack_steps: int | None = None,
    step_size: float | None = None,
    norm: str | None = None,
    aim: str | None = None,
) -> Preset:
    """The preset with another adversary; the step size goes with epsilon unless it is given.

    Raises ValueError as `Attack`, and for another norm without its epsilon and step size, which mean something else.
    """
    attack = preset.attack
    if norm is not None and norm != attack.norm and (epsilon is None or step_size is None):
        raise ValueError(f"the norm {norm} needs an epsilon and a step size of its own")
    if epsilon is not None and step_size is None:
        step_size = min(1.0, attack.step_size * epsilon / attack.epsilon)
    choices = {"epsilon": epsilon, "steps": attack_steps, "step_size": step_size, "norm": norm, "aim": aim}
    changed = {key: value for key, value in choices.items() if value is not None}
    return replace(preset, attack=replace(attack, **changed))  # type: ignore[arg-type]
