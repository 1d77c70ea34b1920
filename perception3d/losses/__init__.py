"""Losses and matching."""
