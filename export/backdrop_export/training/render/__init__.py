"""Rendered pictures: scenes, products, palettes, captions."""
