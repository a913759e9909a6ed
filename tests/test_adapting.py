from pathlib import Path

import numpy as np
import tiny
from faces_on_file import blank, canvases, save

from engine.evaluate.adapting import Frozen, adapt
from engine.evaluate.descent import Schedule
from engine.evaluate.training import embeddings


def faces(seeds: range) -> np.ndarray:
    return np.stack([tiny.texture_pixels(seed, 176, 176, sigma=9) for seed in seeds])


def cloaked(canvases: np.ndarray) -> np.ndarray:
    """One pattern on all: what a tool leaves behind on every photo."""
    pattern = 400 * (tiny.texture(99, 176, 176, sigma=6) - 0.5)
    return (canvases + pattern).clip(0, 255).astype(np.uint8)


def test_what_it_learnt_of_cloaks_holds_for_people_it_never_saw() -> None:
    plain, public, users = tiny.extractor(), faces(range(32)), faces(range(50, 58))
    adapted, loss = adapt(
        plain,
        public,
        cloaked(public),
        np.repeat(np.arange(16), 2),
        schedule=Schedule(epochs=12, batch=16, rate=1e-3),
    )
    clean = embeddings(plain, users)
    before, after = (
        np.sum(embeddings(extractor, cloaked(users)) * clean, axis=1).mean() for extractor in (plain, adapted)
    )
    assert loss[-1] < loss[0]
    assert after > before + 0.15 * (1 - before)
    assert np.sum(embeddings(adapted, users) * clean, axis=1).mean() > 0.9  # and it still knows clean photos


def test_a_frozen_recogniser_embeds_a_photo_once(tmp_path: Path) -> None:
    photo, nobody = save(tmp_path / "a.png", 1, 0), blank(tmp_path / "blank.png")
    cutter = canvases()
    recogniser = Frozen("plain", ("tiny",), tiny.extractor(), cutter)
    first, none = recogniser.embed([photo, nobody])
    again, same = recogniser.embed([photo, photo])
    assert cutter.detector.looked == 2  # type: ignore[attr-defined]
    assert none is None
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, same)
    adapted = Frozen("adapted", ("tiny",), tiny.extractor(1), cutter)
    assert adapted.version != recogniser.version
