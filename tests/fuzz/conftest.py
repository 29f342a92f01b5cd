"""Random input to whatever reads files or takes arguments, drawn by Hypothesis.

``pytest tests/fuzz --hypothesis-profile=long`` gives a hundred times as much.
"""

from hypothesis import settings

settings.register_profile('long')
