"""Data sets and samplers: pools of Toybox renders, subject images, pairs."""
