"""Evaluation of ranked lists in numpy: metrics, segments, intervals, significance."""
