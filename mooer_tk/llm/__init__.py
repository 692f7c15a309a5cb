"""The language model, its LoRA, the prompt object and the whole speech LLM with its checkpoint.
No encoder code, no training loop and no beam search guards may live here."""
