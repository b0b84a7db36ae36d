"""Everything that runs, records and shows the two papers; built on the public names of ``compatkit``."""
