"""One made-up declaration of each kind, as somebody would add it: a folder here for each registry's package."""
