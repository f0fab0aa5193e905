"""References that are generated from the code: ``python -m docgen`` writes them."""
