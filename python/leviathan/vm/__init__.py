"""The life of one VM over many nodes."""
