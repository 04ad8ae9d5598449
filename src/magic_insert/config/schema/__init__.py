"""Every value a user can set, as frozen dataclasses: one per configuration group and one per job.

Field types are checked when Hydra composes, ranges (`__post_init__`) when `config.freeze` turns the result into these
classes. Defaults live in conf/*.yaml where a group has several choices, and here where there is only one.
"""

from magic_insert.config.schema.bootstrap import BootstrapConfig, ReviewConfig
from magic_insert.config.schema.evaluation import BenchmarkConfig, EvaluateConfig, SubjectPlopConfig
from magic_insert.config.schema.export import ExportConfig
from magic_insert.config.schema.foundation import FoundationConfig
from magic_insert.config.schema.insertion import InsertionConfig, RemoveConfig
from magic_insert.config.schema.jobs import (
    MAX_PICTURES,
    CardConfig,
    DemoConfig,
    InsertConfig,
    PersonalizeConfig,
    StatusConfig,
    ToyboxConfig,
)
from magic_insert.config.schema.launch import ExecConfig
from magic_insert.config.schema.parts import (
    InserterConfig,
    LoggerConfig,
    ModelConfig,
    SamplingConfig,
    SegmenterConfig,
    StyleConfig,
)
from magic_insert.config.schema.personalization import PersonalizationConfig, ValidationConfig
from magic_insert.config.schema.study import ProtocolConfig, ReportConfig, StudyConfig
from magic_insert.config.schema.stylizers import PoseConfig, StylizerConfig

__all__ = [
    "MAX_PICTURES",
    "BenchmarkConfig",
    "BootstrapConfig",
    "CardConfig",
    "DemoConfig",
    "EvaluateConfig",
    "ExecConfig",
    "ExportConfig",
    "FoundationConfig",
    "InsertConfig",
    "InserterConfig",
    "InsertionConfig",
    "LoggerConfig",
    "ModelConfig",
    "PersonalizationConfig",
    "PersonalizeConfig",
    "PoseConfig",
    "ProtocolConfig",
    "RemoveConfig",
    "ReportConfig",
    "ReviewConfig",
    "SamplingConfig",
    "SegmenterConfig",
    "StatusConfig",
    "StudyConfig",
    "StyleConfig",
    "StylizerConfig",
    "SubjectPlopConfig",
    "ToyboxConfig",
    "ValidationConfig",
]
