"""The yardstick: stock aiosmtpd whose handler stores nothing (`python -m tests.bench.null_smtp PORT`)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.loopback import free_port
from tests.walks.service import listens


class Null:
    """Takes everything, keeps nothing."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        return "250 OK"


@contextmanager
def null_server() -> Iterator[tuple[int, int]]:
    """One in a process of its own: (port, process id)."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.null_smtp", str(port)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    try:
        end = time.monotonic() + 20
        while not listens(port):
            assert time.monotonic() < end, "the null server does not listen"
            time.sleep(0.05)
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Null(), hostname="null.example", loop=loop), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
