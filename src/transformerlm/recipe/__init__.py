"""From a text, a machine and a time to a config: what is measured, the scaling law, and the choice."""

from transformerlm.recipe.choice import Budget, Candidate, choose, completed
from transformerlm.recipe.speed import TrainingSpeed, measure_speed
from transformerlm.recipe.text import TextFacts, survey

__all__ = [
    "Budget",
    "Candidate",
    "TextFacts",
    "TrainingSpeed",
    "choose",
    "completed",
    "measure_speed",
    "survey",
]
