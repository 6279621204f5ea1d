"""Training: runs that are found, resumed or trained, and one module for each thing the paper trains."""
