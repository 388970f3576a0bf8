"""Logger for trackio. Only this module imports trackio, and only in a subprocess (tracker.py).

trackio keeps its runs in a local database ($TRACKIO_DIR, else below Hugging Face's cache), which `trackio
show` opens in a browser; no account and no network.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from transformerlm.logging.base import Logger, Value
from transformerlm.logging.tracker import Kind, Tracker

if TYPE_CHECKING:
    from trackio.run import Run


class TrackioLogger(Tracker):
    """Logger that sends records and config to a trackio run.

    trackio cannot delete single records. So a process that goes on with a stopped run, and a roll-back, begin
    a run `NAME from step N` of the same group, in which no step is twice.

    Args:
        project: name of the project.
        run_name: name of the run and of its group.
        fallback: see `Tracker`.
    """

    def __init__(self, project: str, run_name: str, fallback: Logger | None = None) -> None:
        settings = {"project": project, "name": run_name, "group": run_name}
        super().__init__(Kind("trackio", TrackioServer), settings, fallback)


class TrackioServer:
    """The Logger's methods, carried out with trackio. A run begins with its first record."""

    run: Run | None = None

    def start(self, settings: dict[str, Any]) -> dict[str, str]:
        """See `tracker.Server`."""
        # It only warns of what it could not write.
        warnings.showwarning = lambda message, *_, **__: self.warned.append(str(message))
        self.settings, self.name, self.config = settings, settings["name"], dict[str, Any]()
        self.warned: list[str] = []
        show = f'trackio show --project "{settings["project"]}"'
        import trackio  # noqa: F401 - here, where there is time for it

        return {"run": f"run {self.name}; `{show}` shows it"}

    def log(self, values: dict[str, Value], step: int | None) -> dict[str, str] | None:
        """See `tracker.Server`."""
        import trackio

        if self.run is None:
            # Without figures of the machine, which would be those of this subprocess.
            own = {"auto_log_gpu": False, "auto_log_cpu": False, "embed": False}
            arguments: dict[str, Any] = {**self.settings, **own, "name": self.name, "config": self.config}
            self.run = trackio.init(**arguments)
        self.run.log(values, step=step)
        return self._warning()

    def log_config(self, config: dict[str, Any]) -> None:
        """See `tracker.Server`."""
        self.config = config

    def log_artifact(self, path: str, name: str, kind: str) -> None:
        """Do nothing: files stay where they are."""

    def rewind(self, step: int) -> None:
        """Begin another run, unless the run is at its beginning."""
        self.close()
        if step:
            self.name = f"{self.settings['name']} from step {step}"

    def close(self, exit_code: int = 0) -> dict[str, str] | None:
        """See `tracker.Server`."""
        run, self.run = self.run, None
        if run:
            run.finish()  # type: ignore[no-untyped-call]
        return self._warning()

    def _warning(self) -> dict[str, str] | None:
        warned, self.warned = self.warned, []
        return {"warning": " ".join(warned[0].split())} if warned else None
