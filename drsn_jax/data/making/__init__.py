"""Pairs made from videos and photographs, written to disk. Uses all other parts of `data`."""
