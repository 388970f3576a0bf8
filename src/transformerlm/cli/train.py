"""transformerlm-train: from text, or from existing token files, to a trained model.

`torchrun --nproc-per-node N -m transformerlm.cli.train` trains on N devices, of one machine or several.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Sequence

from transformerlm.cli.command import Command, Mode, Option, run_command
from transformerlm.cli.terminal import Terminal
from transformerlm.cli.torchrun import on_ranks
from transformerlm.config import TrainConfig
from transformerlm.config.automatic import with_automatic
from transformerlm.distributed.collectives import ranks_from_environment
from transformerlm.kernels.threads import sleep_soon, wait_as_measured
from transformerlm.training import run
from transformerlm.training.timers import process_start


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    # Called as a function, it is not the whole process, which may be old.
    started = process_start() if argv is None else time.perf_counter()
    return on_ranks(lambda: run_command(command(started), argv), backend="nccl")


def command(started: float) -> Command[TrainConfig]:
    """Return the command.

    Args:
        started: see `run.train`.
    """
    planned = functools.update_wrapper(functools.partial(plan, started=started), plan)  # with its docstring
    return Command(
        TrainConfig,
        functools.partial(train, started=started),
        program="transformerlm-train",
        description=(
            "Train a language model; a tokenizer and token files that are missing are made first.\n"
            'What is not set is chosen ("auto") for the text, this machine and the time, unless [training]\n'
            "has max_steps, max_tokens or start_from."
        ),
        options=(Option("resume", ("training.resume",)),),
        modes=(Mode("plan", planned), Mode("verify-resume", verify_resume, number="STEPS")),
        automatic=with_automatic,
        resolve=resolve_runtime,
        wait=wait_for_work,
    )


def wait_for_work() -> None:
    """Choose how long waiting threads poll. Several ranks would measure it at the same time."""
    if ranks_from_environment().size == 1:
        wait_as_measured()
    else:
        sleep_soon()


def resolve_runtime(config: TrainConfig) -> TrainConfig:
    """Return the config with what "auto" in [runtime] stands for on this machine, for a model of known sizes.

    While the sizes are "auto" themselves, nothing is imported and measured; `--plan` chooses them too.
    """
    if config.automatic() or ranks_from_environment().size > 1:
        return config
    wait_for_work()
    from transformerlm.training.choices import resolved_config

    # A vocabulary that is not known yet makes no difference to what is measured.
    rows = config.model.vocab_size or config.tokenizer.vocab_size or 1
    known = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=rows))
    return dataclasses.replace(config, runtime=resolved_config(known).runtime)


def train(config: TrainConfig, started: float) -> int:
    """Make or reuse tokenizer and token files, train, and write samples.

    Args:
        started: see `run.train`.
    """
    return run.train(config, Terminal(), owns_process=True, started=started).exit_status


def plan(config: TrainConfig, started: float) -> None:
    """Estimate memory, disk and time of training from a few steps on the data, and do nothing else."""
    print(run.plan_run(config, Terminal(), owns_process=True, started=started))


def verify_resume(config: TrainConfig, steps: int) -> None:
    """Verify that a resumed run computes the same bits: STEPS steps from its newest checkpoint."""
    run.verify_run(config, steps, Terminal(), owns_process=True)


if __name__ == "__main__":
    sys.exit(main())
