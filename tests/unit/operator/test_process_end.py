"""A process that is to end does, whatever ignores its cancellation."""

from __future__ import annotations

import subprocess
import sys

NEVER_ENDING = """
import asyncio
from finetune_operator import process

process.ENDING_SECONDS = 0.1

async def deaf():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

async def main():
    asyncio.get_running_loop().deaf = asyncio.create_task(deaf(), name="a deaf watch")
    await asyncio.sleep(0)
    process.end_in_time()

asyncio.run(main())
"""


def test_a_process_ends_without_a_task_that_does_not() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", NEVER_ENDING], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 1, ended.stderr
    assert "a deaf watch" in ended.stdout + ended.stderr
