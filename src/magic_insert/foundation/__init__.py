"""How the micro model is made: a pool of Toybox renders, one fit per part, one folder in SDXL's format."""
