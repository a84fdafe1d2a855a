"""Building blocks of the six methods; one paper's idea a file."""
