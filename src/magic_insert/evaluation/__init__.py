"""Features, metrics, tables and pages that judge an insertion."""
