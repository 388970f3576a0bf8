"""Loggers of metrics: console (JSON lines), metrics.jsonl, Weights & Biases; one protocol for all.

The keys of all metrics are in `names`. This is not Python's logging framework, which this package does not
use: messages for a person are lines on stderr.
"""

from transformerlm.logging import names
from transformerlm.logging.base import CombinedLogger, Logger, NullLogger
from transformerlm.logging.console import ConsoleLogger
from transformerlm.logging.factory import make_logger, resolved_run_name
from transformerlm.logging.jsonl import MetricsFile
from transformerlm.logging.norms import ActivationNorms, to_floats, weight_norms
from transformerlm.logging.terminal import say, warn
from transformerlm.logging.wandb import WandbLogger

__all__ = [
    "ActivationNorms",
    "CombinedLogger",
    "ConsoleLogger",
    "Logger",
    "MetricsFile",
    "NullLogger",
    "WandbLogger",
    "make_logger",
    "names",
    "resolved_run_name",
    "say",
    "to_floats",
    "warn",
    "weight_norms",
]
