"""The methods that the paper compares with (Tables 2 and 3), our own code from their published descriptions."""
