"""How much random input the tests of ``tests/fuzz`` give, drawn by Hypothesis.

``pytest tests/fuzz --hypothesis-profile=long`` gives a hundred times as much.
"""

from hypothesis import settings


def examples(count: int) -> settings:
    """As many examples, the same in each run; a hundred times as many with the profile "long"."""
    long = settings.get_current_profile_name() == 'long'
    return settings(
        max_examples=100 * count if long else count,
        derandomize=not long,
        deadline=None,
        database=None,
    )
