"""What every page is made of: templates with one style sheet, charts, and a small HTTP server."""
