"""Models in several threads of a process compute what each computes alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.small_models import language_model, random_model
from transformerlm.config import OptimizerConfig
from transformerlm.nn import NextTokenLoss
from transformerlm.nn.fused import use_kernels_
from transformerlm.optim import make_optimizer

SETTINGS = {"max_new_tokens": 60, "num_samples": 3, "log_probs": True, "temperature": 1.1}


def write(lm, seed):
    """Texts, ids and log-probabilities of several calls, each of which starts and ends its use of kernels."""
    found = [lm.complete(["The fox", "x = ", ""], seed=seed + number, **SETTINGS) for number in range(4)]
    return [(text.text, text.token_ids, text.log_probs) for texts in found for text in texts]


def train():
    """Losses and weights of a small training with kernels."""
    generator = torch.Generator().manual_seed(1)
    loss_of = NextTokenLoss(random_model(seed=5).train())
    use_kernels_(loss_of)
    optimizer, losses = make_optimizer(loss_of, OptimizerConfig(lr=1e-2), kernels=True), []
    for _ in range(40):
        inputs, targets = torch.randint(300, (2, 8, 48), generator=generator)
        loss = loss_of(inputs, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, [parameter.detach().clone() for parameter in loss_of.parameters()]


@pytest.fixture(scope="module")
def models():
    return [language_model(kernels=True, seed=1), language_model(kernels=True, seed=2, qk_norm=True)]


def test_two_threads_that_write_and_one_that_trains_compute_what_each_computes_alone(models):
    jobs = [lambda: write(models[0], 0), lambda: write(models[1], 100), train]
    alone = [job() for job in jobs]
    start = threading.Barrier(len(jobs))

    def run(job):
        start.wait()
        return job()

    for _ in range(2):
        with ThreadPoolExecutor(len(jobs)) as pool:
            together = list(pool.map(run, jobs))
        assert together[:2] == alone[:2]
        assert together[2][0] == alone[2][0]
        for found, expected in zip(together[2][1], alone[2][1], strict=True):
            assert torch.equal(found, expected)
