"""From states to text: generation with its guards, n-best lists, and decoding of whole directories and files.
No training and no scoring may live here."""
