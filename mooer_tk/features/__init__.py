"""From audio to what models read: front ends, and the cache of a frozen encoder's states.
No trainable module and no text may live here."""
