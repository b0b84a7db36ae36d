"""compatkit: train networks whose parts fit each other, recombine them, and measure how well they fit.

The modules stand in the order in which data flows: ``data`` and ``models``, then ``batches``, ``normalization`` and
``objectives``, then ``training``, then side by side ``recombination``, ``similarity``, ``retrieval``, ``embedders`` and
``encoders``, then ``fct``, ``alignment`` and ``applications``, and at the end ``gallery``. Nothing is imported here, so
that what needs no torch opens without loading it.
"""
