"""Figures, tables and pickers, drawn from numbers. Nothing here imports torch."""
