"""Engines execute validated code synchronously; the store awaits between their slices."""
