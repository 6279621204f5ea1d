"""Deep features: the backbone that gives them, their normalisation, and their store on disk."""
