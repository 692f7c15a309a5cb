"""One module a command: options in, one call into the core, a line for the user out.
No modelling, scoring or data logic may live here."""
