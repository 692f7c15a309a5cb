"""What turns references and hypotheses into numbers, intervals, tables and figures.
Nothing here loads a model, decodes audio or imports torch."""
