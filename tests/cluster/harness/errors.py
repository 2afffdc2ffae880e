"""Errors of the test cluster.

HarnessError              said to the person in one sentence, without a traceback
├── RequirementError      the machine lacks something: root, Go, disk, a package
├── CommandError          a command failed; carries its error output
└── NotReadyError         something did not become ready in time; names its log
"""


class HarnessError(Exception):
    """The test cluster cannot do what was asked."""


class RequirementError(HarnessError):
    """The machine lacks something that the cluster needs."""


class CommandError(HarnessError):
    """A command ended with an error."""

    def __init__(self, command: str, code: int, stderr: str) -> None:
        super().__init__(f"{command}: exit code {code}: {stderr.strip()[-2000:]}")
        self.code = code
        self.stderr = stderr


class NotReadyError(HarnessError):
    """Something did not become ready in its time."""
