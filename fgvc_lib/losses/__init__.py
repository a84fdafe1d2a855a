"""Losses, one a file; each file needs torch only and can be copied into another project as it is."""
