"""Runs, from an experiment and a preset to records: the runner, and golden numbers that tell when a record is out of
date."""
