"""Samples of a run: texts that its model writes during training and at the end.

They are drawn from random streams of their own ([runtime].seed and the row of each text), in evaluation mode:
training computes the same bits with and without them.
"""

from __future__ import annotations

import dataclasses
import time

import torch

from transformerlm.config import GenerationConfig
from transformerlm.errors import TransformerLMError
from transformerlm.evaluation.loss import Validation
from transformerlm.infer import Completion, complete, completion_values
from transformerlm.logging import Logger, SamplesFile, read_samples
from transformerlm.nn import TransformerLM
from transformerlm.tokenizer import Tokenizer
from transformerlm.training.learner import Learner
from transformerlm.training.timers import SAMPLING
from transformerlm.training.trainer import Trainer
from transformerlm.training.validating import TRIALS

TRIAL_TOKENS = 9
"""Tokens of each text that are written to find out how long the samples will take."""


class Samples:
    """The samples of a run: the prompts of [generation], continued by its model.

    Every rank has one; rank 0 writes.

    Args:
        logger: gets each text.
        file: keeps them in the run's folder.
    """

    def __init__(self, trainer: Trainer, tokenizer: Tokenizer, logger: Logger, file: SamplesFile) -> None:
        self._trainer, self._tokenizer, self._logger, self._file = trainer, tokenizer, logger, file

    def write(self) -> None:
        """Write the texts of the model as it is now, between two steps; called by all ranks."""
        trainer = self._trainer
        trainer.clock.spend_on_step(times=0)
        model = trainer.learner.whole_model()
        with trainer.ranks.while_rank_0_works():
            if trainer.ranks.is_main:
                self._write_or_warn(model)
        trainer.clock.spend(SAMPLING)
        trainer.rank_sync.sync()

    def write_result(self, model: TransformerLM, found: Validation | None) -> None:
        """Write the texts of the run's result, as the last ones of the file; called by rank 0.

        Args:
            model: the result.
            found: its validation.
        """
        step = found.step if found else self._trainer.step
        self._file.drop(step)  # from the same weights, if they were written during training
        self._write(model, step)

    def _write_or_warn(self, model: TransformerLM) -> None:
        trainer = self._trainer
        try:
            self._write(model, trainer.step)
        except (TransformerLMError, torch.OutOfMemoryError) as error:
            what = str(error).splitlines()[0]
            trainer.reporter.say(f"warning: step {trainer.step}: no samples: {what}; training goes on")

    def _write(self, model: TransformerLM, step: int) -> None:
        trainer, generation = self._trainer, self._trainer.config.generation
        for completion in continued(trainer, model, self._tokenizer, generation):
            values = completion_values(completion, generation)
            self._logger.log(values, trainer.step)
            self._file.add(values, step, trainer.clock.elapsed)


def continued(
    trainer: Trainer | Learner, model: TransformerLM, tokenizer: Tokenizer, generation: GenerationConfig
) -> list[Completion]:
    """Continue the prompts of [generation], in the precision of the run."""
    with trainer.runtime.autocast():
        return complete(model, tokenizer, generation, seed=trainer.config.runtime.seed)


def has_result(trainer: Trainer) -> bool:
    """Return True if the last samples of the run's folder are all those of its result."""
    generation, step = trainer.config.generation, trainer.chosen.step if trainer.chosen else trainer.step
    expected = [(step, text) for text in generation.prompts for _ in range(generation.num_samples)]
    found = [(sample.step, sample.prompt) for sample in read_samples(trainer.run.samples)]
    return found[len(found) - len(expected) :] == expected


def sampling_seconds(learner: Learner, tokenizer: Tokenizer) -> float:
    """Return the time that writing all samples once will take, from a few tokens of each.

    Rank 0 measures, all ranks call it. Kernels that it needs are loaded, or compiled, here already.
    """
    model, found = learner.whole_model(), 0.0
    with learner.ranks.while_rank_0_works():
        if learner.ranks.is_main and learner.config.generation.prompts:
            found = _measured_seconds(learner, model, tokenizer)
    (found,), *_ = learner.ranks.all_gather_numbers([found])
    return found


def _measured_seconds(learner: Learner, model: TransformerLM, tokenizer: Tokenizer) -> float:
    generation = learner.config.generation

    def seconds(max_new_tokens: int) -> tuple[float, int]:
        few = dataclasses.replace(generation, max_new_tokens=max_new_tokens)
        start = time.perf_counter()
        texts = continued(learner, model, tokenizer, few)
        return time.perf_counter() - start, max(len(text.token_ids) for text in texts)

    first, _ = min(seconds(1) for _ in range(TRIALS))
    some, number = min(seconds(TRIAL_TOKENS) for _ in range(TRIALS))
    return first + max(0.0, some - first) / max(1, number - 1) * (generation.max_new_tokens - 1)
