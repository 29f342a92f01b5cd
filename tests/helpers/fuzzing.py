"""How much random input the tests of ``tests/fuzz`` give, drawn by Hypothesis.

``pytest tests/fuzz --hypothesis-profile=long`` gives a hundred times as much, ``short`` a fifth.
"""

from hypothesis import settings


def examples(count: int) -> settings:
    """As many examples, the same in each run; other profiles give more, or a fifth of them."""
    profile = settings.get_current_profile_name()
    long = profile == 'long'
    return settings(
        max_examples=100 * count if long else -(-count // 5) if profile == 'short' else count,
        derandomize=not long,
        deadline=None,
        database=None,
    )
