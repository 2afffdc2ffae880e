"""`python -m finetune_operator`: settings, logging, then the process."""

from __future__ import annotations

import asyncio
import sys

import structlog

from finetune_api.version_floors import OPERATOR_FLOORS, unsafe_packages
from finetune_operator import log_output, process
from finetune_operator.errors import OperatorError, SettingsError
from finetune_operator.settings import load_settings


def main() -> int:
    """Run the operator; 2 stands for wrong settings."""
    log = structlog.get_logger()
    try:
        settings = load_settings()
        log_output.configure(settings.log_level)
        if problems := unsafe_packages(OPERATOR_FLOORS):
            raise OperatorError("; ".join(problems))
        return asyncio.run(process.run(settings))
    except SettingsError as error:
        log_output.configure("info")
        log.error("settings are wrong", problem=str(error))
        return 2
    except OperatorError as error:
        log.error("the operator ends", error=str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
