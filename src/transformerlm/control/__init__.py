"""Status and control of a run from outside: who works in its folder, how far it is, and requests to it.

A training process records its state in `RUN/control/status.json` (`heartbeat`) and reads requests beside it
(`requests`), both through one object, `run_control.RunControl`. Other processes read the folder
(`run_status`) and ask (`asking`). `at_end` runs the user's command at the end of a run. Nothing here imports
torch, and no process is looked up by its id: the folder's lock tells whether a run is alive.
"""

from transformerlm.control.asking import ask
from transformerlm.control.requests import KINDS, Answer, Kind
from transformerlm.control.run_control import Outcome, RunControl
from transformerlm.control.run_status import RunStatus, find_runs, read_status

__all__ = ["KINDS", "Answer", "Kind", "Outcome", "RunControl", "RunStatus", "ask", "find_runs", "read_status"]
