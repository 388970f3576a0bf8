"""Forked children of a process whose threads have worked: they compute what it computes, and do not hang."""

import subprocess
import sys

import pytest

PROGRAM = """
import os
import torch
from tests.small_models import language_model, random_model, tokenizer
from transformerlm.nn import NextTokenLoss
from transformerlm.nn.fused import use_kernels_

torch.set_num_threads(2)
text = "The fox, they've said, met 1234 crows. " * 12
writers = [language_model(kernels=kernels, context_length=400, d_model=256) for kernels in (True, False)]
loss = NextTokenLoss(random_model(context_length=128, d_model=256).train())
use_kernels_(loss)

def work():
    ids = torch.arange(1024).reshape(8, 128) % 300
    texts = [lm.generate(["The fox", text], max_new_tokens=9, temperature=0) for lm in writers]
    loss(ids, ids).backward()
    tokens = tokenizer().encode(text), [ids.tolist() for ids in tokenizer().encode_batch([text] * 9)]
    return texts, tokens, round(loss(ids, ids).item(), 4)

expected = work()
pid = os.fork()
if pid == 0:
    os._exit(0 if work() == expected else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there is no fork, or another OpenMP")
def test_a_child_writes_trains_and_encodes_as_its_parent_does():
    # Were it to hang, the child would end with this process: `timeout` kills all of its group.
    command = ["timeout", "--signal=KILL", "100", sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr
