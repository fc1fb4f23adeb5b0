"""Whether the demo's pictures show what was asked for."""
