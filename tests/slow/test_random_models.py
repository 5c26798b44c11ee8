"""The lens and the account from rows agree on thousands of random models."""

import os

import pytest
from hypothesis import HealthCheck, event, given, settings

from support.grammar import Recipe, recipes
from support.random_models import follow

EXAMPLES = int(os.environ.get("TELESCOPE_EXAMPLES", "2000"))


@pytest.mark.slow
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
@given(recipes())
def test_the_lens_agrees_with_the_account(recipe: Recipe):
    event(follow(recipe))
