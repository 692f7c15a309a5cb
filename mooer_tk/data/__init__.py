"""Kaldi data directories, audio files and shards: read, checked, mended and written atomically.
No model code, no features, no text normalisation may live here."""
