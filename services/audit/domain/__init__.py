"""The log as lines, its tree, its signed heads, and whether all of them agree. Pure."""
