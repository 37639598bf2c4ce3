"""From the bytes of producers' formats to the hub's events. Pure."""
