"""Programs that JAX traced, lowered and compiled, how often and how long, and which came from the compile cache."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax

from engine import programs

log = logging.getLogger(__name__)

TRACE = "/jax/core/compile/jaxpr_trace_duration"
LOWER = "/jax/core/compile/jaxpr_to_mlir_module_duration"
COMPILE = "/jax/core/compile/backend_compile_duration"
HIT = "/jax/compilation_cache/cache_hits"
MISS = "/jax/compilation_cache/cache_misses"
SAVED = "/jax/compilation_cache/compile_time_saved_sec"


@dataclass
class Program:
    """Cost of one function of that name, whatever its shapes. Counts, and seconds of each.

    traced: to a jaxpr. lowered: to StableHLO. compiled: by XLA. loaded: read from the persistent cache instead, or from
    where `engine.programs` keeps them, without the other two. Its seconds are those of reading. stored: written to the
    cache. saved: seconds that compiling had taken, when it was stored, less those of reading.
    """

    traced: int = 0
    lowered: int = 0
    compiled: int = 0
    loaded: int = 0
    stored: int = 0
    trace_seconds: float = 0.0
    lower_seconds: float = 0.0
    compile_seconds: float = 0.0
    load_seconds: float = 0.0
    saved_seconds: float = 0.0

    @property
    def made(self) -> int:
        """How many executables there are of it."""
        return self.compiled + self.loaded

    @property
    def seconds(self) -> float:
        """All that it cost."""
        return self.trace_seconds + self.lower_seconds + self.compile_seconds + self.load_seconds


@dataclass
class Recorder:
    """All programs by name, while the block of `record` runs; of every thread."""

    by_program: dict[str, Program] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = threading.local()  # the cache reports in the thread that compiles, without the program's name

    @property
    def made(self) -> dict[str, Program]:
        """Programs of which an executable was made, by XLA or from the cache; the dearest first."""
        with self._lock:
            executables = [(name, program) for name, program in self.by_program.items() if program.made]
        return dict(sorted(executables, key=lambda item: -item[1].seconds))

    def as_dict(self) -> dict[str, Any]:
        """Figures for JSON: programs (executables made), seconds, from_cache, and by_program, each of which has `made`,
        `from_cache` and `seconds`.
        """
        made = self.made
        return {
            "programs": sum(program.made for program in made.values()),
            "seconds": round(sum(program.seconds for program in made.values()), 2),
            "from_cache": sum(program.loaded for program in made.values()),
            "by_program": {
                name: {"made": program.made, "from_cache": program.loaded, "seconds": round(program.seconds, 3)}
                for name, program in made.items()
            },
        }

    def _event(self, event: str, **_: object) -> None:
        if event == HIT:
            self._inside.hit = True
        elif event == MISS:
            self._inside.stored = True

    def _duration(self, event: str, duration_secs: float, *, fun_name: str = "", **_: object) -> None:
        if event == SAVED:
            self._inside.saved = duration_secs
        if event not in (TRACE, LOWER, COMPILE, programs.LOAD):
            return
        if event in (COMPILE, programs.LOAD):
            log.debug("%s ready after %.2f s", _name(fun_name), duration_secs)
        with self._lock:
            program = self.by_program.setdefault(_name(fun_name), Program())
            if event == programs.LOAD:
                program.loaded += 1
                program.load_seconds += duration_secs
            elif event == TRACE:
                program.traced += 1
                program.trace_seconds += duration_secs
            elif event == LOWER:
                program.lowered += 1
                program.lower_seconds += duration_secs
            elif getattr(self._inside, "hit", False):
                program.loaded += 1
                program.load_seconds += duration_secs
                program.saved_seconds += getattr(self._inside, "saved", 0.0)
            else:
                program.compiled += 1
                program.compile_seconds += duration_secs
                program.stored += getattr(self._inside, "stored", False)
        if event == COMPILE:
            self._inside.__dict__.clear()


@contextmanager
def record() -> Iterator[Recorder]:
    """Records what is compiled while its block runs, in any thread of the process; blocks may be nested.

    Example:
        >>> with record() as compiled:
        ...     _ = jax.jit(jnp.sin)(1.0)
        >>> compiled.as_dict()["programs"]
        1
    """
    recorder = Recorder()
    jax.monitoring.register_event_listener(recorder._event)
    jax.monitoring.register_event_duration_secs_listener(recorder._duration)
    try:
        yield recorder
    finally:
        jax.monitoring.unregister_event_duration_listener(recorder._duration)
        jax.monitoring.unregister_event_listener(recorder._event)


def _name(text: str) -> str:
    """JAX calls one function `f` when it is traced and `jit(f)` or `jit_f` later."""
    match = re.fullmatch(r"p?jit\((.*)\)|p?jit_(.*)", text)
    return (match[1] or match[2] or text) if match else text
