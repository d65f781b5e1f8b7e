"""Pairs of which the truth is known, to judge the pair maker by."""
