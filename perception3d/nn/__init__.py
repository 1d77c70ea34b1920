"""Blocks without an opinion: norms, attention, position codes, pyramid necks."""
