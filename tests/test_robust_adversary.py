"""engine.robust.adversary: within its bounds, up the loss, and the same for a picture in any batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from engine import dssim
from engine.extractors import embed_crop
from engine.robust import adversary
from engine.robust import head as heads
from engine.robust.adversary import Attack, Norm, Target

pytestmark = pytest.mark.usefixtures("quick_compiles")

NETWORK = tiny.extractor(3)
LINF = Attack(6 / 255, 8, 2 / 255)
DSSIM = Attack(0.01, 8, 0.01, norm="dssim")


def pictures(count: int = 4) -> jax.Array:
    """Some that touch black and white, where a change has to be cut off."""
    return jnp.stack([jnp.asarray(tiny.texture(n, 32, 32, contrast=0.1 + 0.2 * n)) for n in range(count)])


@jax.jit
def embedded(crops: jax.Array) -> jax.Array:
    return jax.vmap(lambda crop: embed_crop(NETWORK, crop))(crops)


def target(crops: jax.Array) -> Target:
    return Target(None, embedded(crops), jnp.zeros(len(crops), jnp.int32))


def seeds(count: int) -> jax.Array:
    return jnp.arange(count, dtype=jnp.uint32)


def shift(crops: jax.Array, changes: jax.Array) -> np.ndarray:
    return np.linalg.norm(np.asarray(embedded(crops + changes) - embedded(crops)), axis=1)


@pytest.mark.parametrize("attack", [LINF, DSSIM], ids=["linf", "dssim"])
def test_the_change_stays_within_its_bound_and_the_pixels_range(attack: Attack) -> None:
    crops = pictures()
    changes = adversary.against(attack, NETWORK, target(crops), crops, seeds(4))
    changed = np.asarray(crops + changes)
    assert changed.min() >= 0
    assert changed.max() <= 1
    if attack.norm == "linf":
        assert np.abs(changes).max() == pytest.approx(attack.epsilon, abs=1e-6)
        return
    distances = [float(dssim.dssim(crop, moved)) for crop, moved in zip(crops, crops + changes, strict=True)]
    assert max(distances) <= attack.epsilon * 1.001
    assert min(distances) > attack.epsilon / 2


@pytest.mark.parametrize("attack", [LINF, DSSIM], ids=["linf", "dssim"])
def test_more_steps_move_the_embedding_further(attack: Attack) -> None:
    crops = pictures()
    start = adversary.begin(attack, crops, seeds(4))
    begun = shift(crops, start)
    one_step = adversary.ascend(attack, NETWORK, target(crops), crops, start, jnp.float32(1.0))
    all_steps = adversary.against(attack, NETWORK, target(crops), crops, seeds(4))
    assert (shift(crops, one_step) > begun).all()
    assert (shift(crops, all_steps) > shift(crops, one_step)).all()


def test_a_step_goes_along_the_gradient_s_sign() -> None:
    """Against the definition of FGSM (Goodfellow et al., ICLR 2015), on a function whose gradient is known."""
    slope = jnp.asarray(tiny.texture(9, 12, 12)) - 0.5
    picture = jnp.full((12, 12, 3), 0.5)
    attack = Attack(0.1, 1, 0.03, random_start=False, aim="head")
    delta = adversary.init(attack, picture, key=jax.random.key(0))
    moved = adversary.step(attack, lambda x: (slope * x).sum(), picture, delta)
    np.testing.assert_allclose(moved, 0.03 * np.sign(slope), atol=1e-7)
    halved = adversary.step(attack, lambda x: (slope * x).sum(), picture, delta, shrink=0.5)
    np.testing.assert_allclose(halved, 0.015 * np.sign(slope), atol=1e-7)


def test_an_attack_on_the_head_raises_its_cross_entropy() -> None:
    crops, labels = pictures(), jnp.arange(4)
    rows = embedded(crops)
    head = jnp.asarray(heads.of_means(np.asarray(rows), np.arange(4)))

    def loss(crops: jax.Array) -> np.ndarray:
        return np.asarray(jax.vmap(lambda row, label: heads.cross_entropy(head, row, label))(embedded(crops), labels))

    attack = Attack(6 / 255, 5, 2 / 255, aim="head", random_start=False)
    changes = adversary.against(attack, NETWORK, Target(head, rows, labels), crops, seeds(4))
    assert (loss(crops + changes) > loss(crops) + 0.1).all()


def test_a_picture_s_change_does_not_depend_on_its_batch() -> None:
    crops = pictures()
    together = adversary.against(LINF, NETWORK, target(crops), crops, seeds(4))
    pair = adversary.against(LINF, NETWORK, target(crops[2:]), crops[2:], seeds(4)[2:])
    np.testing.assert_allclose(pair, together[2:], atol=1e-6)
    other_batch = adversary.against(LINF, NETWORK, target(crops[2:]), crops[2:], seeds(2))
    assert np.abs(other_batch - pair).max() > 1 / 255


@pytest.mark.parametrize("norm", ["linf", "dssim"])
def test_a_flat_picture_has_a_finite_change(norm: Norm) -> None:
    attack = Attack(0.01, 2, 0.01, norm=norm)
    crops = jnp.full((1, 32, 32, 3), 0.5)
    changes = adversary.against(attack, NETWORK, target(crops), crops, seeds(1))
    assert np.isfinite(changes).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be in"),
        ({"epsilon": 0.6, "norm": "dssim"}, "epsilon must be in"),
        ({"steps": 0}, "at least 1 step"),
        ({"step_size": 0.0}, "step_size must be in"),
        ({"norm": "l2"}, "norm must be one of linf, dssim"),
        ({"aim": "eyes"}, "aim must be one of embedding, head"),
        ({"random_start": False}, "needs a random start"),
    ],
)
def test_settings_that_cannot_be_are_refused(values: dict, message: str) -> None:
    settings: dict[str, Any] = {"epsilon": 0.03, "steps": 1, "step_size": 0.01, **values}
    with pytest.raises(ValueError, match=message):
        Attack(**settings)
