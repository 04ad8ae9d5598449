"""Inserters: what gives a pasted subject its shadow, reflection and contact; one file each, class and settings."""
