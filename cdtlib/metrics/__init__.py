"""What is measured: distances between sets of pictures, the meaning of translations, and embeddings of them."""
