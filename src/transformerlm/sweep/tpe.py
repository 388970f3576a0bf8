"""optuna: its sampler for `method = "tpe"`, and its journal for optuna-dashboard.

The journal of the sweep is the truth. For each proposal a study is made in memory from the results that it
has, in the order of trials, so that a trial that was running when the scheduler was killed is no concern of
optuna's: nothing stays "running", no heartbeat ends a living trial. Proposals are recorded before they are
used. With one worker they depend on the seed and the results alone; with several also on which trials had
ended when a worker became free, which a repetition of the whole sweep would not find the same.

`mirror` writes the results into a file of optuna's own, for its dashboard; the sweep never reads it.
"""

from __future__ import annotations

import contextlib
import json
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformerlm.config import SweepSection
from transformerlm.config.space import Axis, Choices
from transformerlm.errors import ConfigError, Key
from transformerlm.storage.files import committed_file
from transformerlm.sweep.job import Job
from transformerlm.sweep.journal import Journal, Result

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

LOCK_SECONDS = 3
"""Age of a lock of optuna's journal after which its holder counts as killed: it is held for milliseconds."""
JOB = "job"
"""Attribute of a trial in optuna's journal: the name of its run."""


class Tpe:
    """Tree-structured Parzen estimator of optuna.

    Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011;
    Akiba et al., "Optuna", 2019.
    """

    def __init__(self, axes: Sequence[Axis], section: SweepSection, num_trials: float) -> None:
        self._axes, self._seed, self._num_trials = axes, section.seed, num_trials

    def jobs(self, journal: Journal) -> Iterator[Job]:
        """Yield the trials that were proposed, then one more at a time, which is recorded first."""
        trial = 0
        while trial < self._num_trials:
            known = journal.jobs.get(Job(trial, {}).name)
            if known is None:
                known = Job(trial, propose(self._axes, self._seed, trial, journal))
                journal.add(known)
            yield known
            trial += 1


def require_optuna() -> None:
    """Refuse the use of optuna where it is not installed.

    Raises:
        ConfigError: it is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        what = 'needs the package optuna: pip install "transformerlm[sweep]"'
        raise ConfigError(what, key=Key("sweep", "method")) from None


def propose(axes: Sequence[Axis], seed: int, trial: int, journal: Journal) -> dict[str, Any]:
    """Return the values of a trial, by the results of those before it."""
    import optuna

    with _quiet():
        sampler = optuna.samplers.TPESampler(seed=random.Random(f"{seed} {trial}").getrandbits(32))
        study = optuna.create_study(direction="minimize", sampler=sampler)
        known = sorted((job for job in journal.jobs.values() if job.is_search), key=lambda job: job.trial)
        study.add_trials(_frozen(axes, job.values, journal.results.get(job.name)) for job in known)
        asked = study.ask(_distributions(axes))
    return {axis.key: _value(axis, asked.params[axis.key]) for axis in axes}


def _distributions(axes: Sequence[Axis]) -> dict[str, optuna.distributions.BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for axis in axes:
        if isinstance(axis, Choices):
            found[axis.key] = CategoricalDistribution([_label(value) for value in axis.values])
        elif axis.is_whole:
            found[axis.key] = IntDistribution(int(axis.low), int(axis.high), log=axis.scale == "log")
        else:
            found[axis.key] = FloatDistribution(axis.low, axis.high, log=axis.scale == "log")
    return found


def _label(value: Any) -> Any:
    """Return a value as optuna takes it: a list as text."""
    return json.dumps(value) if isinstance(value, list) else value


def _value(axis: Axis, found: Any) -> Any:
    if isinstance(axis, Choices):
        return next(
            value for value in axis.values if _label(value) == found and type(_label(value)) is type(found)
        )
    return axis.rounded(found)


def _frozen(
    axes: Sequence[Axis], values: Mapping[str, Any], result: Result | None, job: str = ""
) -> FrozenTrial:
    """Return a trial as optuna has it. One without a metric is "pruned", which its sampler takes for bad."""
    from optuna.trial import TrialState, create_trial

    states = {"complete": TrialState.COMPLETE, "diverged": TrialState.PRUNED, "refused": TrialState.PRUNED}
    state = TrialState.RUNNING if result is None else states.get(result.outcome, TrialState.FAIL)
    about = {JOB: job, "outcome": result.outcome, "reason": result.reason} if result and job else {}
    return create_trial(
        state=state,
        value=result.value if result else None,
        params={axis.key: _label(values[axis.key]) for axis in axes},
        distributions=_distributions(axes),
        user_attrs=about,
    )


def mirror(path: Path, name: str, axes: Sequence[Axis], jobs: Sequence[Job], journal: Journal) -> None:
    """Bring optuna's journal up to date: a trial for each of these jobs that has ended.

    A file that a kill has left unreadable is written anew.

    Args:
        name: of the study.
    """
    with _quiet():
        ended = [job for job in jobs if job.name in journal.results]
        try:
            study = _open_study(path, name)
        except Exception:  # of any kind: optuna says in many ways that a line was cut
            with committed_file(path) as file:
                file.truncate()
            study = _open_study(path, name)
        known = {trial.user_attrs.get(JOB) for trial in study.get_trials(deepcopy=False)}
        for job in ended:
            if job.name not in known:
                study.add_trial(_frozen(axes, job.values, journal.results[job.name], job.name))


def _open_study(path: Path, name: str) -> optuna.Study:
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    lock = JournalFileOpenLock(str(path), grace_period=LOCK_SECONDS)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    return optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep optuna from writing of its own to stderr."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
