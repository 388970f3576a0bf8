"""Sweeps: a search over keys of the config, by runs that are each a process and a folder of their own.

`methods.py` has the searches (and `tpe.py` that of optuna), `job.py` a run and its config, `journal.py` the
state of a sweep, `workers.py` the processes, `scheduler.py` the loop that starts them, `finals.py` the
comparison of the best, `table.py` and `page.py` the results, `plan.py` an estimate, and `run.py` a whole sweep.
"""

from __future__ import annotations
