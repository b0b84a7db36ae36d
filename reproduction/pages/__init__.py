"""Contents of the chapters: tables and explorers made from records, one module for each paper. Nothing here needs
torch."""
