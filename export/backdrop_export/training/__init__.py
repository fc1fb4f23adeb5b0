"""Training of the demo bundle on rendered pictures."""
