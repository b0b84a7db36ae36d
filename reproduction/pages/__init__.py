"""What the chapters show: tables and explorers made from records, one module for each paper. Nothing here needs
torch."""
