"""Ways to insert a subject that the evaluation compares."""
