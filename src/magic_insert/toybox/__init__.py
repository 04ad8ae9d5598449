"""The Toybox: a small world with known answers, rendered with and without its subject in any drawing style."""
