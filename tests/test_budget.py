"""How many threads and bytes photos may take at once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import pytest
from PIL import Image

from engine.bulk import budget


def test_a_footprint_is_told_from_the_header_and_never_waits(tmp_path: Path) -> None:
    """A hundred times the pixels take close to a hundred times as much; what is no photo takes its own bytes."""
    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")
    Image.new("RGB", (3000, 2000)).save(tmp_path / "large.png")
    small, large = (budget.footprint(tmp_path / name) for name in ("a.png", "large.png"))
    assert budget.footprint((tmp_path / "large.png").read_bytes()) == large
    assert 3000 * 2000 * 10 < large - small < 3000 * 2000 * 20
    (tmp_path / "b.png").write_bytes(b"broken")
    os.mkfifo(tmp_path / "c.png")
    for name in ("b.png", "c.png", "gone.png"):
        assert budget.footprint(tmp_path / name) < 100
    assert budget.footprint(Path("a\0b")) == budget.footprint(Path("\ud800.jpg")) == 0


def test_a_budget_holds_and_lets_one_in_whatever_it_takes() -> None:
    room, lock = budget.Budget(100), Lock()
    taken, most = 0, 0

    def work(cost: int) -> None:
        nonlocal taken, most
        with room.hold(cost):
            with lock:
                taken += cost
                most = max(most, taken)
                assert taken <= 100 or taken == cost
            with lock:
                taken -= cost

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [40, 30, 500, 20, 70, 60] * 20))
    assert most == 500


def test_what_may_be_taken_is_a_share_of_what_there_is() -> None:
    assert budget.LEAST <= budget.allowed() <= max(budget.available(), budget.LEAST)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process to cores")
def test_threads_are_as_many_as_the_cores_that_the_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "_CGROUP", tmp_path)  # a container without a limit
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    assert budget.cores() == 12
    for said, cores in (
        ("max 100000", 12),
        ("250000 100000", 3),
        ("5000 100000", 1),
        ("9900000 100000", 12),
        ("?", 12),
    ):
        (tmp_path / "cpu.max").write_text(f"{said}\n")
        assert budget.cores() == cores, said
