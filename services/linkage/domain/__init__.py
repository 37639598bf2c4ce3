"""What linkage decides, without a database: pairs, the patients they make, and the states of a record. Pure."""
