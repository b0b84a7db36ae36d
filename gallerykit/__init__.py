"""For galleries of embeddings: which model made them, maps from an old model's space to a new one's, and a command that
carries a stored gallery over.

    python -m gallerykit upgrade --old old.npy --new new.npy --gallery gallery.npy --out carried.npy
"""

from .map_files import load_map

__all__ = ["load_map"]
