"""The drag-and-drop page: shelves of pictures, one worker that places and redraws, a server for this machine alone."""
