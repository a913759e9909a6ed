"""engine.bulk.crowd: the faces come back as they were added."""

from __future__ import annotations

import numpy as np
import pytest

from engine.bulk.crowd import Crowd, Seen

DRAW = np.random.default_rng(0)


def face(number: int) -> Seen:
    embeddings = tuple(DRAW.normal(size=size).astype(np.float32) for size in (3, 5))
    return Seen(f"{number:064x}", number % 3, embeddings, DRAW.normal(size=4).astype(np.float32))


def test_faces_come_back_as_they_were_added() -> None:
    faces = [face(number) for number in range(7)]
    crowd = Crowd(faces[:2])
    assert crowd[1].sha256 == faces[1].sha256
    crowd.extend(faces[2:])
    assert len(crowd) == 7
    for face_back, added in zip(crowd, faces, strict=True):
        assert (face_back.sha256, face_back.index) == (added.sha256, added.index)
        for row, expected in zip((*face_back.own, face_back.identity), (*added.own, added.identity), strict=True):
            np.testing.assert_array_equal(row, expected)
    np.testing.assert_array_equal(crowd.identities(), np.stack([seen.identity for seen in faces]))
    assert [seen.sha256 for seen in crowd[2:4]] == [seen.sha256 for seen in faces[2:4]]
    with pytest.raises(IndexError):
        crowd[7]


def test_nobody() -> None:
    assert list(Crowd()) == []
    assert Crowd().identities().size == 0
