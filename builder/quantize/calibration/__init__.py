"""Calibration: text through the model, one decoder layer at a time, for the statistics that scales are made of."""
