"""Loggers of metrics: console, metrics.jsonl, CSV, TensorBoard, Weights & Biases, trackio; one protocol.

The keys of all metrics are in `names`. This is not Python's logging framework, which this package does not
use: messages for a person are lines on stderr.
"""

from transformerlm.logging import names
from transformerlm.logging.base import CombinedLogger, Logger, NullLogger
from transformerlm.logging.console import ConsoleLogger
from transformerlm.logging.csv import CsvFile
from transformerlm.logging.factory import check_backends, make_logger, resolved_run_name
from transformerlm.logging.history import RunHistory, read_history
from transformerlm.logging.jsonl import MetricsFile
from transformerlm.logging.norms import ActivationNorms, to_floats, weight_norms
from transformerlm.logging.pretty import PrettyConsole
from transformerlm.logging.samples import Sample, SamplesFile, read_samples
from transformerlm.logging.tensorboard import TensorBoardLogger
from transformerlm.logging.terminal import say, warn
from transformerlm.logging.trackio import TrackioLogger
from transformerlm.logging.wandb import WandbLogger

__all__ = [
    "ActivationNorms",
    "CombinedLogger",
    "ConsoleLogger",
    "CsvFile",
    "Logger",
    "MetricsFile",
    "NullLogger",
    "PrettyConsole",
    "RunHistory",
    "Sample",
    "SamplesFile",
    "TensorBoardLogger",
    "TrackioLogger",
    "WandbLogger",
    "check_backends",
    "make_logger",
    "names",
    "read_history",
    "read_samples",
    "resolved_run_name",
    "say",
    "to_floats",
    "warn",
    "weight_norms",
]
