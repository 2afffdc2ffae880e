"""Short commands: run to the end, their output or a clear error."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness.errors import CommandError, RequirementError


def output(
    *command: str | Path,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 600,
    show: bool = False,
) -> str:
    """Run the command and return its standard output.

    `show` leaves the error output on the terminal: builds take minutes. Raises CommandError when
    it ends with an error, RequirementError when the program is not installed.
    """
    words = [str(word) for word in command]
    try:
        ended = subprocess.run(
            words,
            input=stdin,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            timeout=timeout,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=None if show else subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise RequirementError(f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(" ".join(words[:4]), 124, f"no end after {timeout:g} s") from error
    if ended.returncode != 0:
        raise CommandError(" ".join(words[:4]), ended.returncode, ended.stderr or "see above")
    return ended.stdout


def succeeds(*command: str | Path, env: Mapping[str, str] | None = None) -> bool:
    """Run the command, say only whether it ended well."""
    try:
        output(*command, env=env)
    except CommandError:
        return False
    return True
