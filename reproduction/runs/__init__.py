"""From an experiment and a preset to records: the runner, and golden numbers that say when a record is no longer what the code makes."""
