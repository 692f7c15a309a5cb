"""What stands between encoder and LLM: the adapter, its CTC head over the LLM's embeddings, and the hand-over.
No encoder, no LLM code and no training loop may live here."""
