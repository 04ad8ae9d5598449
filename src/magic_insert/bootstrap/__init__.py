"""Bootstrapped domain adaptation: rounds of removal, filtering and refitting."""
