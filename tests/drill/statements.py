"""kill -9 before each single statement of the transaction that makes a ticket: all of it stands, or nothing.

    python -m tests.drill.statements       (RINGBACK_CONFIG names a Ringback with one received mail and no worker)

For every n a forked child processes the mail and kills itself before its n-th statement; the parent looks what stands.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def main() -> None:
    """Prints {"statements": how many, "problems": […]}."""
    import gateway.desk  # noqa: F401
    import inbound.mime  # noqa: F401 - both here, once, and not in every child

    problems: list[str] = []
    number = 0
    while True:
        number += 1
        child = os.fork()
        if not child:
            _process_and_die(number)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        state = _look()
        if code == 0:
            break
        if code != -signal.SIGKILL:
            problems.append(f"statement {number}: the child ended with {code}")
        if state not in ((("new",), 0, 0, 0, 0), (("done",), 1, 2, 2, 2)):
            problems.append(f"statement {number}: half done: {state}")
        if number > 500:
            problems.append("it never ends")
            break
    if state[0] != ("done",):
        problems.append(f"at the end: {state}")
    print(json.dumps({"statements": number - 1, "problems": problems}))


def _process_and_die(number: int) -> None:
    """In the child: processes what waits, and dies before the n-th statement of its transaction."""
    from gateway import desk, store
    from gateway.config import load
    from gateway.model import database
    from inbound import mime

    try:
        config = load()
        store.connect(config)
        store.open_connection()
        obj: Any = database.obj
        run, count = obj.execute_sql, 0

        def counted(sql: str, *arguments: Any, **named: Any) -> Any:
            nonlocal count
            if obj.in_transaction():
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return run(sql, *arguments, **named)

        obj.execute_sql = counted
        understand = lambda waiting, staff: desk.Understood(mime.parse(waiting.raw, waiting.envelope, keep))  # noqa: E731
        with ThreadPoolExecutor(1) as pool:
            desk.process(desk.Desk(config, desk.keys_of(config), understand, pool))
    except BaseException as error:  # noqa: BLE001 - the child must end here, whatever happens
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def keep(content: bytes) -> str:
    """No attachment comes this way."""
    raise AssertionError(f"{len(content)} bytes to be kept")


def _look() -> tuple[tuple[str, ...], int, int, int, int]:
    """(states of the mailroom, tickets, entries, bodies, outgoing)."""
    from gateway.config import load

    path = load().folder / "ringback.db"
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection:

        def number(table: str) -> int:
            return int(connection.execute(f"select count(*) from {table}").fetchone()[0])  # noqa: S608

        states = tuple(line[0] for line in connection.execute("select state from inbound"))
        return states, number("ticket"), number("entry"), number("body"), number("outbox")


if __name__ == "__main__":
    main()
