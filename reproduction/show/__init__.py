"""Figures, tables and explorers, drawn from numbers. Nothing here imports torch."""
