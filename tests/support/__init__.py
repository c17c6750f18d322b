"""Small models, tokenizers, runs and slow second implementations that tests share."""

from pathlib import Path

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
