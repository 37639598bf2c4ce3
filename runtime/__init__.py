"""The loop every service runs in, and what surrounds it: mechanism only, no word of health."""
