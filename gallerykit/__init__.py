"""For galleries of embeddings: which model made them, what a change of model is worth, and a command that carries a
stored gallery over.

    gallerykit upgrade --old old.npy --new new.npy --gallery gallery.npy --out carried.npy
"""

from .maps import load_map

__all__ = ["load_map"]
