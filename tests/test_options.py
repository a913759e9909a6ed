"""The options of every command, their defaults and choices: what users and their scripts rely on.

`python tests/test_options.py` writes goldens/options.txt anew; a changed line needs one in CHANGELOG.md.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest

from engine import cli
from engine.commands import options, outcome, train_robust
from engine.config import RHO, STEPS, Mode, Recipe, SolverName

GOLDEN = Path(__file__).parent / "goldens" / "options.txt"
HEAVY = {"jax", "numpy", "PIL", "cv2", "scipy", "flax", "orbax", "asyncio", "logging", "rich.markdown"}


def contract() -> Iterator[str]:
    """A line for every argument of every command: its names, kind, default, and whether it has to be given."""
    for command in cli.COMMANDS:
        for argument in cli.app[command].assemble_argument_collection():
            if is_dataclass(argument.hint):
                continue
            default = argument.field_info.default
            shown = "required" if argument.required else "" if default is argument.field_info.empty else f"= {default}"
            yield " ".join([command, *argument.names, _kind(argument.hint), shown]).rstrip()


def _kind(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "|".join(get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return "|".join(_kind(part) for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) in (list, tuple):
        return f"{_kind(get_args(hint)[0])}..."
    return hint.__name__


def test_the_options_are_those_that_users_know() -> None:
    assert list(contract()) == GOLDEN.read_text().splitlines()


def test_no_help_is_written_twice() -> None:
    trees = [ast.parse(path.read_text()) for path in sorted(Path(options.__file__).parent.glob("*.py"))]
    keywords = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.keyword)]
    helps = Counter(ast.unparse(option.value) for option in keywords if option.arg == "help")
    assert len(helps) > 60
    assert {text: count for text, count in helps.items() if count > 1} == {}


def test_every_option_has_a_help() -> None:
    for command in cli.COMMANDS:
        for argument in cli.app[command].assemble_argument_collection():
            if not is_dataclass(argument.hint):
                assert argument.parameter.help, f"{command} {argument.names}"


def test_the_help_loads_nothing_that_it_does_not_show() -> None:
    script = (
        "import sys; from engine import cli\n"
        "cli.main(['--help']); print('\\0', *sys.modules, '\\0')\n"
        "for name in cli.COMMANDS: cli.main([name, '--help'])\n"
        "print('\\0', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    _, first, _, every = (set(part.split()) for part in done.stdout.split("\0"))
    assert "engine.commands.run" not in first
    assert {f"engine.commands.{name.replace('-', '_')}" for name in cli.COMMANDS} <= every
    assert not HEAVY & every
    assert len(first) < 300, "Python and cyclopts take 240"


def test_a_training_has_the_defaults_of_its_engine() -> None:
    pytest.importorskip("grain")
    from engine.robust.job import Options
    from engine.robust.presets import PRESETS

    defaults = train_robust.TrainOptions()
    assert defaults.preset in PRESETS
    assert (defaults.every, defaults.validation, defaults.freeze, defaults.precision, defaults.seed) == (
        Options.every,
        Options.held_out,
        Options.freeze,
        Options.precision,
        Options.seed,
    )


def test_the_defaults_are_those_of_the_engine() -> None:
    assert options.CloakOptions().recipe() == Recipe()
    assert options.CloakOptions(solver="paper").recipe().objective == "away"


def test_every_mode_and_solver_has_its_numbers() -> None:
    from engine.cloak.solver import SOLVERS

    assert set(get_args(SolverName)) == set(STEPS) == set(SOLVERS)
    assert set(get_args(Mode)) == set(RHO)
    assert all(set(steps) == set(RHO) for steps in STEPS.values())


def test_the_exit_codes_are_five() -> None:
    codes = [outcome.OK, outcome.FAILED, outcome.USAGE, outcome.NOTHING, outcome.INTERRUPTED]
    assert re.findall(r"(?<![\d,])(\d+) [a-z]", cli.CODES) == [str(code) for code in codes]


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(contract()) + "\n")
