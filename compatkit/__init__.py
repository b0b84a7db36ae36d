"""compatkit: train networks whose parts fit each other, recombine them, and measure how well they fit.

The modules stand in the order in which data flows: ``data`` and ``models``, ``normalization`` and ``objectives``,
``training``, ``recombination``, ``experiments``; beside them ``results``, ``figures`` and ``explorer``, which need no
torch. Nothing is imported here, so that a page of results opens without loading torch.
"""
