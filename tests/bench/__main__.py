"""`python -m tests.bench [name…]`: runs all measures or those named; one JSON line each, and a table."""

from __future__ import annotations

import importlib
import sys
import traceback

from tests.bench.figures import Figure, as_json, as_table
from tests.bench.machine import Strangers

MEASURES = ("memory", "startup", "latency", "intake", "endtoend", "fairness", "sms")


def main(names: list[str]) -> int:
    """Runs the measures; 0 when every target was reached, 1 when not, 2 for a name there is not."""
    if unknown := [name for name in names if name not in MEASURES]:
        print(f"no such measure: {', '.join(unknown)}; there are {', '.join(MEASURES)}", file=sys.stderr)
        return 2
    code = 0
    for name in names or MEASURES:
        strangers = Strangers()
        try:
            figures = importlib.import_module(f"tests.bench.{name}").measure()
        except Exception:  # noqa: BLE001 - the other measures shall still run
            traceback.print_exc()
            code = 1
            continue
        figures.append(Figure("the machine was busy with something else", 100 * strangers.share, "%"))
        print(as_json(name, figures), flush=True)
        print(as_table(figures) + "\n", flush=True)
        code = code or int(any(figure.reached is False for figure in figures))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
