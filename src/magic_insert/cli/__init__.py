"""One short entry per job; importing any of them never imports torch."""
