"""mooer_tk: train, run and score large language models that listen (MooER, arXiv 2408.05101).

The recipes under egs/ are the way in; this package holds what their stages call.
"""

__version__ = "0.1.0"
