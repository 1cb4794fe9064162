"""The lessons of `make learn`: what to predict before each, and the hints for each experiment."""
from typing import NamedTuple

from common.stages import stages_of
from laboratory.experiments.tables import questions


class Lesson(NamedTuple):
    stage: str  # that the reader's server becomes with it
    prediction: str  # a question, asked before the lesson begins


LESSONS = {stage.name: Lesson(stage.name, f'What does the server do before {stage.name}?')
           for part in ('part3', 'part2', 'part4') for stage in stages_of(part)[1 + (part == 'part4'):]
           if stage.name != 'part4-final'}
HINTS = {experiment.__name__: (f'what to look at in {experiment.__name__}', 'the idea', 'the place')
         for part in ('part3', 'part4') for experiment in questions(part)}
