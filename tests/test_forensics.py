import numpy as np
import pytest
import scipy.stats
import tiny

from engine.evaluate.forensics import curve, discriminant, interval, noise, squeezing

RANDOM = np.random.default_rng(0)


def test_area_under_the_curve_is_mann_whitneys_statistic() -> None:
    scores = np.round(RANDOM.normal(size=60), 1)  # with ties
    truth = RANDOM.random(60) < 0.4
    expected = scipy.stats.mannwhitneyu(scores[truth], scores[~truth]).statistic / (truth.sum() * (~truth).sum())
    assert curve(scores, truth).area == pytest.approx(expected)


def test_what_is_found_at_a_share_of_false_alarms() -> None:
    scores, truth = np.array([9.0, 8.0, 7.0, 6.0, 5.0]), np.array([True, True, False, True, False])
    assert curve(scores, truth).at(0.0) == pytest.approx(2 / 3)
    assert curve(scores, truth).at(0.49) == pytest.approx(2 / 3)
    assert curve(scores, truth).at(0.5) == 1


def test_the_discriminant_separates_what_can_be_separated() -> None:
    rows = RANDOM.normal(size=(200, 3)) * [1, 100, 0.01]
    truth = np.arange(200) % 2 == 0
    rows[truth, 2] += 0.03
    direction = discriminant(rows[:100], truth[:100])
    assert curve(direction.score(rows[100:]), truth[100:]).area > 0.95
    # Units do not matter.
    rescaled = discriminant(rows[:100] * [7, 0.2, 3], truth[:100])
    np.testing.assert_allclose(rescaled.score(rows * [7, 0.2, 3]), direction.score(rows), rtol=1e-4, atol=1e-6)


def test_a_discriminant_of_one_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="0 of 3"):
        discriminant(np.zeros((3, 2)), np.zeros(3, bool))


def test_the_interval_holds_the_area_and_is_of_people() -> None:
    people = np.repeat(np.arange(20), 4)
    truth = np.tile([False, True], 40)
    scores = RANDOM.normal(size=80) + truth
    low, high = interval(scores, truth, people)
    assert 0.5 < low < curve(scores, truth).area < high <= 1
    # Ten copies of every photo tell no more about people than one does.
    copies = interval(np.tile(scores, 10), np.tile(truth, 10), np.tile(people, 10), draws=500)
    assert copies[1] - copies[0] > 0.7 * (high - low)


@pytest.mark.parametrize("size", [(11, 11), (40, 31)])
def test_noise_is_measured_on_any_face(size: tuple[int, int]) -> None:
    face = tiny.texture_pixels(1, *size)
    for pixels in (face, np.zeros_like(face), np.full_like(face, 255)):
        assert np.isfinite(noise(pixels)).all()
        assert noise(pixels).shape == noise(face).shape


def test_noise_tells_a_fine_change_that_is_faint() -> None:
    faces = [tiny.texture_pixels(seed, 90, 90) for seed in range(24)]
    changed = [(face + RANDOM.integers(-2, 3, face.shape)).clip(0, 255).astype(np.uint8) for face in faces]
    rows = np.stack([noise(face) for face in (*faces, *changed)])
    truth = np.repeat([False, True], 24)
    learnt = np.tile(np.arange(24) < 16, 2)
    scores = discriminant(rows[learnt], truth[learnt]).score(rows[~learnt])
    assert curve(scores, truth[~learnt]).area == 1


def test_squeezing_moves_fine_detail_more() -> None:
    smooth = np.stack([tiny.texture_pixels(seed, 176, 176, sigma=12) for seed in range(4)])
    fine = (smooth + RANDOM.integers(-40, 41, smooth.shape)).clip(0, 255).astype(np.uint8)
    before, after = (squeezing(tiny.extractor(), canvases) for canvases in (smooth, fine))
    assert before.shape == (4, 3)
    assert (after > before).all()
