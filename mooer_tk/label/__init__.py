"""Teachers that transcribe and translate untranscribed speech.
No training and no decoding with our own models may live here."""
