"""Config sections: checked values, plain dictionaries and TOML in and out, documentation per key."""

from transformerlm.errors import Key, Problem, one_line
from transformerlm.schema.section import (
    SchemaError,
    Section,
    UnknownKeyError,
    field_docs,
    field_types,
    from_dict,
    is_section,
    merge,
    tables,
    to_dict,
    unknown,
)
from transformerlm.schema.toml import from_toml, read_toml, to_toml
from transformerlm.schema.values import (
    FilePath,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    NumThreads,
    PositiveFloat,
    PositiveInt,
    Probability,
    Text,
    describe,
)

__all__ = [
    "FilePath",
    "Fraction",
    "Key",
    "NonNegativeFloat",
    "NonNegativeInt",
    "NumThreads",
    "PositiveFloat",
    "PositiveInt",
    "Probability",
    "Problem",
    "SchemaError",
    "Section",
    "Text",
    "UnknownKeyError",
    "describe",
    "field_docs",
    "field_types",
    "from_dict",
    "from_toml",
    "is_section",
    "merge",
    "one_line",
    "read_toml",
    "tables",
    "to_dict",
    "to_toml",
    "unknown",
]
