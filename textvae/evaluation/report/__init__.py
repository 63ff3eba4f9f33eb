"""The parts of `eval/report.py`: what is read, what is measured, the figures, the page."""
