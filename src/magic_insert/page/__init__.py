"""The drag-and-drop page: shelves of pictures, one worker that places and redraws, a server for this machine alone."""

import os

# A browser works beside it. A thread that waits for the other at the end of an operation then has to sleep: where it
# keeps its core, everything takes three times as long. Read when torch is loaded; no picture depends on it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
