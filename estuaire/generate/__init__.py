"""Made-up files and messages in the formats of real sources, the same for the same seed."""
