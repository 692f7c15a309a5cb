"""Mixtures of experts in place of feed-forward layers: routing, dispatch, upcycling, and what the experts' load is.
Nothing here knows of speech, of data or of a training loop."""
