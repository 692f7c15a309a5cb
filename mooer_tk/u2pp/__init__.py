"""U2++: a Conformer encoder, CTC and two attention decoders, dense or with experts; trained, searched and streamed.
No language models, no adapters, and no feed-forward experts of its own (mooer_tk/moe) may live here."""
