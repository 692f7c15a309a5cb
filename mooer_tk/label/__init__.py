"""Teachers that transcribe and translate untranscribed speech, and the report that says how well they did.
No training and no decoding with our own models may live here."""
