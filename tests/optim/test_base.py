"""Training imports no compiler: that would take as long as all other imports."""

import subprocess
import sys

SCRIPT = """
import sys
import torch
from transformerlm.optim import AdamW, Muon

for kind in (AdamW, Muon):
    weight = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = kind([weight], lr=0.1)
    weight.square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2, 2))]})
print("torch._dynamo" in sys.modules)
"""


def test_optimizers_do_not_import_pytorchs_compiler():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
