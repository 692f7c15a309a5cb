"""Speech encoders behind one contract (base.py), named in one table (table.py); weights are converted here too.
No adapters, no language model, no training code may live here."""
