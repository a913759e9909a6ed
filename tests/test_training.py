from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_cloak
from faces_on_file import blank, canvases, save

from engine.evaluate.descent import Schedule
from engine.evaluate.protocol import NOBODY
from engine.evaluate.small_net import SmallNet
from engine.evaluate.training import FROM_SCRATCH, FineTuned, FromScratch

QUICK = replace(FROM_SCRATCH, epochs=1, batch=8, least=60, watch=3)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    tiny_cloak.provide(tmp_path_factory.mktemp("checkpoints") / "tiny")
    return "tiny"


def photos(folder: Path, people: int, shots: range) -> tuple[list[Path], np.ndarray]:
    saved = [
        (save(folder / f"{person}-{shot}.png", person, shot), person) for person in range(people) for shot in shots
    ]
    return [photo for photo, _ in saved], np.array([label for _, label in saved])


def test_from_scratch_learns_real_labels_and_not_made_up_ones(tmp_path: Path) -> None:
    learnt, labels = photos(tmp_path, 4, range(4))
    tests, truth = photos(tmp_path, 4, range(4, 6))
    tracker = FromScratch(canvases(), schedule=QUICK, width=8)
    history = tracker.learn(learnt, labels, [*tests, blank(tmp_path / "blank.png")])
    assert len(history.epochs) == len(history.named) == 3
    assert history.named[-1][-1] == NOBODY
    assert history.loss[-1] < history.loss[0]
    assert history.right(np.append(truth, NOBODY), slice(0, 8))[-1] >= 0.75
    assert tracker.extractors == ()
    # The labels of the first two people exchanged: it learns what it is told, not what would be right.
    swapped = np.array([1, 0, 2, 3])
    named = tracker.names(learnt, swapped[labels], tests)
    assert np.mean(named == swapped[truth]) >= 0.75


def test_fine_tuning_learns_and_says_of_which_network(network: str, tmp_path: Path) -> None:
    learnt, labels = photos(tmp_path, 4, range(3))
    tests, truth = photos(tmp_path, 4, range(3, 5))
    tracker = FineTuned(network, canvases(), schedule=Schedule(epochs=2, batch=4, rate=1e-3, watch=2))
    history = tracker.learn([*learnt, blank(tmp_path / "blank.png")], np.append(labels, 3), tests)
    assert history.right(truth)[-1] == 1
    assert (tracker.name, tracker.extractors) == ("fine-tuned tiny", ("tiny",))


def test_without_a_face_there_is_nothing_to_learn(network: str, tmp_path: Path) -> None:
    nobody = [blank(tmp_path / "blank.png")]
    for tracker in (FromScratch(canvases()), FineTuned(network, canvases())):
        with pytest.raises(ValueError, match="no face was found on any of the 1 photos"):
            tracker.names(nobody, np.array([0]), nobody)


def test_a_width_that_groups_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        SmallNet(3, width=12)
