"""How long a person waits for the help: `cloak --help` and the help of every command, each in a process of its own.

The ceiling is a Python that imports cyclopts and rich and does nothing: the first row. Seconds of the processor are
given beside those of the clock, since others may use the machine. `--against FOLDER` measures another checkout of this
project in turn with this one.

Example: python benchmarks/start.py --against ../before --repeats 9
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
CEILING = "import cyclopts.help, rich.console, rich.table"
COUNT = "import sys; from engine import cli; cli.main({arguments}); print(len(sys.modules), file=sys.stderr)"


def run(folder: Path, *words: str) -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], cwd=folder, stdout=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime


def modules(folder: Path, arguments: list[str]) -> int:
    """How many modules there are after a call."""
    script = COUNT.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    return int(done.stderr.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--commands", default=",run,evaluate", help="whose help; an empty name is `cloak --help`")
    options = parser.parse_args()
    folders = {"here": HERE} | ({"against": options.against.resolve()} if options.against else {})
    calls = [[*([name] if name else []), "--help"] for name in options.commands.split(",")]
    rows = [("ceiling", "here", ["-c", CEILING], None)]
    rows += [(" ".join(["cloak", *call]), name, ["-m", "engine", *call], call) for call in calls for name in folders]
    taken: list[list[tuple[float, float]]] = [[] for _ in rows]
    for _ in range(options.repeats):
        for row, times in zip(rows, taken, strict=True):
            times.append(run(folders[row[1]], *row[2]))
    results = []
    for (call_name, where, _, call), times in zip(rows, taken, strict=True):
        clock, processor = (statistics.median(column) for column in zip(*times, strict=True))
        count = None if call is None else modules(folders[where], call)
        results.append(
            {
                "call": call_name,
                "checkout": where,
                "seconds": round(clock, 3),
                "least": round(min(seconds for seconds, _ in times), 3),
                "processor_seconds": round(processor, 3),
                "least_processor_seconds": round(min(seconds for _, seconds in times), 3),
                "modules": count,
            }
        )
        print(*(f"{key} {value}" for key, value in results[-1].items()), sep=", ")
    print(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg(), "repeats": options.repeats, "rows": results}))


if __name__ == "__main__":
    main()
