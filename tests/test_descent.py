from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engine.evaluate.descent import History, Schedule, _step, batched, fit

KEY = jax.random.key(0)
LINE = {"x": np.linspace(-1, 1, 10, dtype=np.float32), "y": 3 * np.linspace(-1, 1, 10, dtype=np.float32)}


def squared(model: Any, example: Any, key: Any, within: Any) -> tuple[jax.Array, jax.Array]:
    off = model["slope"] * example["x"] - example["y"]
    return off * off, (jnp.abs(off) < 0.1).astype(jnp.float32)


def slope() -> dict[str, jax.Array]:
    return {"slope": jnp.zeros(())}


def test_it_finds_the_least_loss() -> None:
    seen: list[int] = []
    model, loss, right = fit(
        slope(),
        LINE,
        objective=squared,
        schedule=Schedule(epochs=120, batch=4, rate=0.1, watch=4),
        key=KEY,
        after=lambda epoch, model: seen.append(epoch),
    )
    assert float(model["slope"]) == pytest.approx(3, abs=0.05)
    assert len(loss) == len(right) == 120
    assert loss[-1] < 0.01 < loss[0]
    assert right[-1] == 1
    assert seen == [30, 60, 90, 120]


def test_it_compiles_once() -> None:
    weak = {"slope": jnp.full((), 0.5)}  # of a Python number's type
    _step.clear_cache()  # type: ignore[missing-attribute]  # what jax.jit returns has it
    fit(weak, LINE, objective=squared, schedule=Schedule(epochs=3, batch=4), key=KEY)
    assert _step._cache_size() == 1  # type: ignore[missing-attribute]


def test_few_examples_get_at_least_so_many_steps() -> None:
    schedule = Schedule(epochs=2, batch=5, watch=1, least=7)
    seen: list[int] = []
    _, loss, _ = fit(
        slope(), LINE, objective=squared, schedule=schedule, key=KEY, after=lambda epoch, _: seen.append(epoch)
    )
    assert len(loss) == 4  # of two steps each
    assert seen == [4]


def test_the_same_key_gives_the_same_model() -> None:
    schedule = Schedule(epochs=2, batch=3, rate=0.01)
    first, again, third = (
        fit(slope(), LINE, objective=squared, schedule=schedule, key=jax.random.key(n))[0]["slope"] for n in (0, 0, 1)
    )
    assert first == again
    assert first != third


def test_what_cannot_be_learnt_is_said() -> None:
    with pytest.raises(ValueError, match="no examples"):
        fit(slope(), {"x": np.zeros(0)}, objective=squared, schedule=Schedule(epochs=1), key=KEY)
    bad = {"x": np.full(4, np.nan, np.float32), "y": np.zeros(4, np.float32)}
    with pytest.raises(FloatingPointError, match="lower rate"):
        fit(slope(), bad, objective=squared, schedule=Schedule(epochs=1, batch=2), key=KEY)


@pytest.mark.parametrize("field", ["epochs", "batch", "watch", "least", "rate"])
def test_a_schedule_of_nothing_is_refused(field: str) -> None:
    changes: dict[str, Any] = {field: 0}
    with pytest.raises(ValueError, match=field):
        replace(Schedule(epochs=1), **changes)


def test_history_counts_what_was_called_by_its_name() -> None:
    history = History((1.0,), (0.5,), (2, 4), np.array([[0, 1, -1], [0, 0, 1]]))
    assert history.right(np.array([0, 0, 1])) == pytest.approx((1 / 3, 1.0))
    assert history.right(np.array([0, 0, 1]), slice(2, None)) == (0.0, 1.0)
    assert np.isnan(history.right(np.array([0, 0, 1]), slice(3, None))).all()


def test_batches_have_one_shape_and_every_row_once() -> None:
    shapes = set()

    def double(model: Any, rows: np.ndarray) -> jax.Array:
        shapes.add(rows.shape)
        return jnp.asarray(rows * model)

    rows = np.arange(14, dtype=np.float32).reshape(7, 2)
    np.testing.assert_array_equal(batched(double, 2, rows, size=3), rows * 2)
    assert shapes == {(3, 2)}
