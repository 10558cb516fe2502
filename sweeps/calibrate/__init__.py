"""Calibration workflows: measure, fit, validate against logs, report."""
