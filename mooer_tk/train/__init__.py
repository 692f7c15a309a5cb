"""Training: examples and batches, schedules, the loop with its checkpoints, and the two objectives it can have.
No model definition and no scoring may live here."""
