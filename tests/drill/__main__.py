"""`python -m tests.drill [name…] [cuts]`: runs all drills or those named; `kills 1000`, `sms 1000`: a thousand cuts."""

from __future__ import annotations

import importlib
import sys

from tests.bench.figures import as_json, as_table

DRILLS = ("failpoints", "faults", "kills", "sms")
CUTTING = ("kills", "sms")  # take the number of cuts


def main(words: list[str]) -> int:
    """Runs the drills; 0 when everything held, 1 when not, 2 for a name there is not."""
    cuts = [int(word) for word in words if word.isdigit()]
    names = [word for word in words if not word.isdigit()]
    if unknown := [name for name in names if name not in DRILLS]:
        print(f"no such drill: {', '.join(unknown)}; there are {', '.join(DRILLS)}", file=sys.stderr)
        return 2
    code = 0
    for name in names or DRILLS:
        figures = importlib.import_module(f"tests.drill.{name}").measure(*(cuts if name in CUTTING else ()))
        print(as_json(name, figures), flush=True)
        print(as_table(figures) + "\n", flush=True)
        code = code or int(any(figure.reached is False for figure in figures))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
