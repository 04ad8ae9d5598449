"""Magic Insert: style-aware drag-and-drop, an open implementation (arXiv 2407.02489)."""

__version__ = "0.1.0"
