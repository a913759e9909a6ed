"""engine.cloak.solver: an accelerator's loop and the host's make the same cloaks, as optimised programs round."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from test_solver import EXTRACTORS, GREY, RECIPES, SOLVERS, TEXTURED, begin, faces

from engine.cloak import solver


@pytest.mark.parametrize(("name", "counts"), [*((name, (1, 3)) for name in SOLVERS), ("projected in turn .007", (4,))])
def test_steps_in_one_loop_or_one_by_one(name: str, counts: tuple[int, ...]) -> None:
    """What an accelerator runs (one fori_loop of any count) against the host's loop on the CPU, in two splits.

    Within 1e-3 of the variable's range: two programs round differently. Turns begin anew in every call.
    """
    recipe = RECIPES[name]
    by_host = solver.advance(recipe, EXTRACTORS, begin(recipe, faces()), 4).state
    slots = begin(recipe, faces())
    for count in counts:
        slots = solver._steps(recipe, EXTRACTORS, slots, jnp.int32(count))
    state = slots.state
    assert by_host.step.tolist() == state.step.tolist() == [4] * 4
    for index in (TEXTURED, GREY):
        one, other = np.asarray(by_host.variable[index]), np.asarray(state.variable[index])
        np.testing.assert_allclose(one, other, atol=1e-3 * np.abs(one).max())
