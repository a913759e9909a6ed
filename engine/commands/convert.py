"""`cloak convert`: a published network's weights to an extractor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from engine.commands.options import Telling
from engine.commands.outcome import OK, print_json, usage


def convert(
    source: Annotated[Path | None, Parameter(help="The file with the weights.")] = None,
    /,
    *,
    layout: Annotated[str | None, Parameter("--as", help="Layout of the file; --list shows all.")] = None,
    name: Annotated[str | None, Parameter(help="Name of the extractor, for --extractors.")] = None,
    licence: Annotated[str, Parameter(help="Licence of the weights, for your records.")] = "unknown",
    out: Annotated[
        Path | None, Parameter(help="Folder to keep it in; default: FAWKES_ENGINE_HOME or your data.")
    ] = None,
    half: Annotated[bool, Parameter(negative="", help="float16 on disk, half the size.")] = False,
    replace: Annotated[bool, Parameter(negative="", help="Replace a converted extractor of that name.")] = False,
    list_: Annotated[bool, Parameter("--list", negative="", help="List what --as takes.")] = False,
    telling: Telling = Telling(),
) -> int:
    """Do it. Returns the exit code."""
    from engine.convert import layouts
    from engine.convert.conversion import convert as make

    if list_:
        print(layouts.listing())
        return OK
    if source is None or layout is None or name is None:
        return usage("convert takes SOURCE --as LAYOUT --name NAME; --list shows the layouts", as_json=telling.json)
    try:
        folder = make(source, layout=layout, name=name, out=out, licence=licence, half=half, replace=replace)
    except (ValueError, OSError, ImportError) as error:
        return usage(str(error), as_json=telling.json)
    if telling.json:
        print_json({"name": name, "path": str(folder)})
        return OK
    print(f"{name} is in {folder}")
    known = "" if out is None else f"with FAWKES_ENGINE_HOME={out}: "
    print(f"{known}cloak run PHOTOS --out DIR --extractors {name}")
    return OK
