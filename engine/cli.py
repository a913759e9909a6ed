"""The command `cloak`: its commands by name, and how a call ends. Each command is a module of `engine.commands`.

Whatever goes wrong is one sentence on stderr and an exit code, `CODES`. A traceback is shown only on request
(`--verbose`). A command is imported when it is called, so that the help is there at once.
"""

from __future__ import annotations

import errno
import sys
from contextlib import ExitStack
from pathlib import Path

from cyclopts import App, Argument, CycloptsError, MissingArgumentError
from rich.console import Console

from engine import __version__, interrupt, terminal
from engine.commands.outcome import FAILED, INTERRUPTED, NOTHING, OK, USAGE, failed, interrupted, say, usage

__all__ = ["CODES", "FAILED", "INTERRUPTED", "NOTHING", "OK", "USAGE", "app", "main"]

CODES = (
    "Exit codes: 0 all done. 1 a photo failed or has a face that is not protected, or the command was cut short (full "
    "disk, full memory, a device). The same call goes on from there. 2 something has to be put right before anything "
    "can begin (the arguments, --out, its manifest, a missing device). 3 nothing to do. 130 interrupted."
)
"""Meaning of the exit codes, for the help."""

COMMANDS = {
    "run": "Cloak photos. A second call with the same --out goes on where the first one ended.",
    "status": "Say what became of every photo of an output folder: which are protected, which are not, and why.\n\n"
    "Exit codes here: 0 every face that was found is protected. 1 a photo failed or has a face that is not. 2 no run "
    "has written there, or a manifest cannot be read. 3 no photos.",
    "verify": "Measure what a cloak changed: DSSIM at native size (0 for none), largest change of a pixel (of 255). By "
    "extractor it says how far each face's embedding moved (0 to 2).\n\n"
    "Exit codes here: 0 measured. 1 both show the same pixels, or they are no photo and its cloaked version. 2 one "
    "cannot be read, or their sizes differ.",
    "models": "List the extractors: size, licence, source, accuracy, robust or not, and which of them `cloak run` "
    "takes by default, with their weights. With a NAME, all there is to say of that one.",
    "convert": "Make an extractor of a published network's weights; the extra `convert` reads most kinds of file.",
    "evaluate": "Measure whether cloaks protect: trackers, floors, the paper's figures and its critics'. Resumes.",
    "evaluate-extractor": "Judge an extractor as a surrogate: accuracy on clean photos, shift under attack, and how "
    "far its cloaks carry.",
    "train-robust": "Train an extractor against an adversary. The same call again goes on where the last one ended.",
    "bench": "Measure speed, with its quality, on this machine. The last line of output is always one JSON object.",
}
"""Every command with its help: the function of that name in the module of that name."""

app = App(
    name="cloak",
    version=__version__,
    help="Cloak photos against face recognition: small changes that mislead models trained on them.",
    help_format="plaintext",  # another one would load a parser of it
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    help_epilogue=CODES,
)
for _place, (_name, _help) in enumerate(COMMANDS.items()):
    _function = _name.replace("-", "_")
    app.command(f"engine.commands.{_function}:{_function}", name=_name, help=_help, sort_key=_place)


def main(arguments: list[str] | None = None) -> int:
    """The console script. Returns the exit code; never raises an exception, whatever happens to the output."""
    words = sys.argv[1:] if arguments is None else arguments
    with ExitStack() as stack:
        if arguments is None:
            stack.enter_context(interrupt.prompt())
        output, _ = stack.enter_context(terminal.guarded())
        code = _called(words, output)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if output.lost is not None and output.lost.errno != errno.EPIPE:
            from engine import faults

            say(f"cloak: the output could not be written ({faults.words(output.lost)}): give it a place with room")
            code = code if code not in (OK, NOTHING) else FAILED
    return code


def _called(words: list[str], output: terminal.Stream) -> int:
    """The exit code of a command. output: for the help, which has colours of its own."""
    as_json = "--json" in words
    with ExitStack() as stack:
        try:
            if "" in words:
                return usage("an argument is empty: is a variable unset?", as_json=as_json)
            if words and not {"--help", "-h", "--version"} & set(words):
                from engine import faults

                if said := faults.too_little_memory():
                    return usage(said, as_json=as_json)
                if "--verbose" in words:
                    from engine.commands.verbose import verbose

                    stack.enter_context(verbose())
            console = Console(file=output)  # type: ignore[arg-type]
            result = app(words, exit_on_error=False, print_error=False, console=console)
            return result if isinstance(result, int) else OK
        except CycloptsError as error:
            said = _mistake(error)
        except KeyboardInterrupt:
            return interrupted("The same command, without any --restart, goes on from where it ended.", as_json=as_json)
        except Exception as error:
            from engine import faults

            said = faults.of_machine(error) or faults.of_disk(error) or faults.unexpected(error)
            return (usage if faults.no_devices(error) else failed)(said, as_json=as_json)
    return usage(said, as_json=as_json)


def _mistake(error: CycloptsError) -> str:
    """A mistake in the arguments, and the help that tells more."""
    chain = tuple(error.command_chain or ())
    command = " ".join(("cloak", *chain))
    said = str(error)
    if isinstance(error, MissingArgumentError) and chain and error.argument is not None and error.keyword is None:
        needed = (_spelled(argument) for argument in app[chain[0]].assemble_argument_collection() if argument.required)
        said = f"{_spelled(error.argument)} is missing. Usage: {' '.join((command, *needed))} [OPTIONS]."
    return f"{said} `{command} --help` tells more."


def _spelled(argument: Argument) -> str:
    return f"{argument.name} DIR" if argument.name.startswith("--") and argument.hint is Path else argument.name


if __name__ == "__main__":
    sys.exit(main())
