"""PMSI MCO: RSS with VID-HOSP, RSA with ANO."""
