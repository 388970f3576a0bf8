"""Sweeps: a search over keys of the config, by runs that are each a process and a folder of their own.

`run.py` makes a whole sweep, from its `state.py`: `methods.py` has the searches (`tpe.py` that of optuna),
`job.py` a run and its config, `journal.py` what has happened so far. `scheduler.py` is the loop that starts
the processes of `workers.py` and judges their `ends.py`. `finals.py` compares the best; `result.py`,
`table.py` and `page.py` have the results, `plan.py` estimates, and `check.py` refuses what cannot work.
"""
