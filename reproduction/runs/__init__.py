"""From an experiment and a preset to records: presets, the runner, golden numbers."""
