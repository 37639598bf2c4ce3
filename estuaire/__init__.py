"""Estuaire on one machine, and the clients of a hub: the command line, a producer, a subscriber."""
