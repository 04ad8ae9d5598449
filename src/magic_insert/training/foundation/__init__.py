"""Trains every part of the micro model on the Toybox, one small LightningModule a part."""
