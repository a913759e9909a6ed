"""Which checkpoints a wheel takes along: those that manifest.toml gives to it. Both pyproject.toml files build by this.

The manifest has the one decision, the key `package`; a checkpoint without it goes with fawkes-engine.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
MANIFEST = "manifest.toml"
ENGINE = "fawkes-engine"


def share(package: str) -> list[str]:
    """The names in this folder, of files and of whole folders, that the distribution `package` takes along.

    The manifest itself goes with every one: it says whose the weights are.
    """
    manifest = tomllib.loads((HERE / MANIFEST).read_text(encoding="utf-8"))
    tables = [*manifest["extractors"].values(), *manifest["detectors"].values(), manifest["population"]]
    return [MANIFEST, *(table["path"] for table in tables if table.get("package", ENGINE) == package)]


class Share(BuildHookInterface):
    """Adds the share of the distribution that is built, to its wheel and to its source distribution.

    The options `wheel` and `sdist` of the hook name the folder in each that it goes to. An editable wheel takes
    nothing: the engine finds this folder beside it there.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Runs before the archive is written. Hatchling fails if a name of the share is not there."""
        if version == "editable":
            return
        names = share(self.metadata.core.raw_name)
        if self.target_name == "sdist":
            names.append(Path(__file__).name)
        into = Path(self.config[self.target_name])
        build_data["force_include"].update({str(HERE / name): str(into / name) for name in names})
