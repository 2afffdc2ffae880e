"""Shows a run as it goes: a live table on a terminal, one line per change elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from finetune_cli.run_rows import Row, State
from finetune_operator.observed import Key

MARKS = {
    State.WAITING: Text("·", "dim"),
    State.DONE: Text("✓", "bold green"),
    State.FAILED: Text("✗", "bold red"),
    State.BLOCKED: Text("!", "yellow"),
    State.SUSPENDED: Text("⏸", "yellow"),
}
STATUS_STYLES = {
    State.DONE: "green", State.FAILED: "bold red", State.BLOCKED: "yellow",
    State.SUSPENDED: "yellow", State.RUNNING: "cyan",
}  # fmt: skip
HINT = "Ctrl-C writes a checkpoint and stops; the same command goes on from there"
SPARKS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 32
LEAST_BAR, MOST_BAR, WIDTH_WITHOUT_BAR = 8, 24, 108
PLAIN_STEP_PERCENT = 10


class View(Protocol):
    """Where a run is shown."""

    def show(self, rows: Sequence[Row]) -> None:
        """Show the present state of all objects."""
        ...

    def say(self, text: str) -> None:
        """Add a line that stays."""
        ...

    def close(self) -> None:
        """Leave what was shown last on the screen."""
        ...


def duration(seconds: float) -> str:
    """Return minutes and seconds, with hours from one hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def numbers(row: Row) -> str:
    """Return step, loss, speed and remaining time of a run, as far as they are known."""
    parts = []
    if row.total_steps:
        parts.append(f"step {row.step}/{row.total_steps}")
    if row.loss is not None:
        parts.append(f"loss {row.loss:.3f}")
    if row.tokens_per_second:
        parts.append(f"{row.tokens_per_second:,.0f} tok/s")
    if row.eta_seconds is not None:
        parts.append(f"ETA {duration(row.eta_seconds)}")
    return "  ".join(parts)


def sparkline(values: Sequence[float]) -> str:
    """Return the course of a number in one line of blocks."""
    stride = max(1, -(-len(values) // SPARKLINE_WIDTH))
    means = [
        sum(part) / len(part)
        for part in (values[start : start + stride] for start in range(0, len(values), stride))
    ]
    low, high = min(means), max(means)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(SPARKS[round((mean - low) * scale)] for mean in means)


class LiveView:
    """A table that is drawn again as the run goes."""

    def __init__(self, console: Console) -> None:
        self._bar_width = max(LEAST_BAR, min(MOST_BAR, console.width - WIDTH_WITHOUT_BAR))
        self._live = Live(console=console, refresh_per_second=8, transient=False)
        self._spinners: dict[Key, Spinner] = {}
        self._losses: defaultdict[Key, dict[int, float]] = defaultdict(dict)
        self._live.start()

    def show(self, rows: Sequence[Row]) -> None:
        """Draw all objects anew."""
        for row in rows:
            if row.loss is not None and row.step:
                self._losses[row.key][row.step] = row.loss
        hint = Text(HINT if any(not row.state.settled for row in rows) else "", "dim italic")
        self._live.update(Group(Text(), self._table(rows), Text(), hint))

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._live.console.print(Text(text, "dim"))

    def close(self) -> None:
        """Stop drawing; the last table stays."""
        self._live.stop()

    def _table(self, rows: Sequence[Row]) -> Table:
        table = Table.grid(padding=(0, 2), expand=False)
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, min_width=10)
        table.add_column(overflow="fold")
        for row in rows:
            style = STATUS_STYLES.get(row.state, "dim")
            title = Text.assemble((f"{row.key.kind}/", "dim"), (row.key.name, "bold"))
            table.add_row(self._mark(row), title, Text(row.status, style), self._detail(row))
            losses = [loss for _, loss in sorted(self._losses[row.key].items())]
            if row.state is State.RUNNING and len(losses) > 1:
                course = Text.assemble(("loss ", "dim"), (sparkline(losses), "magenta"))
                table.add_row("", "", "", course)
        return table

    def _mark(self, row: Row) -> Text | Spinner:
        if row.state is not State.RUNNING:
            return MARKS[row.state]
        return self._spinners.setdefault(row.key, Spinner("dots", style="cyan"))

    def _detail(self, row: Row) -> Group | Text | Table:
        if row.state is not State.RUNNING or not (row.percentage or row.total_steps):
            return Text(row.message, "" if row.state is State.FAILED else "dim")
        line = Table.grid(padding=(0, 2))
        bar = ProgressBar(
            total=100, completed=row.percentage, width=self._bar_width, complete_style="cyan",
            finished_style="cyan",
        )  # fmt: skip
        line.add_row(bar, Text(f"{row.percentage:3}%", "cyan"), Text(numbers(row)))
        return line


class PlainView:
    """One line per change, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[Key, tuple[str, str, int]] = {}

    def show(self, rows: Sequence[Row]) -> None:
        """Print the objects that changed their status, or moved by ten percent."""
        for row in rows:
            message = "" if row.state is State.RUNNING else row.message
            shown = (row.status, message, row.percentage // PLAIN_STEP_PERCENT)
            if self._shown.get(row.key) == shown:
                continue
            self._shown[row.key] = shown
            share = f"{row.percentage}%" if row.state is State.RUNNING and row.percentage else ""
            parts = (row.title, row.status, share, numbers(row) or row.message)
            self._print("  ".join(part for part in parts if part))

    def say(self, text: str) -> None:
        """Print a line."""
        self._print(text)

    def close(self) -> None:
        """Nothing is held back."""

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def view_for(console: Console) -> View:
    """Return the view that fits where the output goes."""
    return LiveView(console) if console.is_terminal else PlainView(console)
