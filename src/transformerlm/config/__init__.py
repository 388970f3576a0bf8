"""Every config key of this package: its meaning, its unit, its default.

A command's config (`commands`) is made of sections, one per table of its TOML file; a section has the same
meaning in every command. Precedence: the command line, then the file, then these defaults; where a run is
used, its own [generation] goes before the defaults. Nothing here touches the disk or imports torch, so that
`--help` answers at once.
"""

from transformerlm.config.commands import (
    MAX_TOKENS_PER_STEP,
    EvalConfig,
    ExportConfig,
    ImportConfig,
    InferConfig,
    InspectConfig,
    MakeDataConfig,
    MergeConfig,
    ReportConfig,
    ServeConfig,
    ShowConfig,
    StatusConfig,
    SweepConfig,
    TrainConfig,
    TrainTokenizerConfig,
    VerifyConfig,
)
from transformerlm.config.conversion import (
    ExportSection,
    ImportModelSection,
)
from transformerlm.config.data import (
    GPT2_PATTERN,
    STDLIB,
    CorpusConfig,
    DataConfig,
    MixtureConfig,
    TokenizerConfig,
)
from transformerlm.config.evaluation import (
    EvalSection,
)
from transformerlm.config.generation import (
    GenerationConfig,
    InferSection,
)
from transformerlm.config.inspection import (
    InspectSection,
    MergeSection,
    ShowSection,
    VerifySection,
)
from transformerlm.config.logging import (
    LoggingConfig,
    TrainLoggingConfig,
    WandbConfig,
)
from transformerlm.config.model import (
    ModelConfig,
)
from transformerlm.config.optimizer import (
    OptimizerConfig,
    ScheduleConfig,
)
from transformerlm.config.report import (
    ReportSection,
)
from transformerlm.config.runtime import (
    RuntimeConfig,
)
from transformerlm.config.serve import (
    ServeSection,
)
from transformerlm.config.status import (
    StatusSection,
)
from transformerlm.config.sweep import (
    SweepSection,
)
from transformerlm.config.training import (
    TrainingConfig,
    seconds_of,
)

__all__ = [
    "GPT2_PATTERN",
    "MAX_TOKENS_PER_STEP",
    "STDLIB",
    "CorpusConfig",
    "DataConfig",
    "EvalConfig",
    "EvalSection",
    "ExportConfig",
    "ExportSection",
    "GenerationConfig",
    "ImportConfig",
    "ImportModelSection",
    "InferConfig",
    "InferSection",
    "InspectConfig",
    "InspectSection",
    "LoggingConfig",
    "MakeDataConfig",
    "MergeConfig",
    "MergeSection",
    "MixtureConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ReportConfig",
    "ReportSection",
    "RuntimeConfig",
    "ScheduleConfig",
    "ServeConfig",
    "ServeSection",
    "ShowConfig",
    "ShowSection",
    "StatusConfig",
    "StatusSection",
    "SweepConfig",
    "SweepSection",
    "TokenizerConfig",
    "TrainConfig",
    "TrainLoggingConfig",
    "TrainTokenizerConfig",
    "TrainingConfig",
    "VerifyConfig",
    "VerifySection",
    "WandbConfig",
    "seconds_of",
]
