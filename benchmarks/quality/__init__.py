"""Quality in numbers: mattes, fringes and seams against known truth."""
