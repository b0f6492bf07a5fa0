"""Judges: trained classifiers that say which species a sound is, recording or generated clip.

A judge scores; it never teaches: no loss and no choice of settings looks at its verdict on test recordings.
"""

from birdsd.evaluation.judges.birdnet import installed
from birdsd.evaluation.judges.find import find_judge
from birdsd.evaluation.judges.judge import Judge, Sound, WindowScores
from birdsd.evaluation.judges.judgement import Judgement, Verdict, judge_sounds

__all__ = [
    "WindowScores",
    "Judge",
    "Judgement",
    "Sound",
    "Verdict",
    "find_judge",
    "installed",
    "judge_sounds",
]
