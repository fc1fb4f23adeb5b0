"""Quality in numbers: mattes and seams against known truth, scenes against what was asked for."""
